"""Training a timestep again from the same start, with more replay of the clusters of the skills that it harmed."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np

from lifelong.context import Context
from lifelong.recipes.asked import asked
from lifelong.steer.rollback import cells_of
from lifelong.steer.verdicts import KIND, RETRIED, Verdict, verdicts
from policies import promises
from policies.candidates import Group
from stores.database import transaction
from stores.undo import Undo, Undone

HALF = 0.5
"""A cluster is a skill's if at least this share of its samples is."""


def replay_mask(labels: np.ndarray, skills: np.ndarray, is_new: np.ndarray, harmed: list[str]) -> np.ndarray:
    """(n,) bool: the old samples of the harmed skills' clusters; of such a skill that has no cluster, its own.

    labels: (n,) cluster of each sample; skills: (n,) its skill; is_new: (n,) whether it arrived at this timestep.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for skill in harmed:
        own = skills == skill
        clusters = [cluster for cluster in np.unique(labels[own]) if own[labels == cluster].mean() >= HALF]
        chosen |= np.isin(labels, clusters) if clusters else own
    return chosen & ~is_new


def groups_of(context: Context, labels: np.ndarray, is_new: np.ndarray, budget: int) -> list[Group]:
    """The recipe's groups of candidates; at a retry, first the harmed skills' with their share of the budget.

    What the first group takes is not there for the others.
    """
    groups = partial(_groups, context, is_new)
    tried = [verdict for verdict in verdicts(context.stores, context.timestep) if verdict.action == RETRIED]
    if not tried:
        return groups(budget)
    harmed = sorted({each["skill"] for verdict in tried for each in verdict.harmed})
    skills = context.stores.pool.arrays()["skills"].astype(str)
    mask = replay_mask(labels, skills, is_new, harmed)
    share = min(1.0, len(tried) * context.config.guard.replay)
    quota = min(int(budget * share), int(mask.sum()))
    return [Group(f"replay of {' and '.join(harmed)}", mask, quota), *groups(budget - quota)]


def _groups(context: Context, is_new: np.ndarray, budget: int) -> list[Group]:
    """The recipe's groups of candidates."""
    word = context.method.candidates
    with asked("candidates", word.name, word):
        return promises.groups(word.groups(is_new, budget, **_past(context)), len(is_new), budget)


def _past(context: Context) -> dict[str, np.ndarray]:
    """trained, (n,) bool: what an earlier timestep trained on; only where the recipe asks for it."""
    if not context.method.candidates.needs_past:
        return {}
    ordinals = context.stores.pool.arrays()["ordinal"]
    return {"trained": np.isin(ordinals, context.stores.ledger.selected_before(context.timestep))}


def can_retry(context: Context, verdict: Verdict) -> bool:
    """Whether the pool holds anything to replay."""
    harmed = [each["skill"] for each in verdict.harmed]
    if not harmed:
        context.progress.say("  guard     no skill was harmed by itself: there is nothing to replay more of")
        return False
    pool = context.stores.pool.arrays()
    old = pool["arrived"] < context.timestep
    if bool((old & np.isin(pool["skills"].astype(str), harmed)).any()):
        return True
    context.progress.say("  guard     no old sample of the harmed skills is left to replay")
    return False


def retry(context: Context, verdict: Verdict) -> None:
    """Take selection, training, evaluation and pruning back, to be done again; the signals stay."""
    stores, timestep = context.stores, context.timestep
    evaluated = stores.ledger.phase(timestep, "evaluate")
    cells = cells_of(evaluated.result) if evaluated is not None else []
    with transaction(stores.db):
        event = stores.ledger.record_event(timestep, KIND, asdict(verdict))
        Undo(stores.db, event).phases_from(timestep, "select", Undone(cells, ()))
