"""TensorBoard: event files in the run's `tracking/tensorboard`, or under TENSORBOARD_LOGGING_DIR."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.trackers.base import Known

if TYPE_CHECKING:
    from lifelong.context import Stores


class TensorBoard:
    """`curves/` holds the figures, `timestep-0001/` … the trainings; each is a run in TensorBoard's list."""

    def __init__(self, stores: Stores) -> None:
        place = os.environ.get("TENSORBOARD_LOGGING_DIR")
        own = stores.root / "tracking" / "tensorboard"
        self.folder = Path(place).expanduser() / stores.ledger.get_meta("run_id") if place else own
        self._writer: Any = None

    def spelled(self, name: str) -> str:
        return name

    def known(self) -> Known:
        return _scalars(self.folder / "curves")

    def log(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            self._writer = _writer(self.folder / "curves")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def training(self, timestep: int) -> tuple[Any, int]:
        from transformers.integrations import TensorBoardCallback

        folder = self.folder / f"timestep-{timestep:04d}"
        done = max((step for _, step in _scalars(folder)), default=0)
        return TensorBoardCallback(tb_writer=_writer(folder)), done

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=str(folder))


def _scalars(folder: Path) -> Known:
    """What the event files of a folder hold; a file that a crash cut off counts up to there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        (tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)
    }
