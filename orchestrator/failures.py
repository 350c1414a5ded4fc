"""What a user is told when a run or an evaluation ends by an error: what happened, where, and where the details are.

Neighbours: `conductor` notes on an error which stage raised it; `cli` and `eval_cli` print what `told` makes of it. Invariants: every
traceback is kept in a file, none is printed; an error that is not of our own is said to be unexpected.
"""

from __future__ import annotations

import traceback
from pathlib import Path

FAILURE_FILE = "failure.txt"
OURS = frozenset({"orchestrator", "rollout", "rewards", "actor"})  # packages whose errors have messages for users


def told(error: Exception, folder: Path) -> str:
    """The message, and where the traceback is: `folder`/failure.txt."""
    notes = getattr(error, "__notes__", ())
    where = "".join(f"{note}: " for note in notes if not str(error).startswith(note))
    text = f"{where}{type(error).__name__}: {error}" if str(error) else f"{where}{type(error).__name__}"
    if not is_expected(error):
        text = f"{text.rstrip('.')}. This should not happen; if it does again, report it with its traceback"
    kept = keep_traceback(error, folder)
    return f"{text}\ntraceback: {kept}" if kept else text


def is_expected(error: Exception) -> bool:
    """Whether somebody wrote the message for a user: our own errors do, and those of the operating system name file and cause."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in OURS


def keep_traceback(error: Exception, folder: Path) -> Path | None:
    """None where the folder is gone or can't be written."""
    path = folder / FAILURE_FILE
    try:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return None
    return path


def forget(folder: Path) -> None:
    """What an earlier attempt left, once it has succeeded."""
    (folder / FAILURE_FILE).unlink(missing_ok=True)
