"""Progress a person can follow: a bar a stage on a terminal, a line now and then in a log file.

Neighbours: stages and `parts` advance bars, `cli` picks the console. Invariant: output only; nothing reads it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestrator.observer import Nobody, Observer

Advance = Callable[..., None]
LOG_EVERY_S = 20.0  # without a terminal: at most one line per bar in this time


class ProgressView:
    """Bars on `console`; with a plain file as output, occasional lines instead. observer: told the notes."""

    def __init__(self, console: Console, enabled: bool = True, observer: Observer | None = None) -> None:
        self.console = console
        self.enabled = enabled
        self._observer = observer or Nobody()

    def note(self, text: str) -> None:
        self._observer.note(text)
        if self.enabled:
            self.console.print(text, highlight=False)

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Advance]:
        """Yields `advance(steps, text="")`."""
        if not self.enabled:
            yield lambda steps=1, text="": None
            return
        if not self.console.is_terminal:
            with self._lines(name, total) as advance:
                yield advance
            return
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=total, text="")

            def advance(steps: int = 1, text: str = "") -> None:
                if text:
                    progress.update(task, text=text)
                progress.advance(task, steps)

            yield advance

    @contextmanager
    def _lines(self, name: str, total: int) -> Iterator[Advance]:
        start = last = time.monotonic()
        done = 0
        note = ""

        def advance(steps: int = 1, text: str = "") -> None:
            nonlocal done, last, note
            done += steps
            note = text or note
            now = time.monotonic()
            if now - last >= LOG_EVERY_S:
                last = now
                self.note(f"{name}: {done}/{total} after {now - start:.0f} s  {note}")

        yield advance
        self.note(f"{name}: {done}/{total} in {time.monotonic() - start:.1f} s  {note}")
