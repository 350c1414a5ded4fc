"""Many samples as one piece of bytes: fields column by column, a question that several samples share once.

Neighbours: `work` packs blocks, a scoring process opens them; a sample by itself travels as a line (`sample_wire`).
Invariants: opening gives what decoding each sample's line gives; sharing a question's dict is the opener's choice, since functions
may change it: `question` makes another one, `is_intact` tells whether one is as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, overload

import msgspec

from rewards.messages import Sample
from rewards.sample_wire import encode_sample


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """questions: JSON; places: of each sample's question among them; then the fields of Sample by name."""

    questions: list[bytes]
    places: list[int]
    trajectory_id: list[str]
    text: list[str]
    reasoning: list[str]
    reply: list[str]
    well_formed: list[bool]
    finished: list[bool]
    response_tokens: list[int]
    reasoning_tokens: list[int]


FIELDS = _Columns.__struct_fields__[2:]
_getters = [attrgetter(name) for name in FIELDS]
_question_of = attrgetter("question")
_setters: list[Callable[[Sample, Any], None]] = [vars(Sample)[name].__set__ for name in FIELDS]
_set_question: Callable[[Sample, dict[str, Any]], None] = vars(Sample)["question"].__set__
_new: Callable[[type[Sample]], Sample] = object.__new__
_packer = msgspec.msgpack.Encoder()
_opener = msgspec.msgpack.Decoder(_Columns)
_json = msgspec.json.Encoder()
_from_json = msgspec.json.Decoder(dict[str, Any])


def pack_block(samples: Sequence[Sample]) -> bytes:
    """Raises TypeError, ValueError or OverflowError for a sample that JSON can't hold."""
    questions = list(map(_question_of, samples))
    known: dict[int, int] = {}
    encoded: list[bytes] = []
    places = []
    for question in questions:
        place = known.get(id(question))
        if place is None:
            place = known[id(question)] = len(encoded)
            encoded.append(_json.encode(question))
        places.append(place)
    return _packer.encode([encoded, places, *(list(map(getter, samples)) for getter in _getters)])


class Block:
    """An opened block."""

    def __init__(self, packed: bytes | memoryview) -> None:
        """Raises msgspec.MsgspecError for what is not a block."""
        self._columns = _opener.decode(packed)

    def __len__(self) -> int:
        return len(self._columns.places)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """First sample, behind the last, and the question's place, of samples in a row with the same question."""
        places = self._columns.places
        start = 0
        for i in range(1, len(places) + 1):
            if i == len(places) or places[i] != places[start]:
                yield start, i, places[start]
                start = i

    def question(self, place: int) -> dict[str, Any]:
        """A dict of the caller's own."""
        return _from_json.decode(self._columns.questions[place])

    def is_intact(self, question: dict[str, Any], place: int) -> bool:
        """Whether a dict that `question` made still says the same. Raises what a foreign object in it raises."""
        return _json.encode(question) == self._columns.questions[place]

    def bare_samples(self) -> list[Sample]:
        """New samples, to be given a question each before anybody sees them (`give_question`).

        Fields are set column by column, at half the cost of the constructor; they are checked already.
        """
        made = [_new(Sample) for _ in self._columns.places]
        for name, setter in zip(FIELDS, _setters, strict=True):
            deque(map(setter, made, getattr(self._columns, name)), maxlen=0)
        return made

    def sample(self, index: int) -> Sample:
        """A sample of the caller's own."""
        fields = {name: getattr(self._columns, name)[index] for name in FIELDS}
        return Sample(question=self.question(self._columns.places[index]), **fields)

    def lines(self) -> list[bytes]:
        """Each sample as `encode_sample` makes it."""
        return [encode_sample(self.sample(i)) for i in range(len(self))]


class BlockLines(Sequence[bytes]):
    """The lines of a block's samples, made when the first is asked for."""

    def __init__(self, packed: bytes) -> None:
        self._block: Block | None = None
        self._packed = packed
        self._lines: list[bytes] = []

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return self._made()[index]

    def __len__(self) -> int:
        return len(self._made())

    def _made(self) -> list[bytes]:
        if self._block is None:
            self._block = Block(self._packed)
            self._lines = self._block.lines()
        return self._lines


def give_question(sample: Sample, question: dict[str, Any]) -> None:
    """Completes a sample of `bare_samples`."""
    _set_question(sample, question)
