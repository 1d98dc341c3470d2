"""Errors by who is at fault; the exit code of the command line follows from the class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

EXIT_DONE = 0
EXIT_INPUT = 1
EXIT_USAGE = 2
EXIT_RUN = 3
EXIT_GUARD = 4
EXIT_INTERRUPTED = 130


class LifelongError(Exception):
    """Base of the errors that a user can mend; the message names the thing, the place and the fix."""

    exit_code = EXIT_INPUT


class InputError(LifelongError):
    """A dataset, a stream file or a model is at fault."""

    exit_code = EXIT_INPUT


class ModelError(InputError):
    """The model is at fault: what one sample meets, all would."""


class UsageError(LifelongError):
    """The command or the configuration asks for something that does not exist."""

    exit_code = EXIT_USAGE


class RunError(LifelongError):
    """The run folder is locked, damaged or not a run."""

    exit_code = EXIT_RUN


class TrainingError(InputError):
    """Training cannot go on. items: those of the batch, or of the step, at which it stopped."""

    def __init__(self, fault: str, fix: str, step: int, items: Sequence[Any], where: str = "") -> None:
        self.fault, self.fix, self.step, self.items = fault, fix, step, list(items)
        super().__init__(f"{where}training step {step}: {fault}, on {_listed(self.items)}; {fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        # So that it can travel from the process that trains.
        return TrainingError, (self.fault, self.fix, self.step, self.items)


class GuardError(LifelongError):
    """A guard tripped. verdict: what was judged, as the ledger has it; undone: whether the timestep was taken back.

    source: the dataset that the timestep was fed.
    """

    exit_code = EXIT_GUARD

    def __init__(
        self, message: str, timestep: int, verdict: dict[str, Any], undone: bool, source: str
    ) -> None:
        self.timestep, self.verdict, self.undone, self.source = timestep, verdict, undone, source
        super().__init__(message)


def require_utf8(*names: Any) -> None:
    """Refuse names that no database, table or file of weights can hold. Raises: InputError."""
    for name in names:
        try:
            str(name).encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(name)!a} is not a name in UTF-8; rename it") from None


def _listed(items: Sequence[Any], most: int = 20) -> str:
    named = ", ".join(str(item) for item in items[:most])
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{'sample' if len(items) == 1 else 'samples'} {named}{more}"
