"""Weights & Biases and Trackio, which have the same interface: a process has one run at a time, rows go forward only.

Neither can be asked, offline, what it holds. The ledger keeps the last timestep that was handed over, which is set
after the hand-over: a crash between the two hands a timestep over twice, under the same step, where both keep one row.
A skill that becomes known late has its figures of earlier timesteps in the other trackers only.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from lifelong.trackers.base import Known

if TYPE_CHECKING:
    from lifelong.context import Stores

PROJECT = "lifelong"


class Dashboard:
    """A run for the lifelong run, and one of the same group for each training."""

    name = ""
    project_variable = ""

    def __init__(self, stores: Stores) -> None:
        self.module: Any = importlib.import_module(self.name)
        self.ledger = stores.ledger
        self.run_id: str = stores.ledger.get_meta("run_id")
        self.label = stores.root.resolve().name
        self.folder = stores.root
        self.project = os.environ.get(self.project_variable) or PROJECT
        self._key = f"tracked/{self.name}"
        self._open = False

    def spelled(self, name: str) -> str:
        return name

    def known(self) -> Known:
        return {}

    def log(self, step: int, values: dict[str, float]) -> None:
        if step <= self.ledger.get_meta(self._key, -1):
            return
        if not self._open:
            self._start(self.run_id, self.label)
        self.module.log(values, step=step)
        self.ledger.set_meta(self._key, step)

    def training(self, timestep: int) -> tuple[Any, int]:
        self._start(f"{self.run_id}-{timestep:04d}", f"{self.label} timestep {timestep}")
        return self._callback(), 0

    def close(self) -> None:
        if self._open:
            self.module.finish()
            self._open = False

    def _start(self, run_id: str, label: str) -> None:
        raise NotImplementedError

    def _callback(self) -> Any:
        raise NotImplementedError


class Wandb(Dashboard):
    """Project of WANDB_PROJECT, else `lifelong`; files in the run's folder; WANDB_MODE=offline sends nothing."""

    name = "wandb"
    project_variable = "WANDB_PROJECT"

    def training(self, timestep: int) -> tuple[Any, int]:
        callback, _ = super().training(timestep)
        return callback, int(self.module.run.summary.get("train/global_step") or 0)

    def _start(self, run_id: str, label: str) -> None:
        folder = self.folder / "tracking"
        folder.mkdir(exist_ok=True)
        self.module.init(
            project=self.project, id=run_id, name=label, group=self.run_id, resume="allow", dir=str(folder)
        )
        self._open = True

    def _callback(self) -> Any:
        from transformers.integrations import WandbCallback

        return WandbCallback()


class Trackio(Dashboard):
    """Project of TRACKIO_PROJECT, else `lifelong`, in Trackio's own place on this machine."""

    name = "trackio"
    project_variable = "TRACKIO_PROJECT"

    def _start(self, run_id: str, label: str) -> None:
        self.module.init(project=self.project, name=label, group=self.run_id, resume="allow")
        self._open = True

    def _callback(self) -> Any:
        from transformers.integrations import TrackioCallback

        callback = TrackioCallback()
        # Its own start would open a run under another name.
        callback._initialized = True
        return callback
