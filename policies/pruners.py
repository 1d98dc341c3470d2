"""Pruners: what leaves the pool for good."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from policies.allocators import even
from policies.arrays import check_rows, members
from policies.cells import NONE
from policies.errors import PolicyError
from policies.neighbours import NOTHING_EARLIER, nearest_earlier
from policies.threads import one_thread


@dataclass(frozen=True, slots=True)
class Pruned:
    """What stays, and for every sample the earlier one that it repeats most."""

    kept: np.ndarray  # (n,) bool
    neighbour: np.ndarray  # (n,) int64 row of that earlier sample of its cluster; -1: none
    similarity: np.ndarray  # (n,) float32 cosine to it; -1 where there is none; NaN where not measured


def semdedup(
    vectors: np.ndarray,
    clusters: np.ndarray,
    keep: int | np.ndarray,
    *,
    block: int = 4096,
    threshold: float | None = None,
    order: np.ndarray | None = None,
) -> Pruned:
    """Keep the samples least like an EARLIER sample of their cluster, rows being in order of arrival.

    Another `order`, (n,) with the earliest lowest, may be given; of equals the first to arrive is earlier.

    vectors: (n, d), possibly memory-mapped; clusters: (n,) integer labels; keep: how many stay, in all
    (shared over the clusters by `even`) or per cluster, (k,) in ascending order of label. Of equal
    similarities the earlier sample stays. With a `threshold`, samples more similar than it go even where
    there is room. Exact, in memory O(block² + block × d + n); zero vectors have similarity 0 to anything.
    Raises PolicyError for shapes that do not fit, or a vector that is not finite (the first is named).
    Source: Abbas et al. 2023 (arXiv 2303.09540), as used by Adapt-∞ (arXiv 2410.10636), permanent pruning.
    """
    n = len(vectors)
    if vectors.ndim != 2 or np.shape(clusters) != (n,) or block < 1:
        raise PolicyError(f"semdedup: vectors {vectors.shape}, clusters {np.shape(clusters)}, block {block}")
    neighbour = np.full(n, NONE, dtype=np.int64)
    similarity = np.full(n, NOTHING_EARLIER, dtype=np.float32)
    _, labels = np.unique(clusters, return_inverse=True)
    check_rows(vectors, "semdedup", zeros=True)
    place = np.arange(n) if order is None else np.argsort(np.argsort(order, kind="stable"), kind="stable")
    with one_thread():
        for _, rows in members(labels):
            ordered = rows[np.argsort(place[rows], kind="stable")]
            neighbour[ordered], similarity[ordered] = nearest_earlier(vectors, ordered, block)
    redundant = similarity > (np.inf if threshold is None else threshold)
    kept = _keep_lowest(np.where(redundant, np.inf, similarity), labels, keep, place)
    return Pruned(kept, neighbour, similarity)


def _keep_lowest(
    redundancy: np.ndarray, labels: np.ndarray, keep: int | np.ndarray, place: np.ndarray
) -> np.ndarray:
    """(n,) bool: in each cluster the lowest, of equals the earliest, up to its share; infinite ones never."""
    k = int(labels.max(initial=-1)) + 1
    room = np.bincount(labels[np.isfinite(redundancy)], minlength=k)
    if np.ndim(keep) == 0:
        quotas = even(room, int(keep))
    elif np.shape(keep) == (k,) and (np.asarray(keep) >= 0).all():
        quotas = np.minimum(keep, room)
    else:
        raise PolicyError(f"keep is {keep}; want a number of samples, or {k} of them: one per cluster")
    order = np.lexsort((place, redundancy, labels))
    first = np.searchsorted(labels[order], np.arange(k))
    kept = np.zeros(len(labels), dtype=bool)
    kept[order] = np.arange(len(labels)) - first[labels[order]] < quotas[labels[order]]
    return kept


class Pruner(ABC):
    """What fills the slot `prune`.

    `within` names the groups that share the room of the pool evenly: the pseudo-skills of this timestep
    (cluster), or the datasets (source), or none (pool). Clusters are found anew at every timestep, so what is
    old shares its room with what arrives and is cut again and again; a dataset keeps its own.
    """

    __slots__ = ()

    name: ClassVar[str]
    needs_vectors: ClassVar[bool] = False  # whether it cannot do without the recipe's vectors

    @property
    def within(self) -> Literal["pool", "cluster", "source"]:
        """Whose share of the room a sample takes."""
        return "cluster"

    @abstractmethod
    def prune(
        self, vectors: np.ndarray | None, labels: np.ndarray, keep: int, rng: np.random.Generator
    ) -> Pruned:
        """vectors: (n, d) or None, rows in order of arrival; labels: (n,) group; keep: at most so many in all."""


@dataclass(frozen=True, slots=True)
class NoPruning(Pruner):
    """Everything stays, whatever the pool's size."""

    name: ClassVar[str] = "none"
    within: ClassVar[Literal["pool"]] = "pool"

    def prune(
        self, vectors: np.ndarray | None, labels: np.ndarray, keep: int, rng: np.random.Generator
    ) -> Pruned:
        return _unmeasured(np.ones(len(labels), dtype=bool))


@dataclass(frozen=True, slots=True)
class SemDeDup(Pruner):
    """The samples most like an earlier one of their group go. Nothing is measured while there is room."""

    name: ClassVar[str] = "semdedup"
    needs_vectors: ClassVar[bool] = True

    within: Literal["cluster", "source"] = "cluster"  # source: of their dataset
    threshold: float | None = None  # cosine above which a sample goes even where there is room

    def __post_init__(self) -> None:
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise PolicyError(f"threshold is {self.threshold}; a cosine lies between -1 and 1")

    def prune(
        self, vectors: np.ndarray | None, labels: np.ndarray, keep: int, rng: np.random.Generator
    ) -> Pruned:
        if vectors is None:
            raise PolicyError("semdedup needs sample vectors and there are none: write e.g. vectors gradient")
        if keep >= len(labels) and self.threshold is None:
            return _unmeasured(np.ones(len(labels), dtype=bool))
        return semdedup(vectors, labels, keep, threshold=self.threshold)


@dataclass(frozen=True, slots=True)
class RandomPruning(Pruner):
    """Any of them go; `within` a cluster or a source, of each as many as do not find room."""

    name: ClassVar[str] = "random"

    within: Literal["pool", "cluster", "source"] = "pool"

    def prune(
        self, vectors: np.ndarray | None, labels: np.ndarray, keep: int, rng: np.random.Generator
    ) -> Pruned:
        if keep < 0:
            raise PolicyError(f"keep is {keep} samples; it must be 0 or more")
        n = len(labels)
        drawn = np.empty(n)
        drawn[rng.permutation(n)] = np.arange(n)
        return _unmeasured(_keep_lowest(drawn, np.unique(labels, return_inverse=True)[1], keep, drawn))


def _unmeasured(kept: np.ndarray) -> Pruned:
    n = len(kept)
    return Pruned(kept, np.full(n, -1, dtype=np.int64), np.full(n, np.nan, dtype=np.float32))
