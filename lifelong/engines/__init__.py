"""Engines: where the work of a timestep runs. The phases hand out work; only their process writes to the database.

`local` does everything in the process of the run; `ray` over the actors of a Ray cluster; `accelerate` over the
processes that torchrun or `accelerate launch` started. Results do not depend on the engine.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.errors import UsageError

if TYPE_CHECKING:
    from lifelong.context import ModelHolder
    from lifelong.engines.base import Engine, Job, Worker
    from lifelong.engines.local import Local

__all__ = ["Engine", "Job", "Local", "Worker", "open_engine"]

_PLACES = {"Engine": "base", "Job": "base", "Worker": "base", "Local": "local"}


def __getattr__(name: str) -> Any:
    # Lazy: the command line asks for `launch` alone, and its help should not wait for the stores.
    if name in _PLACES:
        return getattr(import_module(f"lifelong.engines.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'lifelong.engines' has no attribute {name!r}")


def open_engine(root: Path, models: ModelHolder) -> Engine:
    """The engine that the configuration of `models` names, for the run in `root`; it starts when it is first needed.

    Raises:
        UsageError: its package is not installed, the process was not launched as it needs, or the workers are not as
            many as `train.parts`.
    """
    from lifelong.engines.base import Worker
    from lifelong.engines.launch import joined
    from lifelong.engines.local import Local

    kind, launch = models.config.engine, joined()
    workers = models.config.cluster.workers if kind == "ray" else launch.size if launch else 1
    if models.config.train.parts > 1 and workers not in (1, models.config.train.parts):
        raise UsageError(
            f"train.parts is {models.config.train.parts} and {workers} workers would share the training; "
            "set it to their number, or to 1 and results differ by rounding"
        )
    if kind == "ray":
        from lifelong.engines.ray import RayEngine

        return RayEngine(root, models)
    if launch is not None and launch.size > 1:
        if kind != "accelerate":
            raise UsageError(
                f"{launch.size} processes were launched, and the configuration says engine: {kind}; "
                "pass --engine accelerate, or start one process without a launcher"
            )
        from lifelong.engines.distributed import Ranks

        return Ranks(root, models, launch)
    if kind == "accelerate" and launch is None:
        raise UsageError(
            "engine: accelerate shares the work of processes that a launcher starts: "
            "torchrun --nproc-per-node N -m lifelong …, or accelerate launch -m lifelong …"
        )
    return Local(Worker.of_run(root, models))
