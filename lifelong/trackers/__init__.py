"""Trackers: what a run has on its ledger, shown where people watch their experiments.

Two things go to each tracker of the configuration's `report_to`. Training goes through Transformers' own integration,
a tracker run for each timestep. What a timestep led to (accuracy, forgetting, pool, seconds: `figures`) goes to a
tracker run of the whole lifelong run, with the timestep as its step.

The ledger is the truth and a tracker a copy: after each timestep, and at `lifelong resume`, whatever the ledger has and
the tracker has not is logged, and nothing twice. A tracker that fails costs a warning, never the run.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lifelong.errors import UsageError
from lifelong.trackers.figures import figures

if TYPE_CHECKING:
    from lifelong.context import Context, Stores
    from lifelong.trackers.base import Tracker

_PLACES = {
    "tensorboard": ("lifelong.trackers.tensorboard", "TensorBoard"),
    "mlflow": ("lifelong.trackers.mlflow", "MLflow"),
    "wandb": ("lifelong.trackers.dashboards", "Wandb"),
    "trackio": ("lifelong.trackers.dashboards", "Trackio"),
}
ROUNDING = 1e-6
"""Trackers may keep float32: a value this near (relative) is the same."""


def require(names: Sequence[str]) -> None:
    """Raises: UsageError naming the extra of the first tracker whose package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"report_to: {name} needs the package {name!r}: pip install 'lifelong[{name}]', or take it out of "
                "report_to in the run's config.yaml"
            )


def bring_in_line(stores: Stores, names: Sequence[str], say: Callable[[str], None]) -> None:
    """Log what the ledger has and a tracker has not; a tracker that fails is warned of and left for the next time."""
    wanted = figures(stores) if names else {}
    for name in names:
        try:
            tracker = open_tracker(name, stores)
            try:
                _log_missing(tracker, wanted)
            finally:
                tracker.close()
        except Exception as error:
            say(
                _warning(
                    name, error, "it is brought in line after the next timestep, or by `lifelong resume`"
                )
            )


@contextmanager
def training(context: Context) -> Iterator[list[Any]]:
    """Callbacks for transformers' Trainer, one of each tracker's own integration, for a timestep's training."""
    from lifelong.trackers.guard import Guarded

    callbacks: list[Any] = []
    with ExitStack() as stack:
        for name in context.config.report_to:
            try:
                tracker = open_tracker(name, context.stores)
                stack.callback(_quietly, tracker.close)
                callback, done = tracker.training(context.timestep)
            except Exception as error:
                context.progress.say(_warning(name, error, "this training is not shown there"))
                continue
            told = f"the rest of this training is not shown there; {context.root} itself is not affected"
            warn = lambda error, name=name, told=told: context.progress.say(_warning(name, error, told))  # noqa: E731
            callbacks.append(Guarded(callback, done, warn))
        yield callbacks


def open_tracker(name: str, stores: Stores) -> Tracker:
    """The tracker of that name, at the place of this run."""
    module, kind = _PLACES[name]
    tracker: Tracker = getattr(importlib.import_module(module), kind)(stores)
    return tracker


def _log_missing(tracker: Tracker, wanted: dict[int, dict[str, float]]) -> None:
    known = tracker.known()
    for step, values in sorted(wanted.items()):
        missing = {
            name: value
            for name, value in values.items()
            if not math.isclose(known.get((tracker.spelled(name), step), math.nan), value, rel_tol=ROUNDING)
        }
        if missing:
            tracker.log(step, {tracker.spelled(name): value for name, value in missing.items()})


def _quietly(close: Callable[[], None]) -> None:
    """A tracker that cannot be closed has been warned of, or has nothing left to say."""
    try:
        close()
    except Exception:
        return


def _warning(name: str, error: Exception, told: str) -> str:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"  warning: the tracker {name} failed ({first}): {told}"
