"""What was done to a run, in words: guards, rollbacks, retirements, where it was forked from, how forecasts did."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lifelong.context import Stores
from lifelong.steer.forecast import errors, forecasts
from lifelong.steer.verdicts import Verdict
from stores.clock import day
from stores.ledger import PHASES, Event


@dataclass(frozen=True, slots=True)
class Steered:
    """One thing that was done. timestep: the last one then, or the one that was judged; at: when, "" if not known."""

    timestep: int
    what: str
    told: str
    at: str = ""


def history(stores: Stores) -> list[Steered]:
    """Everything that was done to the run, in order."""
    return [replace(_steered(event), at=day(event.at)) for event in stores.ledger.events()]


def foretold(stores: Stores) -> list[dict[str, Any]]:
    """Forecast beside actual, in seconds, of each finished timestep that was forecast."""
    made, wrong = forecasts(stores), errors(stores)
    return [
        {
            "timestep": timestep,
            "forecast": made[timestep].total,
            "actual": sum(
                record.seconds for record in stores.ledger.phases(timestep) if record.phase in PHASES
            ),
            "error": error,
        }
        for timestep, error in wrong.items()
    ]


def _steered(event: Event) -> Steered:
    told = event.told
    match event.kind:
        case "guard":
            verdict = Verdict(**told)
            what = f"guard: {verdict.action or 'holds'}"
            return Steered(verdict.timestep, what, f"{verdict.dataset}: {verdict.told()}")
        case "accepted":
            return Steered(event.timestep, "harm accepted", told["harm"])
        case "rollback":
            taken = ", ".join(told["datasets"]) or "what was under way"
            return Steered(
                event.timestep, f"rolled back to {told['to']}", f"{taken} taken back; {told['why']}"
            )
        case "rollback undone":
            return Steered(
                event.timestep, "rollback undone", f"timesteps {told['to'] + 1} to {told['before']} are back"
            )
        case "retired":
            trained = ", ".join(map(str, told["trained_on"])) or "none"
            return Steered(
                event.timestep,
                "retired",
                f"{told['samples']} samples: {told['reason']}. Timesteps that trained on some: {trained}; the last "
                f"adapter that has learned nothing of them: {told['clean']}",
            )
        case _:
            return Steered(
                event.timestep, "forked", f"from timestep {told['timestep']} of run {told['run_id']}"
            )
