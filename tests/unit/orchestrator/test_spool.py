"""The write-ahead queue of tracking records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.spool import MAIN, Artifact, Finish, Metrics, Spool, TrackingError


def metrics(step: int) -> Metrics:
    return Metrics(MAIN, step, time_ms=step, values={"loss": float(step)})


def test_records_leave_in_order_and_only_once(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for step in range(5):
            spool.append(metrics(step))
        first = spool.pending(limit=2)
        assert [record for record, _ in first] == [metrics(0), metrics(1)]
        spool.acknowledge(first[1][1], first[1][0])
        assert [record for record, _ in spool.pending(limit=9)] == [metrics(2), metrics(3), metrics(4)]
        assert spool.undelivered() == 3


def test_next_process_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.state.runs[MAIN] = "abc"
        spool.append(metrics(1))
        spool.append(Finish(MAIN, "FAILED", "naïve „reason“\nof two lines", 5))
        record, offset = spool.pending(1)[0]
        spool.acknowledge(offset, record)
    with Spool(tmp_path) as spool:
        assert spool.state.runs == {MAIN: "abc"}
        assert [record for record, _ in spool.pending(9)] == [Finish(MAIN, "FAILED", "naïve „reason“\nof two lines", 5)]
        assert len(spool.everything()) == 2


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(metrics(1))
    with (tmp_path / "records.jsonl").open("a") as log:
        log.write('{"kind": "Metrics", "run": "ma')
    with Spool(tmp_path) as spool:
        spool.append(metrics(2))
        assert [record for record, _ in spool.pending(9)] == [metrics(1), metrics(2)]


def test_staged_file_is_a_copy_that_goes_when_delivered(tmp_path: Path) -> None:
    source = tmp_path / "report.json"
    source.write_text("as logged")
    with Spool(tmp_path / "spool") as spool:
        one, two = spool.stage(source, "a/report.json"), spool.stage(source, "b/report.json")
        source.write_text("changed later")
        assert one != two
        assert (spool.folder / one).read_text() == "as logged"
        record = Artifact(MAIN, one, "a/report.json")
        spool.append(record)
        spool.acknowledge(spool.pending(1)[0][1], record)
        assert not (spool.folder / one).exists()
        assert (spool.folder / two).exists()


def test_missing_artifact_is_named(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool, pytest.raises(TrackingError, match=r"absent\.wav"):
        spool.stage(tmp_path / "absent.wav", "absent.wav")


def test_second_process_is_kept_out(tmp_path: Path) -> None:
    program = f"from pathlib import Path; from orchestrator.spool import Spool; Spool(Path({str(tmp_path)!r}))"
    with Spool(tmp_path):
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert other.returncode != 0
    assert "another process is delivering" in other.stderr


def test_record_after_the_end_is_an_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.close()
    with pytest.raises(TrackingError, match="finished"):
        spool.append(metrics(1))
