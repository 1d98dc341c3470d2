"""Which mean of the adapters before and after a training knows best what neither was trained on (start line-search)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lifelong.context import Context
from lifelong.measure.plan import MeasurePlan, passes_of
from lifelong.measure.pool import measure
from lifelong.recipes.asked import weights_kept
from lifelong.training.average import Weights, mean_of, weights_in
from stores.pool import PoolRow

ERROR = "el2n"
"""The signal that tells."""
WORST = 2**0.5
"""Its largest value."""


def best_weight(context: Context, before: Path, after: Path) -> tuple[float, list[dict[str, Any]]]:
    """The weight of `after` in the adapter that the timestep keeps, and the error of each that was tried.

    Where errors are equal the trained adapter has the most. Nothing is tried where the recipe leaves no choice, or the
    pool no sample that was not trained on; the largest weight is kept then.
    """
    start = context.method.start
    weights = weights_kept(start, context.timestep)
    if len(weights) == 1:
        return weights[0], []
    rows = held_out(context, start.rows)
    if not rows:
        context.progress.say(
            "  train     no sample is left untrained that could tell what to keep: all is kept"
        )
        return weights[-1], []
    context.models.altered()
    was, trained = weights_in(before), weights_in(after)
    tried = []
    for weight in weights:
        tried.append({"weight": weight, "error": _error(context, rows, mean_of(was, trained, weight), after)})
        context.progress.step("weights tried", len(tried), len(weights))
    best = min(reversed(tried), key=lambda each: each["error"])
    return best["weight"], tried


def held_out(context: Context, count: int) -> list[PoolRow]:
    """Samples of the pool that no timestep has trained on, this one included: at most `count`, drawn, the same of each
    dataset as far as there are as many."""
    stores = context.stores
    pool = stores.pool.arrays()
    untrained = ~np.isin(pool["ordinal"], stores.ledger.selected_before(context.timestep + 1))
    names, of = np.unique(pool["datasets"][untrained].astype(str), return_inverse=True)
    ordinals = pool["ordinal"][untrained]
    rng = context.rng("train", "held out")
    drawn = [
        rng.choice(mine, min(len(mine), max(1, count // len(names))), replace=False)
        for mine in (ordinals[of == place] for place in range(len(names)))
    ]
    return list(stores.pool.rows(np.sort(np.concatenate(drawn)).tolist())) if drawn else []


def _error(context: Context, rows: list[PoolRow], adapter: Weights, folder: Path) -> float:
    """Mean over datasets of the mean EL2N of their rows' answers; one that has none is as wrong as can be.

    folder: where the adapter is from, for errors.
    """
    vlm, config = context.models.vlm, context.config
    vlm.put_adapter(adapter, folder)
    passes = passes_of(MeasurePlan(frozenset({ERROR})), vlm, config.seed)
    with vlm.evaluating():
        found = measure(rows, context.stores.loader, passes, config.measure.batch_size, frozenset({ERROR}))
    errors = dict.fromkeys((row.ordinal for row in rows), WORST)
    errors |= zip(found.ordinals.tolist(), found.arrays[ERROR].tolist(), strict=True)
    by_dataset: dict[str, list[float]] = {}
    for row in rows:
        by_dataset.setdefault(row.dataset, []).append(errors[row.ordinal])
    return float(np.mean([np.mean(each) for each in by_dataset.values()]))
