"""What a user sees while a run goes on: a rich display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

PLAIN_SECONDS = 10.0
"""At least this long between two plain lines of one phase."""
NOTE_SECONDS = 1.0
"""At least this long between two notes of how far a phase is."""


class Progress(Protocol):
    """Told what the run is doing. Every hook may do nothing."""

    def say(self, text: str) -> None:
        """One line worth reading."""

    def step(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units of `what`; total 0: not known."""


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        pass

    def step(self, what: str, done: int, total: int) -> None:
        pass


class Noting:
    """Passes everything on, and notes where the run can be watched how far a phase is.

    note: takes {"what", "done", "total", "at"}, at being seconds since 1970; {} where there is nothing to tell.
    """

    def __init__(self, shown: Progress, note: Callable[[dict[str, Any]], None]) -> None:
        self._shown = shown
        self._note = note
        self._noted = False
        self._last = time.monotonic()

    def say(self, text: str) -> None:
        if self._noted:
            self._note({})
        self._noted = False
        self._shown.say(text)

    def step(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= NOTE_SECONDS:
            self._last, self._noted = now, True
            self._note({"what": what, "done": done, "total": total, "at": time.time()})
        self._shown.step(what, done, total)


class Plain:
    """Plain lines, a few seconds apart: for files, pipes and CI."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._last: dict[str, float] = {}

    def say(self, text: str) -> None:
        self._last.clear()
        print(text, file=self.stream, flush=True)

    def step(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last.setdefault(what, now) >= PLAIN_SECONDS:
            self._last[what] = now
            print(
                f"    {what} {done}/{total}" if total else f"    {what} {done}", file=self.stream, flush=True
            )


class Terminal:
    """A bar for the phase that is running, finished phases above it."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None
        self._what = ""

    def say(self, text: str) -> None:
        self._clear()
        self._bars.console.print(text, highlight=False, markup=False)

    def step(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._clear()
            self._what, self._task = what, self._bars.add_task(what, total=total or None)
        self._bars.update(self._task, completed=done, total=total or None)

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._what, self._task = "", None


class Notebook:
    """A bar of tqdm for the phase that is running: a widget in a notebook where ipywidgets is installed."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def say(self, text: str) -> None:
        self._clear()
        print(text)

    def step(self, what: str, done: int, total: int) -> None:
        if self._bar is None or what != self._what:
            from tqdm.auto import tqdm

            self._clear()
            self._what, self._bar = what, tqdm(total=total or None, desc=what, leave=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.refresh()

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def as_asked(progress: Progress | bool | None) -> Progress:
    """True: what suits where we are; False: nothing; None: bars in a notebook, else nothing; or what was given."""
    if progress is None:
        progress = in_notebook()
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return Silent()
    return Notebook() if in_notebook() or sys.stderr.isatty() else Plain()


@contextmanager
def for_terminal(quiet: bool = False) -> Iterator[Progress]:
    """What suits the standard error stream."""
    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Plain()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("    {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            yield Terminal(bars)
