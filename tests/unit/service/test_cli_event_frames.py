"""Server-sent events are read alike however the bytes arrive, and never end at a separator inside their data."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.service.sse import Frame, FrameReader
from orchestrator.service.text_lines import AGAIN, LineReader

WORD = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n\0"), max_size=8)
FRAMES = st.lists(st.tuples(st.integers(1, 10**15), st.sampled_from(["state", "update"]), WORD), max_size=6)


@settings(max_examples=50, deadline=None)
@given(FRAMES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(1, 7), min_size=1))
def test_frames_are_the_same_in_any_pieces(frames: list[tuple[int, str, str]], end: str, sizes: list[int]) -> None:
    lines = [
        line for id, kind, data in frames for line in (": ping", f"id: {id}-0", f"event: {kind}", f"data: {data}", "")
    ]
    body = "".join(line + end for line in lines).encode()
    reader, found, at, step = FrameReader(), [], 0, 0
    while at < len(body):
        size = sizes[step % len(sizes)]
        found += reader.feed(body[at : at + size])
        at, step = at + size, step + 1
    assert found == [Frame(f"{id}-0", kind, data) for id, kind, data in frames]
    assert reader.last_id == (f"{frames[-1][0]}-0" if frames else "")


def test_a_frame_cut_off_is_dropped_and_asked_for_again() -> None:
    reader = FrameReader()
    assert [frame.id for frame in reader.feed(b"id: 1-0\ndata: a\n\nid: 2-0\ndata: b\n")] == ["1-0"]
    assert reader.last_id == "1-0"
    reader.reconnected()
    assert reader.feed(b"id: 2-0\ndata: b\n\n") == [Frame("2-0", "message", "b")]


def test_data_over_lines_and_retry() -> None:
    reader = FrameReader()
    assert reader.feed("retry: 1500\ndata: a\u2028b\ndata:c\n\n".encode()) == [Frame("", "message", "a\u2028b\nc")]
    assert reader.retry_s == 1.5


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r")), st.integers(1, 5))
def test_lines_of_a_log_are_the_same_in_any_pieces(text: str, size: int) -> None:
    reader, found, body = LineReader(), [], text.encode()
    for at in range(0, len(body), size):
        found += reader.feed(body[at : at + size])
    assert [*found, reader.rest] == text.split("\n")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=4), st.integers(400, 500), st.integers(0, 3))
def test_a_log_is_whole_over_connections_that_break(cuts: list[int], count: int, torn: int) -> None:
    lines = [f"line {number}" for number in range(count)]
    reader, found = LineReader(), []
    for reached in [*sorted(cuts), count]:
        tail = reader.tail(None)
        begin = 0 if tail is None else max(0, reached - tail)
        body = "".join(f"{line}\n" for line in lines[begin:reached]).encode()
        found += reader.feed(body + (b"li" * torn if reached < count else b""))
        if reached < count:
            reader.reconnected()
    assert found + reader.end() == lines


def test_a_log_that_ran_on_too_far_goes_on_with_what_there_is() -> None:
    reader = LineReader()
    assert reader.feed(b"a\nb\n") == ["a", "b"]
    reader.reconnected()
    later = [f"later {number}" for number in range(AGAIN)]
    assert reader.feed("".join(f"{line}\n" for line in later).encode()) == later
