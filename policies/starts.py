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
    rows: int = 0  # at most so many samples tell which of several weights is the best

    def weights(self, timestep: int) -> tuple[float, ...]:
        """Of the trained weights in the adapter that timestep 1, 2, … keeps; the rest is of those it started from.

        Where there are several, ascending, the one is kept that knows best what it was not trained on."""
        return (1.0,)


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

    def weights(self, timestep: int) -> tuple[float, ...]:
        return (max(1 / timestep, self.share),)


@dataclass(frozen=True, slots=True)
class LineSearch(Start):
    """Training goes on from the adapter of the last timestep; of the line from it to the trained one the best point is
    kept, told by samples that the run has not trained on.

    Tried are `points` weights of the trained adapter, 1/points, 2/points, … 1. They are told by the mean EL2N of the
    answers, each dataset of the pool counting alike: bounded, so that neither answers that are wrong nor an adapter
    that is too sure of itself decides it, as they would by their likelihood. rows: samples of the pool that tell, the
    same of each dataset; where all was trained on, and in the run's first timestep, the trained adapter is kept. Ours,
    after the interpolation of WiSE-FT (Wortsman et al., CVPR 2022, arXiv 2109.01903), which leaves the weight to the
    user. The factors of a LoRA layer are mixed each by itself, as in `average`.

    Raises: PolicyError if points is below 2 or rows below 1.
    """

    points: int = 4
    rows: int = 512

    name: ClassVar[str] = "line-search"
    from_base: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.points < 2:
            raise PolicyError(f"start line-search: points is {self.points}; it must be 2 or more")
        if self.rows < 1:
            raise PolicyError(f"start line-search: rows is {self.rows}; it must be 1 or more")

    def weights(self, timestep: int) -> tuple[float, ...]:
        if timestep == 1:
            return (1.0,)
        return tuple(point / self.points for point in range(1, self.points + 1))
