"""Select: the budget is shared over the clusters, and each cluster's sampler picks its samples."""

from __future__ import annotations

from functools import partial

import numpy as np

from lifelong.config import budget_of
from lifelong.context import Context, Outcome
from lifelong.lengths import sample_lengths
from lifelong.recipes.asked import asked, signals_for
from lifelong.signals.unjudged import kept_apart
from lifelong.steer.retry import groups_of
from lifelong.training.train import training_order
from policies import promises
from policies.allocators import ClusterFacts, proportional
from policies.arrays import members
from policies.candidates import Group
from policies.samplers import Sampler

UNRANKED = -1


def select(context: Context) -> Outcome:
    """Commit the selection in order of rank, and the order of ids in which it will be trained on."""
    method, stores, config = context.method, context.stores, context.config.train
    clusters = context.arrays("clusters")
    labels, ordinals = clusters["cluster"], clusters["ordinal"]
    score = context.arrays("scores")["score"]
    pool = stores.pool.arrays()
    is_new = pool["arrived"] == context.timestep
    budget = budget_of(config.budget, context.result("ingest")["accepted"])
    groups = groups_of(context, labels, is_new, budget)
    rank = np.full(len(labels), UNRANKED, dtype=np.int32)
    stratum = np.full(len(labels), UNRANKED, dtype=np.int32)
    candidate = np.zeros(len(labels), dtype=bool)
    read = context.signals().read(method.sample.needs, labels) if method.sample.needs else {}
    apart = kept_apart(context, len(labels))
    chosen: list[np.ndarray] = []
    for group in map(partial(_without, rank), groups):
        candidate |= group.mask
        chosen += _select_group(context, group, read, score, clusters, apart, rank, stratum)
    selected = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
    lengths = sample_lengths(stores.pool, pool, selected)
    order = training_order(lengths, config.epochs, config.batch_size, context.rng("select", "order"))
    files = [
        (
            "selection",
            context.commit_arrays("selection", {"rank": rank, "stratum": stratum, "candidate": candidate}),
        ),
        ("order", context.commit_arrays("order", {"ordinal": ordinals[selected][order]})),
    ]
    result = {
        "budget": budget,
        "selected": len(selected),
        "new": int(is_new[selected].sum()),
        "groups": {group.name: int(group.mask.sum()) for group in groups},
    }
    record = stores.ledger.record_selection
    return Outcome(result, files, lambda: record(context.timestep, ordinals[selected]))


def _without(rank: np.ndarray, group: Group) -> Group:
    """A group without what an earlier one has taken."""
    mask = group.mask & (rank == UNRANKED)
    return Group(group.name, mask, min(group.budget, int(mask.sum())))


def _select_group(
    context: Context,
    group: Group,
    read: dict[str, np.ndarray],
    score: np.ndarray,
    clusters: dict[str, np.ndarray],
    apart: np.ndarray,
    rank: np.ndarray,
    stratum: np.ndarray,
) -> list[np.ndarray]:
    """The rows picked from each cluster of a group; fills in their rank and stratum. read: the sampler's signals."""
    method, labels = context.method, clusters["cluster"]
    candidates = np.flatnonzero(group.mask)
    inside = [(cluster, candidates[rows]) for cluster, rows in members(labels[candidates])]
    sizes = np.array([len(rows) for _, rows in inside], dtype=np.int64)
    facts = _facts(clusters, [cluster for cluster, _ in inside], [score[rows] for _, rows in inside])
    with asked("budget", method.budget.name, method.budget):
        found = method.budget.allocate(sizes, group.budget, facts)
        quotas = promises.quotas(found, sizes, group.budget, method.budget)
    picked: list[np.ndarray] = []
    for (cluster, rows), quota in zip(inside, quotas, strict=True):
        rng = context.rng("select", f"group {group.name} cluster {cluster}")
        for part, share in _parts(rows, apart, quota):
            here = {name: all_ if len(part) == len(all_) else all_[part] for name, all_ in read.items()}
            chosen, strata = _picked(method.sample, score[part], share, rng, here)
            mine = part[chosen]
            # A cluster may lie in several groups; its ranks go on from one to the next.
            rank[mine] = np.arange(len(mine)) + np.count_nonzero(rank[labels == cluster] != UNRANKED)
            if strata is not None:
                stratum[part] = strata
            picked.append(mine)
    return picked


def _picked(
    sampler: Sampler,
    score: np.ndarray,
    share: int,
    rng: np.random.Generator,
    signals: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray | None]:
    """What a sampler picks of n samples, (share,) of their indices, and their strata, (n,), or None."""
    with asked("sample", sampler.name, sampler):
        chosen, strata = sampler.pick_told(score, share, rng, signals_for(sampler, signals))
        return promises.picks(chosen, len(score), share), promises.strata(strata, len(score))


def _parts(rows: np.ndarray, apart: np.ndarray, quota: int) -> list[tuple[np.ndarray, int]]:
    """A cluster's rows with their quota; those that are kept apart are a part of their own, with its share."""
    parts = [part for part in (rows[~apart[rows]], rows[apart[rows]]) if len(part)]
    shares = proportional(np.array([len(part) for part in parts]), quota)
    return list(zip(parts, shares.tolist(), strict=True))


def _facts(clusters: dict[str, np.ndarray], present: list[int], scores: list[np.ndarray]) -> ClusterFacts:
    """What the allocators may know of the clusters `present`, whose samples' scores are given."""
    spread = np.array([np.nanstd(values) if np.isfinite(values).any() else 0.0 for values in scores])
    if "centroid" not in clusters:
        zeros = np.zeros(len(present))
        return ClusterFacts(spread, zeros, zeros, scores=scores)
    return ClusterFacts(
        spread,
        clusters["mean_distance"][present],
        clusters["centroid_distance"][present],
        clusters["transferability"][present],
        clusters["density"][present] if "density" in clusters else None,
        scores,
    )
