"""COINCIDE: more of the clusters that transfer to others and are diverse, and of each a faithful subset.

Lee, Li and Hwang 2024 (arXiv 2406.10995, EMNLP). Clusters stand for compositions of concept and skill. With
the Gaussian kernel d(p, q) = exp(−γ ‖p − q‖²), γ = 1:

    transferability  S_i = mean cosine of centroid i to the other centroids
    density          D_i = mean of d(p, q) over the pairs p ≠ q of cluster i
    share            P_i ∝ exp(S_i / (τ D_i)), τ = 0.1

and inside a cluster C the subset C' that a greedy choice finds to minimise

    MMD²(C, C') = A(C, C) + A(C', C') − 2 A(C, C'),  A the mean of d over all pairs.

The released code differs: its kernel has γ = 1/2, its density counts each sample's pair with itself, its
transferability leaves out centroids of cosine above 0.9 and looks at the text half of the features alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.allocators import Allocator, ClusterFacts, proportional, weighted
from policies.arrays import finite_rows, unit_rows
from policies.errors import PolicyError
from policies.samplers import Sampler, with_vectors

PAIRS_OF = 2048  # a larger cluster's density is that of this many of its samples, drawn at random
SINGLE = 1.0  # density of a cluster that has no pair: as dense as can be
_DECIMALS = 6  # gains are rounded here, above the noise of the vectors: equal samples tie
_SMALLEST = 1e-300  # weights below the range of floats share evenly what nobody else can take


def gaussian_kernel(first: np.ndarray, second: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    """exp(−γ ‖p − q‖²) for each p of `first` (m, d) and q of `second` (n, d): (m, n) float64."""
    p, q = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    squares = np.einsum("md,md->m", p, p)[:, None] + np.einsum("nd,nd->n", q, q) - 2.0 * (p @ q.T)
    return np.exp(-gamma * np.maximum(squares, 0.0))


def transferability(centroids: np.ndarray) -> np.ndarray:
    """S: (k,) float64, mean cosine of each of the (k, d) centroids to the others.

    A zero centroid has cosine 0 to any; a single cluster has transferability 0.
    """
    unit = unit_rows(centroids).astype(np.float64)
    to_all = unit @ unit.sum(axis=0)
    return (to_all - np.einsum("kd,kd->k", unit, unit)) / max(len(unit) - 1, 1)


def density(vectors: np.ndarray, rows: np.ndarray, rng: np.random.Generator, gamma: float = 1.0) -> float:
    """D: mean kernel over the pairs of a cluster's samples; the lower, the more diverse they are.

    vectors: (n, d), possibly memory-mapped; rows: indices of the cluster's samples. Rows that are not finite
    are left out. Of more than PAIRS_OF samples, so many are drawn.
    """
    if len(rows) > PAIRS_OF:
        rows = np.sort(rng.choice(rows, PAIRS_OF, replace=False))
    sample = np.asarray(vectors[rows], dtype=np.float64)
    sample = sample[np.isfinite(sample).all(axis=1)]
    n = len(sample)
    if n < 2:
        return SINGLE
    return float((gaussian_kernel(sample, sample, gamma).sum() - n) / (n * (n - 1)))


def transfer_weights(transferability: np.ndarray, density: np.ndarray, tau: float = 0.1) -> np.ndarray:
    """P: (k,) float64 shares ∝ exp(S / (τ D)), Σ = 1, of (k,) transferabilities and densities > 0.

    Raises PolicyError for a density or τ that is not above 0.
    """
    transferability, density = np.asarray(transferability, float), np.asarray(density, float)
    if not (density > 0).all() or not tau > 0:
        raise PolicyError(f"transfer: densities and tau must be above 0, not {density} and {tau}")
    exponent = transferability / (tau * density)
    weights = np.maximum(np.exp(exponent - exponent.max(initial=-np.inf)), _SMALLEST)
    return weights / weights.sum()


def greedy_mmd(
    vectors: np.ndarray, budget: int, rng: np.random.Generator, gamma: float = 1.0, block: int = 4096
) -> np.ndarray:
    """Samples chosen one after another, each the one that leaves MMD² to all the samples lowest.

    vectors: (n, d), finite. Returns (min(budget, n),) distinct indices in order of choice; of equal gains a
    random one. Cost O(n² d) up to n = `block`. A larger cluster is dealt out at random into parts of `block`
    samples, each as good a picture of it as any, and each is searched for its share of the budget; only as
    many parts as have an eighth of `block` to choose each are looked at, for a few choices would all fall on
    the densest spot. So time is O(n × block × d) at most, memory O(block² + block × d).
    """
    order = rng.permutation(len(vectors))
    count = min(-(-len(order) // block), budget // max(1, block // 8))
    parts = np.array_split(order[: max(1, count) * block], max(1, count))
    quotas = proportional(np.array([len(part) for part in parts]), budget)
    picked = [
        part[_greedy(gaussian_kernel(vectors[part], vectors[part], gamma), quota)]
        for part, quota in zip(parts, quotas.tolist(), strict=True)
    ]
    place = np.concatenate([(np.arange(len(mine)) + 1) / max(len(mine), 1) for mine in picked])
    return np.concatenate(picked)[np.argsort(place, kind="stable")]


def _greedy(kernel: np.ndarray, count: int) -> np.ndarray:
    """With t chosen, MMD² falls most for the highest of (mean kernel to all) − (sum to the chosen) / (t + 1).

    That is what the two terms with the candidate j come to: (2 Σ_s d(s, j) + 1) / (t+1)² − 2 mean_p d(p, j) / (t+1).
    """
    typical = kernel.sum(axis=0) / max(len(kernel), 1)
    to_chosen = np.zeros(len(kernel))
    free = np.ones(len(kernel), dtype=bool)
    chosen = np.empty(count, dtype=np.int64)
    for t in range(count):
        gain = np.where(free, np.round(typical - to_chosen / (t + 1), _DECIMALS), -np.inf)
        chosen[t] = gain.argmax()
        free[chosen[t]] = False
        to_chosen += kernel[chosen[t]]
    return chosen


def mmd_squared(vectors: np.ndarray, chosen: np.ndarray, gamma: float = 1.0) -> float:
    """MMD² between the samples (n, d) and those of them at the indices `chosen`; 0 when all are chosen."""
    kernel = gaussian_kernel(vectors, vectors, gamma)
    return float(kernel.mean() + kernel[np.ix_(chosen, chosen)].mean() - 2.0 * kernel[:, chosen].mean())


@dataclass(frozen=True, slots=True)
class Transfer(Allocator):
    """Shares ∝ exp(transferability / (τ × density)): most to clusters that are near to others, and diverse."""

    name: ClassVar[str] = "transfer"
    needs_vectors: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("density",)

    tau: float = 0.1  # temperature: the lower, the fewer clusters get the budget

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise PolicyError(f"tau is {self.tau}; a temperature is above 0")

    def allocate(self, sizes: np.ndarray, budget: int, facts: ClusterFacts | None = None) -> np.ndarray:
        if facts is None or facts.transferability is None or facts.density is None:
            raise PolicyError("budget transfer needs centroids: write e.g. vectors hidden · clusters kmeans")
        weights = transfer_weights(facts.transferability, facts.density, self.tau)
        return weighted(sizes, budget, weights)


@dataclass(frozen=True, slots=True)
class MMD(Sampler):
    """The subset whose distribution is nearest to the cluster's, whatever the scores; see `greedy_mmd`.

    Samples that have no vector come last, in random order.
    """

    name: ClassVar[str] = "mmd"
    needs: ClassVar[tuple[str, ...]] = ("vectors",)

    gamma: float = 1.0  # of the kernel exp(−gamma × squared distance)

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise PolicyError(f"gamma is {self.gamma}; it must be above 0")

    def pick(
        self,
        scores: np.ndarray,
        budget: int,
        rng: np.random.Generator,
        signals: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        _, vectors = with_vectors(self.name, scores, budget, signals)
        known = finite_rows(vectors)
        inside = np.flatnonzero(known)
        mine = vectors if len(inside) == len(vectors) else vectors[inside]
        picked = inside[greedy_mmd(mine, budget, rng, self.gamma)]
        return np.concatenate([picked, rng.permutation(np.flatnonzero(~known))])[:budget]
