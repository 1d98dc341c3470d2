"""The map of a timestep: where its samples lie, and what was decided of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lifelong import seeds
from lifelong.context import Stores
from lifelong.recorded import config_of
from lifelong.report.absent import AbsentError
from lifelong.report.decided import Decided, reasons
from lifelong.report.vectors import vectors_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Map:
    """The samples of a timestep in the plane; every list has one entry for each of the n shown.

    x, y: see `project`; total: samples measured, of which `without` of those sampled have no vector.
    """

    timestep: int
    total: int
    without: int
    samples: list[str]
    x: list[float]
    y: list[float]
    skill: list[str]
    cluster: list[int]
    expert: list[str]
    selected: list[int]
    pruned: list[int]
    reason: list[str]


def draw_map(stores: Stores, found: Decided, most: int) -> Map:
    """A map of at most so many samples. Raises: AbsentError saying why there is none."""
    config = config_of(stores, found.timestep)
    if config is None:
        raise AbsentError("the configuration that it ran with is not on record, so its vectors have no name")
    shown = found.sampled(most)
    sample_ids = shown["sample_id"].tolist()
    ordinals = np.array(stores.pool.ordinals(sample_ids), dtype=np.int64)
    vectors = vectors_of(stores, found.timestep, config, ordinals, sample_ids)
    known = np.isfinite(vectors).all(axis=1)
    if known.sum() < 2:
        raise AbsentError(f"only {int(known.sum())} of its samples have a vector, and a map needs two")
    seed = seeds.derive(config.seed, found.timestep, "report", "map")
    places = project(vectors[known], seed)
    return _map(stores, found, shown[known], int((~known).sum()), places)


COMPONENTS = 30
ITERATIONS = 500
FEWEST = 5
"""Fewer samples than these lie by their principal components."""


def project(vectors: np.ndarray, seed: int) -> np.ndarray:
    """(n, 2) places of (n, d) vectors, n > 1, so that those of like direction lie near each other.

    t-SNE (van der Maaten & Hinton 2008) from the first principal components: samples that lie together are alike;
    how far two groups are from each other means little. The same vectors and seed give the same places.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    from policies.arrays import unit_rows
    from policies.threads import one_thread

    rows = unit_rows(vectors.astype(np.float64))
    places = np.zeros((len(rows), 2))
    if np.ptp(rows, axis=0).max() < 1e-9:
        return places
    parts = min(COMPONENTS, *rows.shape)
    with one_thread():
        found = PCA(n_components=parts, random_state=seed % 2**32).fit_transform(rows)
        if len(rows) < FEWEST or parts < 2:
            places[:, : min(2, parts)] = found[:, :2]
            return places
        tsne = TSNE(
            perplexity=min(30, (len(rows) - 1) / 3),
            max_iter=ITERATIONS,
            init="pca",
            random_state=seed % 2**32,
        )
        return np.asarray(tsne.fit_transform(found))


def _map(
    stores: Stores,
    found: Decided,
    shown: pd.DataFrame,
    without: int,
    places: np.ndarray,
) -> Map:
    columns: dict[str, list[Any]] = {name: shown[name].tolist() for name in ("skill", "cluster", "scorer")}
    flags = {name: shown[name].astype(int).tolist() for name in ("selected", "pruned")}
    sample_ids = shown["sample_id"].tolist()
    told = reasons(stores, found.timestep, sample_ids)
    rounded = places.round(2)
    return Map(
        timestep=found.timestep,
        total=len(found.table),
        without=without,
        samples=sample_ids,
        x=rounded[:, 0].tolist(),
        y=rounded[:, 1].tolist(),
        skill=columns["skill"],
        cluster=columns["cluster"],
        expert=columns["scorer"],
        reason=[told.get(sample_id, "") for sample_id in sample_ids],
        **flags,
    )
