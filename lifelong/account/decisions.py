"""The decisions of a timestep: one row per sample, with every expert's score and the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lifelong.signals.pool import origins_of
from lifelong.signals.unjudged import remark, unjudged
from policies.pruners import Pruned
from stores.commit import Committed, commit_file

if TYPE_CHECKING:
    from lifelong.context import Context
    from stores.pool import PoolRow

NO_ROW = -1
ROWS_READ = 1 << 16
"""Rows of the table that are read at once: those who ask for one sample wait for no more."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided of each of n measured samples; arrays are (n,)."""

    ordinals: np.ndarray
    pool: dict[str, np.ndarray]
    """The pool's columns of these samples."""
    clusters: np.ndarray
    experts: list[str]
    """Deciding expert of each sample."""
    scores: dict[str, np.ndarray]
    """"score" decides; "score_<expert>" for every expert that was asked."""
    rank: np.ndarray
    stratum: np.ndarray
    pruned: Pruned
    reasons: list[str]
    measured: np.ndarray | None
    """Timestep at which each was measured; None where all were at this one."""

    @classmethod
    def of(cls, context: Context, pruned: Pruned) -> Decisions:
        """Gather what the phases of the timestep committed."""
        clusters = context.arrays("clusters")
        labels = clusters["cluster"]
        selection = context.arrays("selection")
        choice = {int(k): v for k, v in context.result("route")["choice"].items()}
        experts = [choice[int(label)] for label in labels]
        pool = context.stores.pool.arrays()
        sample_ids = pool["sample_ids"].astype(str)
        reasons = _reasons(labels, experts, selection, pruned, sample_ids, context.method.sample.tell)
        for rows, name, expert in unjudged(context):
            for row in rows:
                reasons[row] += f"; {remark(name, expert)}"
        return cls(
            clusters["ordinal"],
            pool,
            labels,
            experts,
            context.arrays("scores"),
            selection["rank"],
            selection["stratum"],
            pruned,
            reasons,
            _measured(context),
        )


def _measured(context: Context) -> np.ndarray | None:
    timesteps = origins_of(context.stores, context.timestep).timesteps
    return None if (timesteps == context.timestep).all() else timesteps


def write_decisions(context: Context, decisions: Decisions) -> Committed:
    """Commit `timesteps/NNNN/decisions-<hash>.parquet`; the loop publishes it as `decisions.parquet`."""
    import pyarrow.parquet as pq

    table = decisions_table(context, decisions)

    def write(path: Path) -> None:
        pq.write_table(table, path, row_group_size=ROWS_READ)

    return commit_file(context.root, context.folder, "decisions", ".parquet", write)


def decisions_table(context: Context, decisions: Decisions) -> Any:
    """The decisions as an Arrow table: measured samples in order of arrival, then the quarantined ones."""
    import pyarrow as pa

    pool, pruned = decisions.pool, decisions.pruned
    sample_ids = pool["sample_ids"].astype(str)
    neighbour = [None if row == NO_ROW else sample_ids[row] for row in pruned.neighbour]
    similarity = np.where(pruned.neighbour == NO_ROW, np.nan, pruned.similarity)
    columns: dict[str, Any] = {
        "sample_id": sample_ids,
        "dataset": pool["datasets"],
        "skill": pool["skills"],
        "cluster": decisions.clusters,
        "scorer": decisions.experts,
        **{name: _nullable(values) for name, values in sorted(decisions.scores.items())},
        "stratum": pa.array(decisions.stratum, mask=decisions.stratum < 0),
        "rank": pa.array(decisions.rank, mask=decisions.rank < 0),
        "selected": decisions.rank >= 0,
        "pruned": ~pruned.kept,
        "reason": decisions.reasons,
        "neighbour": pa.array(neighbour, type=pa.string()),
        "similarity": _nullable(similarity),
    }
    if decisions.measured is not None:
        columns["measured"] = decisions.measured
    quarantined = _quarantined(context, columns)
    return pa.concat_tables([pa.table(columns), quarantined], promote_options="permissive")


def quarantined_now(context: Context) -> list[PoolRow]:
    """The samples that this timestep could not measure, in order of arrival."""
    pool = context.stores.pool
    ordinals = pool.arrays("quarantined")["ordinal"]
    return [row for row in pool.rows(ordinals) if row.changed == context.timestep]


def _quarantined(context: Context, columns: dict[str, Any]) -> Any:
    """Rows for the samples that this timestep could not measure: no cluster, no score, only the reason."""
    import pyarrow as pa

    rows = quarantined_now(context)
    known = {
        "sample_id": [row.sample_id for row in rows],
        "dataset": [row.dataset for row in rows],
        "skill": [row.skill for row in rows],
        "selected": [False] * len(rows),
        "pruned": [False] * len(rows),
        "reason": [f"quarantined: {row.reason}" for row in rows],
    }
    return pa.table({name: known.get(name, pa.nulls(len(rows))) for name in columns})


def _nullable(values: np.ndarray) -> Any:
    """Floats with NaN as null."""
    import pyarrow as pa

    return pa.array(values, mask=~np.isfinite(values))


def _reasons(
    labels: np.ndarray,
    experts: list[str],
    selection: dict[str, np.ndarray],
    pruned: Pruned,
    sample_ids: np.ndarray,
    tell: Callable[[int], str],
) -> list[str]:
    """Why each sample was selected or not, and why it was pruned. tell: what a stratum means, in words."""
    rank, candidate, strata = selection["rank"], selection["candidate"], selection["stratum"].tolist()
    sizes = np.bincount(labels[candidate], minlength=int(labels.max(initial=0)) + 1)
    taken = np.bincount(labels[rank >= 0], minlength=len(sizes))
    reasons = []
    for row, (cluster, expert) in enumerate(zip(labels.tolist(), experts, strict=True)):
        if rank[row] >= 0:
            reason = f"selected: choice {rank[row] + 1} of {taken[cluster]} in cluster {cluster}, by {expert}"
            told = tell(strata[row]) if strata[row] >= 0 else ""
            reason += f", {told}" if told else ""
        elif candidate[row]:
            reason = f"not selected: cluster {cluster} gave {taken[cluster]} of {sizes[cluster]}, by {expert}"
        else:
            reason = "not selected: the recipe does not draw on samples of earlier timesteps"
        if not pruned.kept[row]:
            neighbour = pruned.neighbour[row]
            like = (
                "at random" if neighbour == NO_ROW else _like(pruned.similarity[row], sample_ids[neighbour])
            )
            reason += f"; pruned: {like}"
        reasons.append(reason)
    return reasons


def _like(similarity: float, sample_id: str) -> str:
    return f"cosine {similarity:.4f} to {sample_id}"
