"""The guard: after each timestep, has it harmed a skill beyond what is allowed and beyond the noise of its eval set?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from lifelong import seeds
from lifelong.config import GuardConfig, RunConfig
from lifelong.context import Context, Stores
from lifelong.errors import GuardError, UsageError
from lifelong.steer.answers import AnswerBook, comparison
from lifelong.steer.rollback import settle_down, take_back
from policies.guards import Comparison, below, harm, harm_by_z
from stores.database import transaction
from stores.ledger import Evaluation, Event

KIND = "guard"
ACCEPTED = "accepted"
STOPPED, ROLLED_BACK, RETRIED = "stopped", "rolled back", "retried"


@dataclass(slots=True)
class Verdict:
    """What a guard found after a timestep.

    p: of the worst fall, all comparisons together (None: nothing to compare); harmed: the skills that fell by more
    than is allowed, each judged with the others; average, p_average: of the skills seen so far; attempt: of training,
    from 0.
    """

    timestep: int
    tripped: bool
    test: str
    level: float
    compared: int
    p: float | None = None
    harmed: list[dict[str, Any]] = field(default_factory=list)
    average: float | None = None
    p_average: float | None = None
    attempt: int = 0
    each: float = 0.0
    """Level of each of the two limits: half of `level` where both are set."""
    action: str = ""
    """What came of it: "" (the guard holds), or one of STOPPED, ROLLED_BACK, RETRIED."""
    dataset: str = ""
    source: str = ""

    def told(self) -> str:
        """In words."""
        parts = [
            f"{each['skill']} fell from {100 * each['best']:.1f} % (timestep {each['timestep']}) to "
            f"{100 * each['now']:.1f} %, p = {each['p']:.2g}"
            for each in self.harmed
        ]
        if self.p_average is not None and self.p_average < self.each:
            parts.append(
                f"the average accuracy is {100 * (self.average or 0):.1f} %, p = {self.p_average:.2g}"
            )
        return "; ".join(parts) or "nothing was harmed"


def guarded(config: RunConfig) -> bool:
    """Whether a configuration has a guard."""
    return config.guard.max_forgetting is not None or config.guard.min_average is not None


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


def accepted(stores: Stores, timestep: int) -> int:
    """The last timestep before `timestep` whose harm was accepted: comparisons begin there; 0 if none was."""
    found = [event.timestep for event in _standing(stores) if event.kind == ACCEPTED]
    return max((each for each in found if each < timestep), default=0)


def verdicts(stores: Stores, timestep: int) -> list[Verdict]:
    """The verdicts on a timestep since it last began, in order."""
    found = (event for event in _standing(stores) if event.kind == KIND)
    return [Verdict(**event.told) for event in found if event.timestep == timestep]


def _standing(stores: Stores) -> list[Event]:
    """The events that tell of timesteps as they are now: not of those that were taken back, nor of what a fork left."""
    found: list[Event] = []
    before: dict[int, list[Event]] = {}
    for event in stores.ledger.events():
        match event.kind:
            case "rollback":
                before[event.number] = found
                found = [each for each in found if each.timestep <= event.told["to"]]
            case "rollback undone":
                found = before.get(event.told["event"], found)
            case "fork":
                found = [each for each in found if each.timestep <= event.told["timestep"]]
            case _:
                found = [*found, event]
    return found


def pending(stores: Stores, config: RunConfig, timestep: int) -> bool:
    """Whether a timestep whose phases are done has yet to be judged."""
    if not guarded(config):
        return False
    found = verdicts(stores, timestep)
    return not found or found[-1].action == RETRIED


def stopped(stores: Stores) -> Verdict | None:
    """The verdict that stopped the run, if it has neither been accepted nor taken back."""
    last = stores.ledger.last_timestep() or 0
    found = verdicts(stores, last)
    if not found or found[-1].action != STOPPED or accepted(stores, last + 1) == last:
        return None
    return found[-1]


def told_of(stores: Stores, timestep: int) -> dict[str, Any] | None:
    """The last verdict on a timestep, as `lifelong status` tells it; None if there is none."""
    found = verdicts(stores, timestep)
    if not found:
        return None
    last = found[-1]
    retried = sum(each.action == RETRIED for each in found)
    return {
        "tripped": last.tripped,
        "action": last.action,
        "p": last.p,
        "told": last.told(),
        "retried": retried,
    }


def accept(stores: Stores) -> Verdict:
    """Let the run go on from what a guard stopped at: later timesteps are compared with this one and what follows.

    Raises:
        UsageError: no guard has stopped the run.
    """
    verdict = stopped(stores)
    if verdict is None:
        raise UsageError(f"no guard has stopped {stores.root}: there is nothing to accept")
    stores.ledger.record_event(
        verdict.timestep, ACCEPTED, {"dataset": verdict.dataset, "harm": verdict.told()}
    )
    return verdict


def last_trip(stores: Stores) -> GuardError | None:
    """The last time that a guard tripped and took its timestep back, as the error that it raised then."""
    events = [event for event in stores.ledger.events(KIND) if event.told["action"] == ROLLED_BACK]
    return error_of(Verdict(**events[-1].told)) if events else None


def error_of(verdict: Verdict, root: object = "RUN") -> GuardError:
    """What ends the command."""
    undone, before = verdict.action == ROLLED_BACK, verdict.timestep - 1
    after = (
        f"the timestep has been taken back, and the run is as timestep {before} left it"
        if undone
        else f"nothing is fed until `lifelong rollback {root} --to {before}` or `lifelong accept {root}`"
    )
    tried = f" after {verdict.attempt} retries" if verdict.attempt else ""
    message = f"the guard tripped at timestep {verdict.timestep} ({verdict.dataset}){tried}: {verdict.told()}; {after}"
    return GuardError(message, verdict.timestep, asdict(verdict), undone, verdict.source)


def watch_over(context: Context) -> None:
    """Judge the timestep whose phases are done, and act on it; killed on the way, it is judged again.

    Raises:
        GuardError: it tripped, and the action is not a retry that helped.
    """
    from lifelong.steer.retry import retry

    stores, timestep = context.stores, context.timestep
    while pending(stores, context.config, timestep):
        attempts = len(verdicts(stores, timestep))
        verdict = judge(stores, context.config, timestep, attempts)
        verdict.action = _action(context, verdict)
        _say(context, verdict)
        if verdict.action == RETRIED:
            retry(context, verdict)
        else:
            _act(context, verdict)


def _action(context: Context, verdict: Verdict) -> str:
    from lifelong.steer.retry import can_retry

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
