"""Samples that the expert of their cluster gave no score, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from policies.arrays import members
from policies.scorers.base import Scorer

if TYPE_CHECKING:
    from lifelong.context import Context


def unjudged(context: Context) -> Iterator[tuple[np.ndarray, str, Scorer]]:
    """(rows, name of the expert, expert) of every cluster whose expert left samples without a score."""
    scores, choice = context.arrays("scores"), context.result("route")["choice"]
    for cluster, rows in members(context.arrays("clusters")["cluster"]):
        name = choice[str(cluster)]
        expert = context.method.scorers.get(name)
        if expert is not None:
            missing = rows[~np.isfinite(scores[f"score_{name}"][rows])]
            if len(missing):
                yield missing, name, expert


def kept_apart(context: Context, n: int) -> np.ndarray:
    """(n,) bool: the samples that keep their share of their cluster's budget though they have no score."""
    apart = np.zeros(n, dtype=bool)
    for rows, _, expert in unjudged(context):
        apart[rows] = expert.keeps_share
    return apart


def remark(name: str, expert: Scorer) -> str:
    """What becomes of the samples that an expert cannot judge, in words."""
    if not expert.keeps_share:
        return f"{name} cannot judge it: drawn on only after all that it can"
    how = f"ranked by {expert.stand_in}" if expert.stand_in else "drawn at random"
    return f"{name} cannot judge it: {how} within the share of such samples"
