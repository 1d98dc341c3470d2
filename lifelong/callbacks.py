"""Hooks for those who want something of their own to happen while a run goes on. Every hook may do nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifelong.context import Feed
    from lifelong.run import Run
    from stores.ledger import PhaseRecord


class Callback:
    """Base of callbacks: `Run.open(folder, callbacks=[Mine()])`.

    A hook is called after what it tells of is committed, in the process that feeds. It may read the run
    (`run.curves()`, `run.why(…)`) and must not feed it. What it raises stops the timestep as an interrupt does:
    everything committed stays, and `resume` goes on after it; hooks that were called are not called again.
    """

    def on_timestep_begin(self, run: Run, timestep: int, feed: Feed) -> None:
        """A timestep begins, or goes on after it was stopped."""

    def on_phase_end(self, run: Run, timestep: int, record: PhaseRecord) -> None:
        """A phase is committed: its name, result and seconds. Phase "start" is timestep 0, before any training."""

    def on_evaluate(self, run: Run, timestep: int, accuracy: dict[str, float]) -> None:
        """Every skill was tested: skill → accuracy in [0, 1] after this timestep."""

    def on_timestep_end(self, run: Run, timestep: int) -> None:
        """All phases are committed."""

    def on_error(self, run: Run, timestep: int, error: BaseException) -> None:
        """The timestep stops with an error, Ctrl-C included, which is raised once this returns."""


class Callbacks:
    """Calls the callbacks of a run in their order."""

    def __init__(self, run: Run | None = None, callbacks: Iterable[Callback] = ()) -> None:
        self.run = run
        self.callbacks = tuple(callbacks)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one hook of each."""
        for callback in self.callbacks:
            getattr(callback, hook)(self.run, *arguments)

    def phase_ended(self, record: PhaseRecord) -> None:
        """Tell of a committed phase, and of what it evaluated."""
        self.call("on_phase_end", record.timestep, record)
        if record.phase == "evaluate" and self.callbacks:
            assert self.run is not None
            after = f" after {record.timestep}"
            values = record.result["skills"].items()
            accuracy = {name.removesuffix(after): value for name, value in values if name.endswith(after)}
            self.call("on_evaluate", record.timestep, accuracy)
