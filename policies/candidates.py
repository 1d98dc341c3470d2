"""Candidates: which samples of the pool compete for this timestep's budget, and in which groups."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from policies.errors import PolicyError


class Group(NamedTuple):
    """Samples that compete with one another for a budget of their own."""

    name: str
    mask: np.ndarray  # (n,) bool
    budget: int  # samples, never more than the mask holds


class Candidates(ABC):
    """What fills the slot `candidates`."""

    __slots__ = ()

    name: ClassVar[str]
    needs_past: ClassVar[bool] = False  # whether it asks what was trained on before

    @abstractmethod
    def groups(self, is_new: np.ndarray, budget: int, trained: np.ndarray | None = None) -> list[Group]:
        """Disjoint groups, none empty; budgets exact in sum.

        is_new: (n,) bool, this timestep's arrivals; trained: (n,) bool, what an earlier timestep trained on, for
        words that need it; None: nothing.
        """


@dataclass(frozen=True, slots=True)
class Pool(Candidates):
    """All that the pool holds, old and new alike."""

    name: ClassVar[str] = "pool"

    def groups(self, is_new: np.ndarray, budget: int, trained: np.ndarray | None = None) -> list[Group]:
        return _groups(budget, pool=(np.ones(len(is_new), dtype=bool), budget))


@dataclass(frozen=True, slots=True)
class New(Candidates):
    """This timestep's arrivals only."""

    name: ClassVar[str] = "new"

    def groups(self, is_new: np.ndarray, budget: int, trained: np.ndarray | None = None) -> list[Group]:
        return _groups(budget, new=(np.asarray(is_new, dtype=bool), budget))


@dataclass(frozen=True, slots=True)
class Replay(Candidates):
    """Old samples get a share of the budget and new ones the rest; what one lacks goes to the other."""

    name: ClassVar[str] = "replay"

    share: float = 0.5  # of the budget that goes to old samples, rounded half up

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise PolicyError(f"share is {self.share}; it lies between 0 and 1")

    def groups(self, is_new: np.ndarray, budget: int, trained: np.ndarray | None = None) -> list[Group]:
        new = np.asarray(is_new, dtype=bool)
        for_old = math.floor(budget * self.share + 0.5)
        old_quota = min(for_old, int((~new).sum()))
        new_quota = min(budget - old_quota, int(new.sum()))
        return _groups(budget, old=(~new, budget - new_quota), new=(new, new_quota))


@dataclass(frozen=True, slots=True)
class Fresh(Candidates):
    """Samples that no timestep trained on yet, old and new alike; the others only where these are too few."""

    name: ClassVar[str] = "fresh"
    needs_past: ClassVar[bool] = True

    def groups(self, is_new: np.ndarray, budget: int, trained: np.ndarray | None = None) -> list[Group]:
        again = np.zeros(len(is_new), dtype=bool) if trained is None else np.asarray(trained, dtype=bool)
        quota = min(budget, int((~again).sum()))
        if budget <= quota:
            return _groups(budget, fresh=(~again, quota))
        return _groups(budget, fresh=(~again, quota), again=(again, budget - quota))


def _groups(budget: int, **groups: tuple[np.ndarray, int]) -> list[Group]:
    if budget < 0:
        raise PolicyError(f"budget is {budget} samples; it must be 0 or more")
    return [
        Group(name, mask, min(quota, int(mask.sum()))) for name, (mask, quota) in groups.items() if mask.any()
    ]
