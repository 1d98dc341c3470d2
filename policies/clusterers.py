"""Clusters: pseudo-skills, found among the sample vectors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from policies.arrays import blocks, check_rows, unit_rows
from policies.errors import PolicyError
from policies.threads import one_thread

_TRAINING = 12288  # vectors that centroids are trained on, at most; more where k asks for more
_SEEDING = 4096  # points that k-means++ chooses among; 8 per cluster where that is more
_BETWEEN = 2  # iterations of Lloyd's algorithm between two looks at the objective
_SETTLED = 1e-3  # of the objective: a smaller change ends them
_NOISE = np.float32(1e-6)  # of squared distances in float32, relative to the largest squared length
_SEARCHED = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Clusters:
    """A partition of n samples into k clusters, none of them empty."""

    labels: np.ndarray  # (n,) int32 in 0..k-1
    centroids: np.ndarray | None  # (k, d) float32
    objective: float  # within-cluster sum of squared distances; 0 where nothing was minimised
    tried: dict[int, float] = field(default_factory=dict)  # k → objective, of every k that was tried


class Clusterer(ABC):
    """What fills the slot `clusters`."""

    __slots__ = ()

    name: ClassVar[str]
    needs_vectors: ClassVar[bool] = False  # whether it cannot do without the recipe's vectors

    @abstractmethod
    def cluster(self, vectors: np.ndarray | None, n: int, rng: np.random.Generator) -> Clusters:
        """vectors: (n, d) float16 or float32, possibly memory-mapped; None where the recipe has none."""


@dataclass(frozen=True, slots=True)
class One(Clusterer):
    """All samples in one cluster."""

    name: ClassVar[str] = "one"

    def cluster(self, vectors: np.ndarray | None, n: int, rng: np.random.Generator) -> Clusters:
        return Clusters(np.zeros(n, dtype=np.int32), None, 0.0)


@dataclass(frozen=True, slots=True)
class KMeans(Clusterer):
    """k-means on the sample vectors (faiss), the same for a given generator on any number of threads.

    It is trained on k × `points` vectors drawn at random, but on 12288 where that is more and there are as many,
    from greedy k-means++ seeds until the objective settles; every vector is then assigned, a block at a time.
    `k=auto` (or 0) searches k among 2, 3, 4, 6, 8, 12 … 64, none above √n: the curve of within-cluster sum of
    squares against log k, from k = 1 on, is scaled to the unit square, and the k furthest below its chord (the
    elbow) is taken. Source: Adapt-∞ (arXiv 2410.10636) clusters gradients with k = 10 and searches k with the
    within-cluster sum of squares; the elbow rule is ours. `k=root` is √n.
    """

    name: ClassVar[str] = "kmeans"
    needs_vectors: ClassVar[bool] = True

    k: int | Literal["auto", "root"] = 10  # number of clusters, or auto, or root: √n
    spherical: bool = True  # vectors and centroids on the unit sphere: clusters by cosine
    iterations: int = 20  # of Lloyd's algorithm, at most
    points: int = 64  # training vectors per cluster, where that is more than 12288 in all
    merge: int = 0  # clusters of at most so many samples are merged into the nearest
    size: int = 0  # k is raised until clusters hold so many samples on average; 0: it stays

    def __post_init__(self) -> None:
        if isinstance(self.k, int) and self.k < 0:
            raise PolicyError(f"k is {self.k}; write 1 or more, or auto, or root")
        if self.iterations < 1 or self.points < 1 or self.merge < 0 or self.size < 0:
            raise PolicyError("iterations and points must be 1 or more, merge and size 0 or more")

    def cluster(self, vectors: np.ndarray | None, n: int, rng: np.random.Generator) -> Clusters:
        """Raises PolicyError without vectors, or for a row that is not finite.

        A zero row has no direction; it joins whichever cluster is nearest to the origin.
        """
        if vectors is None:
            raise PolicyError("kmeans needs sample vectors and there are none: write e.g. vectors gradient")
        if vectors.ndim != 2 or len(vectors) != n:
            raise PolicyError(f"kmeans: vectors are {vectors.shape}, samples are {n}; want ({n}, d)")
        if n == 0:
            return Clusters(np.zeros(0, dtype=np.int32), np.zeros((0, vectors.shape[1]), np.float32), 0.0)
        check_rows(vectors, "kmeans", zeros=True)
        with one_thread():
            k, tried = self._search(vectors, rng) if self.k in ("auto", 0) else (self._count(n), {})
            labels, objective = self._assign(vectors, centroids := self._fit(vectors, k, rng))
        used, dense = np.unique(labels, return_inverse=True)
        found = Clusters(dense.astype(np.int32), centroids[used], objective, tried | {k: objective})
        return self._merged(found, vectors) if self.merge else found

    def _count(self, n: int) -> int:
        k = math.isqrt(n) if self.k == "root" else int(self.k)
        return min(max(k, n // self.size if self.size else 0), n)

    def _merged(self, found: Clusters, vectors: np.ndarray) -> Clusters:
        """The smallest cluster joins the one with the nearest centroid, until none is too small."""
        assert found.centroids is not None
        centroids, sizes = found.centroids.astype(np.float64), np.bincount(found.labels)
        joined = np.arange(len(sizes))
        while np.count_nonzero(sizes) > 1 and sizes[small := _smallest(sizes)] <= self.merge:
            distances = np.linalg.norm(centroids - centroids[small], axis=1)
            distances[(sizes == 0) | (np.arange(len(sizes)) == small)] = np.inf
            target = int(distances.argmin())
            both = sizes[[small, target]]
            centroids[target] = both @ centroids[[small, target]] / both.sum()
            if self.spherical:
                centroids[target] = unit_rows(centroids[target : target + 1])[0]
            joined[joined == small] = target
            sizes[[small, target]] = 0, both.sum()
        used, dense = np.unique(joined[found.labels], return_inverse=True)
        kept = centroids[used].astype(np.float32)
        objective = sum(
            float(
                np.square(self._read(block) - kept[dense[start : start + len(block)]], dtype=np.float64).sum()
            )
            for start, block in blocks(vectors)
        )
        return Clusters(dense.astype(np.int32), kept, objective, found.tried)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return unit_rows(rows) if self.spherical else np.ascontiguousarray(rows, dtype=np.float32)

    def _fit(self, vectors: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
        """Centroids: (k, d) float32."""
        import faiss

        n, d = vectors.shape
        chosen = rng.choice(n, min(n, max(_TRAINING, k * self.points)), replace=False)
        training = self._read(vectors[chosen])
        model = faiss.Kmeans(
            d,
            k,
            seed=int(rng.integers(2**31)),
            spherical=self.spherical,
            min_points_per_centroid=1,
            max_points_per_centroid=len(training),
        )
        few = training[: max(_SEEDING, 8 * k)]
        centroids, before = few[_plus_plus(few, k, rng)], np.inf
        for done in range(0, self.iterations, _BETWEEN):
            model.cp.niter = min(_BETWEEN, self.iterations - done)
            objective = model.train(training, init_centroids=centroids)
            centroids = np.asarray(model.centroids, dtype=np.float32)
            if abs(objective - before) <= _SETTLED * abs(objective):
                break
            before = objective
        return centroids

    def _assign(self, vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, float]:
        """The nearest centroid of every vector, and the sum of its squared distances."""
        return _nearest(vectors, centroids, self._read)

    def _search(self, vectors: np.ndarray, rng: np.random.Generator) -> tuple[int, dict[int, float]]:
        """k at the elbow, and what was tried on a sample of the vectors, scaled up to all of them."""
        n = len(vectors)
        limit = max(2, math.isqrt(n))
        size = min(n, max(_TRAINING, _SEARCHED[-1] * self.points))
        some = vectors[np.sort(rng.choice(n, size, replace=False))]
        tried = {}
        for k in (1, *(k for k in _SEARCHED if k <= min(limit, n))):
            _, objective = self._assign(some, self._fit(some, k, rng))
            tried[k] = objective * n / len(some)
        return _elbow(tried), tried


def _smallest(sizes: np.ndarray) -> int:
    """Of the clusters that are not empty, the first of the smallest."""
    return int(np.where(sizes > 0, sizes, np.iinfo(np.int64).max).argmin())


@dataclass(frozen=True, slots=True)
class OfSelector(Clusterer):
    """The nearest centroid of an expert that brings its own: the clusters of the samples it was fitted on.

    Samples of another dataset are told apart by the same pseudo-skills. Source: OFA (arXiv 2605.26761).
    """

    name: ClassVar[str] = "selector"
    needs_vectors: ClassVar[bool] = True

    expert: str = "ofa"  # a fitted expert that the router names too

    def cluster(self, vectors: np.ndarray | None, n: int, rng: np.random.Generator) -> Clusters:
        """Raises PolicyError: there are no clusters without the expert's centroids."""
        raise PolicyError(f"clusters selector needs the centroids of expert {self.expert}: use `assign`")

    def assign(self, vectors: np.ndarray | None, centroids: np.ndarray) -> Clusters:
        """vectors: (n, d) of the kind that the expert was fitted on; centroids: (K, d), of which those that
        are nearest to no sample are left out.

        Raises PolicyError for vectors of another kind.
        """
        if vectors is None or vectors.ndim != 2 or vectors.shape[1] != centroids.shape[1]:
            given = "none" if vectors is None else str(vectors.shape)
            raise PolicyError(
                f"clusters selector: vectors are {given}, the centroids of expert {self.expert} "
                f"{centroids.shape}: write vectors encoded, with the encoder that it was fitted with"
            )
        labels, objective = nearest(vectors, centroids)
        used, dense = np.unique(labels, return_inverse=True)
        return Clusters(dense.astype(np.int32), centroids[used], objective)


