"""What a tracker offers."""

from __future__ import annotations

from typing import Any, Protocol

Known = dict[tuple[str, int], float]
"""(figure, step) → value, as a tracker holds them."""


class Tracker(Protocol):
    """A tracker at the place of one lifelong run."""

    def spelled(self, name: str) -> str:
        """A figure's name as this tracker takes it."""
        ...

    def known(self) -> Known:
        """Every figure that it holds of the lifelong run."""
        ...

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log figures of a timestep."""
        ...

    def training(self, timestep: int) -> tuple[Any, int]:
        """Transformers' callback for a timestep's training, and the training step up to which it has been told."""
        ...

    def close(self) -> None:
        """Send what is not sent yet."""
        ...
