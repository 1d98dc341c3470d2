"""The guard: after each timestep, has it harmed a skill beyond what is allowed and beyond the noise of its eval set?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

from lifelong import seeds
from lifelong.config import GuardConfig, RunConfig
from lifelong.context import Context, Stores
from lifelong.steer.answers import AnswerBook, comparison
from lifelong.steer.retry import can_retry, retry
from lifelong.steer.rollback import settle_down, take_back
from lifelong.steer.verdicts import (
    KIND,
    RETRIED,
    ROLLED_BACK,
    STOPPED,
    Verdict,
    accepted,
    error_of,
    pending,
    verdicts,
)
from policies.guards import Comparison, below, harm, harm_by_z
from stores.database import transaction
from stores.ledger import Evaluation


def judge(stores: Stores, config: RunConfig, timestep: int, attempt: int = 0) -> Verdict:
    """Compare the skills after a timestep with what they were after each earlier one (Chaudhry et al.'s forgetting).

    Earlier means from the last accepted timestep on. The level holds for the timestep as a whole: where both limits are
    set each has half of it.
    """
    guard = config.guard
    both = guard.max_forgetting is not None and guard.min_average is not None
    level = guard.level / 2 if both else guard.level
    found = Verdict(timestep, False, guard.test, guard.level, 0, attempt=attempt, each=level)
    if guard.max_forgetting is not None:
        _judge_forgetting(stores, config, found, guard.max_forgetting, level)
    if guard.min_average is not None:
        _judge_average(stores, found, guard.min_average)
    low = found.p_average is not None and found.p_average < level
    found.tripped = bool(found.harmed) or low
    fed = next((each for each in stores.pool.datasets() if each.timestep == timestep), None)
    if fed is not None:
        found.dataset, found.source = fed.name, fed.source
    return found


def _judge_forgetting(stores: Stores, config: RunConfig, found: Verdict, margin: float, level: float) -> None:
    timestep, guard = found.timestep, config.guard
    pairs = _pairs(stores, guard, timestep)
    found.compared = len(pairs)
    book = AnswerBook(stores)
    by_skill: dict[str, list[tuple[Evaluation, Evaluation, Comparison]]] = {}
    for before, after in pairs:
        was, now = (book.scored(each.timestep, each.skill) for each in (before, after))
        compared = comparison(before, after, was, now, pair=guard.test == "paired")
        by_skill.setdefault(after.skill, []).append((before, after, compared))
    family = [each for some in by_skill.values() for each in some]
    # Step down: the worst skill is judged with all, and where it is harmed the next worst with those that are left.
    while family:
        p, worst = _p([each for _, _, each in family], margin, config, timestep)
        found.p = p if found.p is None else found.p
        if p >= level:
            return
        before, after, _ = family[worst]
        found.harmed.append(
            {
                "skill": after.skill,
                "timestep": before.timestep,
                "best": before.value,
                "now": after.value,
                "p": p,
            }
        )
        family = [each for each in family if each[1].skill != after.skill]


def _p(family: list[Comparison], margin: float, config: RunConfig, timestep: int) -> tuple[float, int]:
    if config.guard.test == "z":
        return harm_by_z(family, margin)
    return harm(family, margin, seeds.generator(config.seed, timestep, "guard", "bootstrap"))


def _pairs(stores: Stores, guard: GuardConfig, timestep: int) -> list[tuple[Evaluation, Evaluation]]:
    """(before, after) of each protected skill, for each earlier timestep."""
    cells = {(each.timestep, each.skill): each for each in stores.ledger.evaluations()}
    first = accepted(stores, timestep)
    return [
        (before, after)
        for (when, skill), before in sorted(cells.items())
        if first <= when < timestep and (not guard.protect or skill in guard.protect)
        for after in [cells.get((timestep, skill))]
        if after is not None
    ]


def _judge_average(stores: Stores, found: Verdict, least: float) -> None:
    seen = {each.name for each in stores.evals.skills() if each.timestep is not None}
    cells = [e for e in stores.ledger.evaluations() if e.timestep == found.timestep and e.skill in seen]
    if cells:
        average, p = below([cell.value for cell in cells], [cell.stderr for cell in cells], least)
        found.average, found.p_average = average, p


def watch_over(context: Context, again: Callable[[Context], None]) -> None:
    """Judge the timestep whose phases are done, and act on it; killed on the way, it is judged again.

    again: runs the phases of a timestep that are not committed, for a retry.

    Raises:
        GuardError: it tripped, and the action is not a retry that helped.
    """
    stores, timestep = context.stores, context.timestep
    while pending(stores, context.config, timestep):
        attempts = len(verdicts(stores, timestep))
        verdict = judge(stores, context.config, timestep, attempts)
        verdict.action = _action(context, verdict)
        _say(context, verdict)
        if verdict.action == RETRIED:
            retry(context, verdict)
            again(context)
        else:
            _act(context, verdict)


def _action(context: Context, verdict: Verdict) -> str:
    if not verdict.tripped:
        return ""
    match context.config.guard.action:
        case "rollback":
            return ROLLED_BACK
        case "retry" if verdict.attempt < context.config.guard.retries and can_retry(context, verdict):
            return RETRIED
        case _:
            return STOPPED


def _act(context: Context, verdict: Verdict) -> None:
    stores, timestep = context.stores, context.timestep
    with transaction(stores.db):
        stores.ledger.record_event(timestep, KIND, asdict(verdict))
        if verdict.action == ROLLED_BACK:
            take_back(stores, timestep - 1, f"guard: {verdict.told()}")
    if verdict.action:
        settle_down(stores)
        raise error_of(verdict, context.root)


def _say(context: Context, verdict: Verdict) -> None:
    p = "" if verdict.p is None or not math.isfinite(verdict.p) else f", p = {verdict.p:.2g}"
    of = f"{verdict.compared} comparisons{p}" if verdict.compared else "nothing to compare with"
    context.progress.say(f"  guard     {verdict.told() if verdict.tripped else 'holds'} ({of})")
