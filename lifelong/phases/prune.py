"""Prune: redundant samples leave the pool for good, and the timestep's decisions are written down."""

from __future__ import annotations

import numpy as np

from lifelong.account.decisions import Decisions, write_decisions
from lifelong.context import Context, Outcome
from lifelong.recipes.asked import asked
from policies import promises
from policies.pruners import Pruned


def prune(context: Context) -> Outcome:
    """Commit the decisions table and the tombstones of what leaves the pool."""
    clusters = context.arrays("clusters")
    pruner, signal, ordinals = context.method.prune, context.method.vectors.signal, clusters["ordinal"]
    match pruner.within:
        case "cluster":
            labels = clusters["cluster"]
        case "source":
            labels = context.signals().column("source")
        case "pool":
            labels = np.zeros(len(ordinals), dtype=np.int32)
    vectors = context.signals().matrix(signal) if signal else None
    keep = context.config.pool.keep or len(ordinals)
    with asked("prune", pruner.name, pruner):
        found = pruner.prune(vectors, labels, keep, context.rng("prune", "pruner"))
        pruned = promises.pruned(found, len(ordinals), keep, pruner)
    decisions = Decisions.of(context, pruned)
    committed = write_decisions(context, decisions)
    gone = np.flatnonzero(~pruned.kept)
    reasons = [decisions.reasons[row] for row in gone]
    result = {"pruned": len(gone), "live": int(pruned.kept.sum()), **_similarity(pruned)}
    bury = context.stores.pool.bury
    return Outcome(
        result,
        [("decisions", committed)],
        lambda: bury(context.timestep, ordinals[gone].tolist(), reasons),
    )


def _similarity(pruned: Pruned) -> dict[str, float]:
    """How alike the pruned samples were to what they repeat: lowest and mean cosine."""
    measured = pruned.similarity[~pruned.kept]
    measured = measured[np.isfinite(measured)]
    if not len(measured):
        return {}
    return {"lowest_similarity": float(measured.min()), "mean_similarity": float(measured.mean())}
