"""Starts: from which weights a timestep trains, and what it keeps of them. Declarations; the loop acts on them."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from policies.errors import PolicyError


class Start(ABC):
    """What fills the slot `start`."""

    __slots__ = ()

    name: ClassVar[str]
    from_base: ClassVar[bool]  # whether the adapter is made anew on the base model at every timestep

    def weight(self, timestep: int) -> float:
        """Of the trained weights in the adapter that timestep 1, 2, … keeps; the rest is of those it started from."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Continue(Start):
    """Training goes on from the adapter of the last timestep."""

    name: ClassVar[str] = "continue"
    from_base: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Base(Start):
    """A new adapter on the base model, as multitask training over all data so far would have it."""

    name: ClassVar[str] = "base"
    from_base: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Average(Start):
    """Training goes on from the adapter of the last timestep; the mean of it and the trained one is kept.

    The trained weights count `share`, those that they started from the rest (CoMA of Marouf et al., ECCV 2024,
    arXiv 2312.08977). Ours: in the run's first 1/share timesteps they count 1/t, so that the untrained adapter has no
    part in it: a plain mean at first, then one whose past fades. share 0: the plain mean of all timesteps. The two
    factors of a LoRA layer are averaged each by itself: that is the mean of the weights up to the product of changes.

    Raises: PolicyError if share is not in [0, 1].
    """

    share: float = 0.5

    name: ClassVar[str] = "average"
    from_base: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise PolicyError(f"start average: share is {self.share}; it must be in [0, 1]")

    def weight(self, timestep: int) -> float:
        return max(1 / timestep, self.share)
