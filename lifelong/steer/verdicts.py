"""What guards have found: verdicts on record, what stands of them, and the error that ends a command."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lifelong.config import RunConfig
from lifelong.context import Stores
from lifelong.errors import GuardError, UsageError
from stores.ledger import Event

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
