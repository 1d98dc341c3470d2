"""The loop: one timestep of lifelong learning, as Adapt-∞ states it (arXiv 2410.10636, Algorithm 1).

Each phase is a function of the resolved configuration, of what earlier phases committed, and of a seed
derived from (run seed, timestep, phase). It leaves one commit. Nothing else carries state, so a run goes
on, wherever it was stopped, by running the first phase that has no commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

from lifelong.context import Context, Outcome, Stores
from lifelong.environment import environment
from lifelong.phases.cluster import cluster
from lifelong.phases.evaluate import evaluate
from lifelong.phases.ingest import ingest
from lifelong.phases.measure import measure
from lifelong.phases.prune import prune
from lifelong.phases.route import route
from lifelong.phases.select import select
from lifelong.phases.start import start
from lifelong.phases.train import train
from lifelong.recorded import keep_config
from lifelong.steer.forecast import keep_forecast
from lifelong.steer.guard import watch_over
from lifelong.upkeep.between import settle
from lifelong.upkeep.room import require_room
from stores.clock import KEEPING
from stores.commit import publish
from stores.database import transaction
from stores.ledger import Ledger

Phase = Callable[[Context], Outcome]

PHASES: dict[str, Phase] = {
    "ingest": ingest,  # the dataset joins the pool
    "measure": measure,  # the current model reads every sample
    "cluster": cluster,  # samples of like gradients are a pseudo-skill
    "route": route,  # each cluster gets the expert that tells its samples apart
    "select": select,  # the budget is shared and spent
    "train": train,  # the model learns the selection
    "evaluate": evaluate,  # every skill is tested
    "prune": prune,  # redundant samples are let go for good
}


def run_timestep(context: Context) -> None:
    """Run the phases of a timestep that are not committed yet, in order; then it is judged, and put away.

    Raises:
        GuardError: a guard tripped.
    """
    run_phases(context)
    watch_over(context, run_phases)
    settle(context.stores)


def run_phases(context: Context) -> None:
    """Run the phases of a timestep that are not committed yet, in order."""
    for name, phase in PHASES.items():
        if context.stores.ledger.phase(context.timestep, name) is None:
            run_phase(context, context.timestep, name, phase)
        if name == "ingest":
            _ensure_started(context)
            keep_config(context.stores, context.timestep, context.config)
            keep_forecast(context.stores, context.config, context.timestep)
    publish_decisions(context.stores, context.timestep)


def _ensure_started(context: Context) -> None:
    """Once in a run's life: the untrained adapter and row 0 of the skill matrix, before any training."""
    if context.stores.ledger.phase(0, "start") is None:
        run_phase(context, 0, "start", start)


def run_phase(context: Context, timestep: int, name: str, phase: Phase) -> None:
    """Run one phase and commit what it leaves."""
    began = time.monotonic()
    require_room(context, timestep, name)
    ledger: Ledger = context.stores.ledger
    # Ingest streams its rows into the database as it reads them: they and the commit are one transaction.
    with transaction(context.stores.db) if phase is ingest else nullcontext():
        outcome = phase(context)
        ledger.commit(
            timestep,
            name,
            seed=context.seed(name),
            result=outcome.result,
            seconds=time.monotonic() - began,
            files=outcome.files,
            apply=outcome.apply,
            environment=environment(context.stores, context.config, timestep),
            kept=KEEPING.take(),
        )
    record = ledger.phase(timestep, name)
    assert record is not None
    context.progress.say(f"  {name:<9} {record.seconds:6.1f} s  {describe(name, record.result)}")
    context.callbacks.phase_ended(record)


def publish_decisions(stores: Stores, timestep: int) -> None:
    """Give the decisions their stable name; an alias of the committed file that can be made again."""
    for record in stores.ledger.files(timestep):
        if record.kind == "decisions":
            publish(stores.root, record.committed, "decisions.parquet")


def describe(phase: str, result: dict) -> str:
    """A phase's result in a few words."""
    match phase:
        case "start":
            return "before any training: " + _values(result["skills"])
        case "ingest":
            return (
                f"{result['accepted']} of {result['rows']} rows join the pool, {result['rejected']} rejected, "
                f"{result['duplicates']} duplicates"
            )
        case "measure":
            passes = " + ".join(result["passes"]) or "no pass needed"
            quarantined = f", {result['quarantined']} quarantined" if result["quarantined"] else ""
            halved = f", {result['halved']} batches halved to fit in memory" if result["halved"] else ""
            carried = f", {result['carried']} keep earlier signals" if result.get("carried") else ""
            return f"{result['measured']} samples{carried}, {passes}{quarantined}{halved}"
        case "cluster":
            return (
                f"{result['clusters']} clusters of {min(result['sizes'])} to {max(result['sizes'])} samples"
            )
        case "route":
            chosen = list(result["choice"].values())
            return ", ".join(f"{name} decides {chosen.count(name)}" for name in dict.fromkeys(chosen))
        case "select":
            over = ", which this recipe does not keep to" if result["selected"] > result["budget"] else ""
            return (
                f"{result['selected']} samples, {result['new']} of them new (budget {result['budget']}{over})"
            )
        case "train":
            loss = "" if result["loss"] is None else f", mean loss {result['loss']:.3f}"
            skipped = f", {len(result['skipped'])} of them skipped" if result["skipped"] else ""
            split = f", {result['split']} batches halved to fit in memory" if result["split"] else ""
            weight = result.get("weight", 1)
            mean = f"; kept: {weight:.0%} of it, the rest as before" if weight < 1 else ""
            return f"{result['steps']} steps on {result['samples']} samples{loss}{skipped}{split}{mean}"
        case "evaluate":
            return _values(result["skills"])
        case _:
            return f"{result['pruned']} samples leave the pool, {result['live']} stay"


def _values(skills: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.0f} %" for name, value in skills.items()) or "no eval set yet"
