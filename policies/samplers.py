"""Samplers: which samples of a cluster, given their scores and its budget.

A score that is not finite counts as missing: such samples come last, in random order. Ties are broken by a
draw from the generator, never by position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from policies.allocators import even
from policies.errors import PolicyError

CUT = -1  # the stratum of a sample in a tail, or without a score
Ends = Literal["both", "high"]


def ccs(
    scores: np.ndarray,
    budget: int,
    rng: np.random.Generator,
    strata: int = 50,
    tails: float = 0.05,
    ends: Ends = "both",
) -> np.ndarray:
    """Coverage-centric sampling: the same number from every range of scores, extremes left out.

    scores: (n,). The lowest and the highest `tails` share of them are cut (5 % at EACH end), or the highest alone
    (ends="high": the paper's own rule, for scores that are high where an answer is wrong); between, equal-width
    `strata` share the budget evenly, what a small one lacks going to the larger; inside a stratum
    the choice is random, without replacement. Only where the budget asks for more than that are the tails
    drawn on (random), and last of all samples without a score.
    Returns (min(budget, n),) distinct indices, highest stratum first.
    Source: Zheng et al. 2023 (arXiv 2210.15809), as used by Adapt-∞ (arXiv 2410.10636).
    """
    scores = _checked(scores, budget)
    stratum = _strata(scores, strata, tails, ends)
    order = np.lexsort((rng.random(len(scores)), -stratum))
    inside = stratum[order] >= 0
    quotas = even(np.bincount(stratum[stratum >= 0], minlength=strata), budget)
    place = _place_in_run(stratum[order])  # 0, 1, 2 … within each stratum
    chosen = inside & (place < quotas[stratum[order]])
    rest = order[~inside]
    rest = rest[np.argsort(~np.isfinite(scores[rest]), kind="stable")]
    return np.concatenate([order[chosen], rest])[:budget]


def _strata(scores: np.ndarray, strata: int, tails: float, ends: Ends) -> np.ndarray:
    """(n,) int32 stratum of every score, 0 the lowest; CUT in the tails and where missing.

    Scores equal to the last one that is kept are kept too, so a constant is never cut away.
    """
    stratum = np.full(len(scores), CUT, dtype=np.int32)
    ranked = np.sort(scores[np.isfinite(scores)])
    if len(ranked):
        cut = int(len(ranked) * tails)
        low, high = ranked[cut if ends == "both" else 0], ranked[len(ranked) - 1 - cut]
        kept = (scores >= low) & (scores <= high)
        width = (high - low) or 1.0
        stratum[kept] = np.minimum((scores[kept] - low) / width * strata, strata - 1).astype(np.int32)
    return stratum


def _place_in_run(values: np.ndarray) -> np.ndarray:
    """Position of every element within its run of equal neighbours: [7 7 3 3 3] → [0 1 0 1 2]."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]]) if len(values) else np.zeros(0, int)
    return np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))


def _ranked(keys: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """The `budget` indices with the smallest keys, missing ones last, ties broken at random."""
    missing = ~np.isfinite(keys)
    return np.lexsort((rng.random(len(keys)), np.where(missing, 0.0, keys), missing))[:budget]


def _checked(scores: np.ndarray, budget: int) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise PolicyError(f"scores are {scores.shape}; want one per sample, (n,)")
    if budget < 0:
        raise PolicyError(f"budget is {budget} samples; it must be 0 or more")
    return scores


def with_vectors(
    sampler: str, scores: np.ndarray, budget: int, signals: Mapping[str, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) float64 and vectors (n, d), for samplers that need both. Raises PolicyError without vectors."""
    scores = _checked(scores, budget)
    vectors = (signals or {}).get("vectors")
    if vectors is None or vectors.ndim != 2 or len(vectors) != len(scores):
        found = "none" if vectors is None else f"{vectors.shape}"
        raise PolicyError(
            f"sample {sampler} needs a vector for each of {len(scores)} samples; there are {found}"
        )
    return scores, vectors


class Sampler(ABC):
    """What fills the slot `sample`."""

    __slots__ = ()

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()  # signals that `pick` reads

    @abstractmethod
    def pick(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """(min(budget, n),) distinct int64 indices in order of rank, the first choice first.

        scores: (n,) of one cluster; signals: what `needs` names, rows as those of the scores.
        """

    def strata_of(self, scores: np.ndarray) -> np.ndarray | None:
        """(n,) int32 stratum of every sample, CUT (-1) outside all; None for samplers without strata."""
        return None

    def pick_told(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What `pick` gives, and the strata; for samplers whose strata come about as they pick."""
        return self.pick(scores, budget, rng, signals), self.strata_of(scores)

    def tell(self, stratum: int) -> str:
        """What it means to be picked from a stratum, in words for the decisions; "" if there is no more to say."""
        return ""


@dataclass(frozen=True, slots=True)
class CCS(Sampler):
    """Coverage-centric: tails cut, then the same number from every range of scores."""

    name: ClassVar[str] = "ccs"

    strata: int = 50  # equal-width ranges of score
    tails: float = 0.05  # share of the scores cut at each end
    ends: Ends = "both"  # high: the highest scores alone are cut

    def __post_init__(self) -> None:
        if self.strata < 1 or not 0 <= self.tails < 0.5:
            raise PolicyError("strata must be 1 or more, tails at least 0 and under 0.5")

    def pick(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        return ccs(scores, budget, rng, self.strata, self.tails, self.ends)

    def strata_of(self, scores: np.ndarray) -> np.ndarray | None:
        return _strata(np.asarray(scores, dtype=np.float64), self.strata, self.tails, self.ends)


@dataclass(frozen=True, slots=True)
class Top(Sampler):
    """The highest scores."""

    name: ClassVar[str] = "top"

    def pick(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        return _ranked(-_checked(scores, budget), budget, rng)


@dataclass(frozen=True, slots=True)
class Bottom(Sampler):
    """The lowest scores."""

    name: ClassVar[str] = "bottom"

    def pick(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        return _ranked(_checked(scores, budget), budget, rng)


@dataclass(frozen=True, slots=True)
class Middle(Sampler):
    """The scores nearest to the median by rank: a window in the middle of the sorted scores."""

    name: ClassVar[str] = "middle"

    def pick(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        scores = _checked(scores, budget)
        ranked = _ranked(scores, len(scores), rng)
        distance = np.full(len(scores), np.nan)
        count = int(np.isfinite(scores).sum())
        distance[ranked[:count]] = np.abs(np.arange(count) - (count - 1) / 2)
        return _ranked(distance, budget, rng)


@dataclass(frozen=True, slots=True)
class Random(Sampler):
    """Any of them, whatever the scores."""

    name: ClassVar[str] = "random"

    def pick(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        return rng.permutation(len(_checked(scores, budget)))[:budget]
