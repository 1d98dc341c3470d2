"""Allocators: how a budget of samples is shared among clusters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.errors import PolicyError


def even(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Equal shares; a cluster smaller than its share gives all it has and larger ones take up the rest.

    sizes: (k,) samples per cluster; budget ≥ 0. Returns (k,) int64 quotas, none above its size, whose sum is
    exactly min(budget, Σ sizes); what does not divide goes one each to the largest.
    Source: Adapt-∞ (arXiv 2410.10636), budget per cluster.
    """
    sizes, remaining = _checked(sizes, budget)
    quotas = np.zeros_like(sizes)
    for left, cluster in zip(range(len(sizes), 0, -1), np.argsort(sizes, kind="stable"), strict=True):
        quotas[cluster] = min(int(sizes[cluster]), remaining // left)
        remaining -= int(quotas[cluster])
    return quotas


def smallest_first(sizes: np.ndarray, budget: int) -> np.ndarray:
    """From the smallest cluster to the largest, each gets what is left of the budget // clusters that are left.

    A cluster that is smaller than its quota gives all it has. These are the quotas of `even`, which visits
    the clusters so; same promises. Source: XMAS (arXiv 2510.01454), budget per cluster.
    """
    return even(sizes, budget)


def proportional(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Shares ∝ cluster size, by largest remainder. Same promises as `even`."""
    return weighted(sizes, budget, np.asarray(sizes, dtype=np.float64))


def weighted(sizes: np.ndarray, budget: int, weights: np.ndarray) -> np.ndarray:
    """Shares ∝ weight, by largest remainder; what a cluster cannot hold is shared by the others' weights.

    weights: (k,) ≥ 0, NaN counting as 0. Clusters without weight get something only when all that have some
    are exhausted; it is then shared evenly. Same promises as `even`. Raises PolicyError for other weights.
    """
    sizes, remaining = _checked(sizes, budget)
    weights = np.nan_to_num(np.asarray(weights, dtype=np.float64), nan=0.0, posinf=-1.0)
    if weights.shape != sizes.shape or (weights < 0).any():
        raise PolicyError(f"want one finite weight ≥ 0 for each of {len(sizes)} clusters, not {weights}")
    quotas = np.zeros_like(sizes)
    waiting = weights > 0
    while waiting.any() and remaining:
        scaled = weights[waiting] / weights[waiting].max()
        share = remaining * (scaled / scaled.sum())
        full = np.flatnonzero(waiting)[share >= sizes[waiting]]
        if not len(full):
            quotas[waiting] = _largest_remainder(share, remaining)
            return quotas
        quotas[full] = sizes[full]
        remaining -= int(sizes[full].sum())
        waiting[full] = False
    without = weights == 0
    quotas[without] = even(sizes[without], remaining)
    return quotas


def best(scores: Sequence[np.ndarray], budget: int) -> np.ndarray:
    """To each cluster as many as it has among the `budget` highest scores of all: one threshold for every cluster.

    scores: a row per cluster; NaN counts as lowest. Of equal scores at the threshold each cluster in turn
    gives one. Returns (k,) int64 quotas, Σ = min(budget, Σ sizes).
    """
    sizes, budget = _checked(np.array([len(row) for row in scores]), budget)
    values = np.concatenate(
        [np.zeros(0), *(np.sort(np.nan_to_num(row, nan=-np.inf))[::-1] for row in scores)]
    )
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.zeros(0, int), *(np.arange(size) for size in sizes)])
    taken = np.lexsort((cluster, place, -values))[:budget]
    return np.bincount(cluster[taken], minlength=len(sizes)).astype(np.int64)


def _largest_remainder(share: np.ndarray, total: int) -> np.ndarray:
    """Integers within one of `share` that sum to `total`; of equal remainders the larger share first."""
    whole = np.floor(share).astype(np.int64)
    order = np.lexsort((-share, np.round(whole - share, 9)))
    whole[order[: total - whole.sum()]] += 1
    return whole


def _checked(sizes: np.ndarray, budget: int) -> tuple[np.ndarray, int]:
    sizes = np.asarray(sizes, dtype=np.int64)
    if sizes.ndim != 1 or (sizes < 0).any():
        raise PolicyError(f"cluster sizes must be a row of integers ≥ 0, not {sizes}")
    if budget < 0:
        raise PolicyError(f"budget is {budget} samples; it must be 0 or more")
    return sizes, min(int(budget), int(sizes.sum()))


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What allocators may know of each cluster, (k,) arrays."""

    score_std: np.ndarray  # standard deviation of its scores
    mean_distance: np.ndarray  # mean distance of its samples to its centroid
    centroid_distance: np.ndarray  # mean distance of its centroid to the other centroids
    transferability: np.ndarray | None = (
        None  # mean cosine of its centroid to the others; None without centroids
    )
    density: np.ndarray | None = None  # mean Gaussian kernel between its samples; only for those who need it
    scores: Sequence[np.ndarray] | None = None  # the scores of each cluster's samples


class Allocator(ABC):
    """What fills the slot `budget`."""

    __slots__ = ()

    name: ClassVar[str]
    needs: ClassVar[
        tuple[str, ...]
    ] = ()  # facts that cost enough to be computed only for those who read them
    needs_vectors: ClassVar[bool] = False  # whether it cannot do without the recipe's vectors

    @abstractmethod
    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        """Quotas: (k,) int64, each at most its size, Σ = min(budget, Σ sizes)."""


@dataclass(frozen=True, slots=True)
class Even(Allocator):
    """Equal shares, shortfall spread over the larger clusters."""

    name: ClassVar[str] = "even"

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        return even(sizes, budget)


@dataclass(frozen=True, slots=True)
class SmallestFirst(Allocator):
    """From the smallest cluster on, what is left of the budget // clusters that are left. Source: XMAS."""

    name: ClassVar[str] = "smallest-first"

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        return smallest_first(sizes, budget)


@dataclass(frozen=True, slots=True)
class Proportional(Allocator):
    """Shares ∝ cluster size."""

    name: ClassVar[str] = "proportional"

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        return proportional(sizes, budget)


@dataclass(frozen=True, slots=True)
class Whole(Allocator):
    """The whole budget to the one cluster; of several, shares ∝ size."""

    name: ClassVar[str] = "whole"

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        return proportional(sizes, budget)


@dataclass(frozen=True, slots=True)
class All(Allocator):
    """Every sample, whatever the budget: the only allocator that may go above it."""

    name: ClassVar[str] = "all"

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        return _checked(sizes, budget)[0].copy()


@dataclass(frozen=True, slots=True)
class Spread(Allocator):
    """Shares ∝ standard deviation of the cluster's scores. Source: Adapt-∞ released code, score_weighted."""

    name: ClassVar[str] = "spread"

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        if facts is None:
            raise PolicyError("budget spread needs the scores of every cluster, and was given none")
        return weighted(sizes, budget, facts.score_std)


@dataclass(frozen=True, slots=True)
class Mean(Allocator):
    """Shares ∝ mean score of the cluster's samples, whatever its size: with EL2N, to what is known least.

    A mean below 0 counts as 0 unless `absolute`, and so does that of a cluster of which nothing can be judged.
    """

    name: ClassVar[str] = "mean"

    power: float = 1.0  # of the means: above 1 the shares differ more, 0 makes them even
    absolute: bool = False  # a mean below 0 counts as much as one above

    def __post_init__(self) -> None:
        if self.power < 0:
            raise PolicyError(f"power is {self.power}; it must be 0 or more")

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        if facts is None or facts.scores is None:
            raise PolicyError("budget mean needs the scores of every cluster, and was given none")
        means = [np.mean(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0 for row in facts.scores]
        weights = np.abs(means) if self.absolute else np.maximum(means, 0.0)
        return weighted(sizes, budget, weights**self.power)


@dataclass(frozen=True, slots=True)
class Density(Allocator):
    """Shares ∝ mean distance to the centroid × mean distance between centroids.

    Source: density-based pruning, Adapt-∞ released code, get_dbp_probs.
    """

    name: ClassVar[str] = "density"
    needs_vectors: ClassVar[bool] = True

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        if facts is None:
            raise PolicyError("budget density needs centroids: write e.g. vectors gradient · clusters kmeans")
        return weighted(sizes, budget, facts.mean_distance * facts.centroid_distance)


@dataclass(frozen=True, slots=True)
class Best(Allocator):
    """What each cluster has among the highest scores of all clusters: one threshold for all of them."""

    name: ClassVar[str] = "best"

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        if facts is None or facts.scores is None:
            raise PolicyError("budget best needs the scores of every cluster, and was given none")
        return best(facts.scores, budget)
