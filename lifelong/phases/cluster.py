"""Cluster: pseudo-skills among the sample vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lifelong.context import Context, Outcome
from lifelong.recipes.asked import asked
from lifelong.signals.fitted import fitted_state
from lifelong.signals.pool import PoolSignals
from policies import promises
from policies.arrays import blocks, members
from policies.clusterers import BySource, Clusters, OfSelector
from policies.coincide import density, transferability
from policies.scorers.base import FittedScorer
from stores.commit import Committed


def cluster(context: Context) -> Outcome:
    """Commit every measured sample's cluster, and what the allocators may ask of the clusters."""
    signals = context.signals()
    ordinals = signals.column("ordinal")
    word = context.method.vectors
    vectors = signals.matrix(word.signal) if word.signal else None
    files: list[tuple[str, Committed]] = []
    clusterer = context.method.clusters
    with asked("clusters", clusterer.name, clusterer):
        if isinstance(clusterer, OfSelector):
            found = clusterer.assign(vectors, _centroids(context, signals, files))
        elif isinstance(clusterer, BySource):
            found = clusterer.of(signals.column("source"), vectors)
        else:
            found = _cluster(context, vectors, len(ordinals))
        found = promises.clusters(found, len(ordinals))
    arrays = {"ordinal": ordinals, "cluster": found.labels}
    if vectors is not None and found.centroids is not None:
        arrays["centroid"] = found.centroids
        arrays["mean_distance"] = _mean_distances(vectors, found.labels, found.centroids)
        arrays["centroid_distance"] = _centroid_distances(found.centroids)
        arrays["transferability"] = transferability(found.centroids)
        if "density" in context.method.budget.needs:
            arrays["density"] = _densities(context, vectors, found.labels)
    sizes = [len(rows) for _, rows in members(found.labels)]
    result = {
        "clusters": len(sizes),
        "sizes": sizes,
        "objective": found.objective,
        "tried": {str(k): value for k, value in found.tried.items()},
    }
    return Outcome(result, [*files, ("clusters", context.commit_arrays("clusters", arrays))])


def _cluster(context: Context, vectors: np.ndarray | None, n: int) -> Clusters:
    """Clusters of the samples that have a vector; those that have none (no image) are one more, the last."""
    rng = context.rng("cluster", "kmeans")
    if vectors is None:
        return context.method.clusters.cluster(None, n, rng)
    known = np.concatenate([np.isfinite(block).all(axis=1) for _, block in blocks(vectors)])
    if known.all():
        return context.method.clusters.cluster(vectors, n, rng)
    if not known.any():
        return Clusters(np.zeros(n, dtype=np.int32), None, 0.0)
    n_known = int(known.sum())
    found = promises.clusters(context.method.clusters.cluster(vectors[known], n_known, rng), n_known)
    k = int(found.labels.max()) + 1
    labels = np.full(n, k, dtype=np.int32)
    labels[known] = found.labels
    centroids = found.centroids
    if centroids is not None:
        centroids = np.concatenate([centroids, np.zeros_like(centroids[:1])])
    return replace(found, labels=labels, centroids=centroids)


def _centroids(context: Context, signals: PoolSignals, files: list[tuple[str, Committed]]) -> np.ndarray:
    """(K, d): the centroids that a fitted expert brings; if this is its first use, it is fitted here."""
    word = context.method.clusters
    assert isinstance(word, OfSelector)
    scorer = context.method.scorers[word.expert]
    assert isinstance(scorer, FittedScorer)
    columns = {name: signals.column(name) for name in scorer.needs}
    return fitted_state(context, word.expert, scorer, columns, files)["centroids"]


def _mean_distances(vectors: np.ndarray, labels: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(k,) float64: mean Euclidean distance of each cluster's samples to its centroid."""
    total = np.zeros(len(centroids))
    for start, block in blocks(vectors):
        mine = labels[start : start + len(block)]
        distance = np.linalg.norm(np.nan_to_num(block) - centroids[mine], axis=1)
        total += np.bincount(mine, weights=distance, minlength=len(centroids))
    return total / np.bincount(labels, minlength=len(centroids))


def _centroid_distances(centroids: np.ndarray) -> np.ndarray:
    """(k,) float64: mean Euclidean distance of each centroid to the others; 0 where there is only one."""
    k = len(centroids)
    distances = [np.linalg.norm(centroids - each, axis=1).sum() / max(k - 1, 1) for each in centroids]
    return np.array(distances, dtype=np.float64)


def _densities(context: Context, vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(k,) float64: mean Gaussian kernel between the samples of each cluster."""
    rng = context.rng("cluster", "density")
    return np.array([density(vectors, rows, rng) for _, rows in members(labels)])