@dataclass(frozen=True, slots=True)
class BySource(Clusterer):
    """One cluster for each dataset: skills as their releases have them. Vectors are not needed."""

    name: ClassVar[str] = "source"

    def cluster(self, vectors: np.ndarray | None, n: int, rng: np.random.Generator) -> Clusters:
        """Raises PolicyError: there are no clusters without the samples' datasets."""
        raise PolicyError("clusters source needs the dataset of every sample: use `of`")

    def of(self, sources: np.ndarray, vectors: np.ndarray | None) -> Clusters:
        """sources: (n,) a number for each dataset; vectors: (n, d), whose means are the centroids, or None."""
        _, labels = np.unique(sources, return_inverse=True)
        if vectors is None:
            return Clusters(labels.astype(np.int32), None, 0.0)
        sums = np.zeros((int(labels.max(initial=-1)) + 1, vectors.shape[1]))
        for start, block in blocks(vectors):
            np.add.at(sums, labels[start : start + len(block)], np.nan_to_num(block))
        means = (sums / np.bincount(labels)[:, None]).astype(np.float32)
        return Clusters(labels.astype(np.int32), means, 0.0)


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, float]:
    """The nearest centroid of every vector, (n,) int64, and the sum of the squared distances to them.

    vectors: (n, d), centroids: (k, d). The same on any number of threads.
    """
    with one_thread():
        return _nearest(vectors, centroids, lambda block: block)


