"""Engines: where the work of a timestep runs. The phases hand out work; only their process writes to the database.

`local` does everything in the process of the run; `ray` over the actors of a Ray cluster; `accelerate` over the
processes that torchrun or `accelerate launch` started. Results do not depend on the engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lifelong.engines.base import Engine, Job, Worker
from lifelong.engines.local import Local

if TYPE_CHECKING:
    from lifelong.context import ModelHolder

__all__ = ["Engine", "Job", "Local", "Worker", "open_engine"]


def open_engine(root: Path, models: ModelHolder) -> Engine:
    """The engine that the configuration of `models` names, for the run in `root`; it starts when it is first needed.

    Raises:
        UsageError: its package is not installed, or the process was not launched as it needs.
    """
    return Local(Worker.of_run(root, models))
