"""Selection as the released Adapt-∞ does it: a pairwise matrix per cluster, Python loops over clusters and strata.

Written from the description of `data_selection/adapt-inf.py` (arXiv 2410.10636) with its costs and without its
defects, which do not change them: strata are searched one mask at a time, every budget is found in a loop.
"""

from __future__ import annotations

import math
import random

import numpy as np

BINS = 50
TAILS = 0.05


def route(scores: dict[str, np.ndarray], labels: np.ndarray) -> dict[int, str]:
    """cluster → the scorer of highest entropy, from a histogram of standardised scores."""
    chosen = {}
    for cluster in sorted(set(labels.tolist())):
        rows = [row for row, label in enumerate(labels.tolist()) if label == cluster]
        found = {}
        for name, values in scores.items():
            mine = np.nan_to_num(values[rows])
            standard = (mine - mine.mean()) / (mine.std() or 1.0)
            counts = np.histogram(standard, bins=BINS, range=(-4, 4))[0]
            shares = [count / counts.sum() for count in counts.tolist() if count]
            found[name] = -sum(share * math.log2(share) for share in shares)
        chosen[cluster] = max(found, key=found.__getitem__)
    return chosen


def allocate(sizes: list[int], budget: int) -> list[int]:
    """Equal shares; what small clusters lack is spread over the larger ones, round after round."""
    quotas = [0] * len(sizes)
    left = min(budget, sum(sizes))
    while left:
        open_ = [i for i, size in enumerate(sizes) if quotas[i] < size]
        share = max(1, left // len(open_))
        for i in open_:
            given = min(share, sizes[i] - quotas[i], left)
            quotas[i] += given
            left -= given
    return quotas


def ccs(scores: np.ndarray, budget: int, generator: random.Random) -> list[int]:
    """Coverage-centric sampling of one cluster."""
    values = np.nan_to_num(scores)
    order = np.argsort(values)
    cut = int(len(order) * TAILS)
    kept = order[cut : len(order) - cut]
    low, high = values[kept].min(), values[kept].max()
    width = (high - low) / BINS or 1.0
    strata = []
    for i in range(BINS):
        start = low + i * width
        end = np.inf if i == BINS - 1 else start + width
        strata.append([row for row in kept.tolist() if start <= values[row] < end])
    strata.sort(key=len)
    chosen: list[int] = []
    left = budget
    for i, stratum in enumerate(strata):
        quota = min(len(stratum), left // (BINS - i))
        chosen += generator.sample(stratum, quota)
        left -= quota
    return chosen


def prune(vectors: np.ndarray, labels: np.ndarray, keep: int) -> np.ndarray:
    """(n,) bool: in each cluster those least similar to an earlier one, from the matrix of all its pairs."""
    clusters = np.unique(labels)
    quotas = allocate([int((labels == cluster).sum()) for cluster in clusters], keep)
    kept = np.zeros(len(labels), dtype=bool)
    for cluster, quota in zip(clusters, quotas, strict=True):
        rows = np.flatnonzero(labels == cluster)
        mine = vectors[rows].astype(np.float32)
        mine /= np.linalg.norm(mine, axis=1, keepdims=True)
        earlier = np.triu(mine @ mine.T, k=1).max(axis=0)
        kept[rows[np.argsort(earlier)[:quota]]] = True
    return kept


def prune_bytes(labels: np.ndarray) -> int:
    """What `prune` needs for the largest cluster: the matrix and its upper triangle, float32."""
    return 2 * 4 * int(np.bincount(labels).max()) ** 2