def _nearest(
    vectors: np.ndarray, centroids: np.ndarray, read: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, float]:
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, dtype=np.float32))
    labels, objective = np.empty(len(vectors), dtype=np.int64), 0.0
    for start, block in blocks(vectors):
        distances, found = index.search(np.ascontiguousarray(read(block)), 1)
        labels[start : start + len(block)] = found[:, 0]
        objective += float(np.maximum(distances, 0).sum(dtype=np.float64))
    return labels, objective


def _elbow(tried: dict[int, float]) -> int:
    ks, sums = np.array(list(tried)), np.array(list(tried.values()))
    if sums[-1] >= sums[0]:
        return 1  # splitting gains nothing: the vectors are all the same
    along = np.log(ks) / np.log(ks[-1])
    gained = (sums[0] - sums) / (sums[0] - sums[-1])
    return int(ks[np.argmax(gained - along)])


def _plus_plus(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ seeds, (k,) rows of points (n, d): each the best of 4 + 2 ln k drawn.

    The probability is ∝ squared distance to the seeds before it. Source: Arthur and
    Vassilvitskii 2007 (k-means++), §5; with half as many draws the last groups are still missed now and then.
    """
    points = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("nd,nd->n", points, points)
    seeds = np.empty(k, dtype=np.int64)
    seeds[0] = rng.integers(len(points))
    nearest = _squared_distances(points, squares, seeds[:1])[0]
    for i in range(1, k):
        reach = np.cumsum(nearest, dtype=np.float64)
        if reach[-1] == 0:
            seeds[i:] = rng.integers(len(points), size=k - i)  # nothing is left but their duplicates
            break
        drawn = np.searchsorted(reach, rng.random(4 + int(2 * math.log(k))) * reach[-1], side="right")
        drawn = np.minimum(drawn, len(points) - 1)
        left = np.minimum(nearest, _squared_distances(points, squares, drawn))
        best = int(left.sum(axis=1).argmin())
        seeds[i], nearest = drawn[best], left[best]
    return seeds


def _squared_distances(points: np.ndarray, squares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(r, n) float32 between the `rows` of points (n, d), whose squared lengths are given, and all of them.

    What is below float32 noise is 0, so that duplicates of a seed are not drawn.
    """
    found = squares[rows, None] + squares - 2.0 * (points[rows] @ points.T)
    found[found < _NOISE * squares.max()] = 0.0
    return found
