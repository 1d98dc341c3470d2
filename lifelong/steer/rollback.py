"""Going back: the run is again what it was when a timestep had finished; nothing is deleted until `gc`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifelong.context import ADAPTER, Stores
from lifelong.errors import UsageError
from lifelong.recorded import FEEDING, config_of
from lifelong.upkeep.between import SETTLED, copy_and_sweep, settle
from stores.commit import fsync_folder, publish
from stores.database import transaction
from stores.digest import DECISIONS
from stores.disk import naming_faults
from stores.fsck import ALIAS
from stores.undo import Undo, Undone, events_undone

KIND = "rollback"
BACK = "rollback undone"


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did. event: its number in the ledger; datasets: those that have not been fed any more."""

    event: int
    to: int
    before: int
    datasets: tuple[str, ...]
    notes: tuple[str, ...]


def rollback(stores: Stores, to: int) -> RolledBack:
    """Take back every timestep after `to`, finished or under way, in one transaction.

    Raises:
        UsageError: there is no such timestep, nothing comes after it, or what it left was let go.
    """
    with transaction(stores.db):
        done = take_back(stores, to, "asked for")
    settle_down(stores)
    return done


def take_back(stores: Stores, to: int, why: str) -> RolledBack:
    """The same inside the caller's transaction; `settle_down` comes after it."""
    ledger = stores.ledger
    # Before the untrained model is on record, nothing is but what was fed: without it the run is as it was made.
    unstarted = to == 0 and ledger.phase(0, "start") is None
    notes = [] if unstarted else require_timestep(stores, to)
    before = last_begun(stores)
    if before <= to:
        raise UsageError(f"{stores.root} stands at timestep {to}: there is nothing to take back")
    fed = tuple(each.name for each in stores.pool.datasets() if each.timestep > to)
    told = {"to": to, "before": before, "datasets": fed, "why": why}
    event = ledger.record_event(to, KIND, told)
    Undo(stores.db, event).after(to, left_after(stores, to))
    ledger.set_meta(FEEDING, None)
    ledger.set_meta(SETTLED, None)
    return RolledBack(event, to, before, fed, tuple(notes))


def settle_down(stores: Stores) -> None:
    """Bring names and the database's copy in step with the timesteps that there are; can be done again at any time."""
    clear_aliases(stores)
    settle(stores)
    copy_and_sweep(stores)


def bring_back(stores: Stores) -> RolledBack:
    """Undo the last rollback, while nothing has been fed since.

    Raises:
        UsageError: there was none, something has been fed since, or `gc` has collected what it took back.
    """
    kept = events_undone(stores.db)
    last = next((event for event in reversed(stores.ledger.events(KIND)) if event.number in kept), None)
    if last is None:
        raise UsageError(
            f"{stores.root}: no rollback to undo; what was taken back is kept until `lifelong gc`"
        )
    to, before = int(last.told["to"]), int(last.told["before"])
    if last_begun(stores) != to:
        raise UsageError(
            f"{stores.root}: timesteps came after the rollback to {to}: go back to it first, "
            f"`lifelong rollback {stores.root} --to {to}`"
        )
    with transaction(stores.db):
        # Those of a rollback of what came after it, in between.
        stores.ledger.record_event(before, BACK, {"event": last.number, "to": to, "before": before})
        Undo(stores.db, last.number).bring_back()
    settle_down(stores)
    return RolledBack(last.number, to, before, tuple(last.told["datasets"]), ())


def require_timestep(stores: Stores, timestep: int) -> list[str]:
    """Check that the run can be what it was after a timestep; returns what a reader should know of it.

    Raises:
        UsageError: the timestep has not finished, or its adapter was let go.
    """
    ledger = stores.ledger
    finished = [
        0,
        *(each.timestep for each in stores.pool.datasets() if ledger.phase(each.timestep, "prune")),
    ]
    if timestep not in finished or ledger.phase(0, "start") is None:
        there = ", ".join(map(str, finished)) if ledger.phase(0, "start") is not None else "none"
        raise UsageError(f"{stores.root}: timestep {timestep} has not finished; there are: {there}")
    if not any(file.timestep == timestep and file.kind == ADAPTER for file in ledger.files()):
        raise UsageError(
            f"{stores.root}: the adapter of timestep {timestep} was let go, as keep.checkpoints said; "
            "no run can go on from there"
        )
    if ledger.phase(timestep + 1, "measure") is not None and _kept_trajectory(stores, timestep):
        return [
            f"the checkpoints of timestep {timestep}'s training are gone, since timestep {timestep + 1} has measured "
            "them: experts that read trajectories sit out the next timestep"
        ]
    return []


def last_begun(stores: Stores) -> int:
    """The last timestep, finished or under way; 0 if there is none."""
    request = stores.ledger.get_meta(FEEDING)
    under_way = 0 if request is None else int(request["timestep"])
    return max(under_way, stores.ledger.last_timestep() or 0)


def left_after(stores: Stores, timestep: int) -> Undone:
    """The evaluations that later timesteps made of earlier ones, and the skills that they registered."""
    ledger = stores.ledger
    tested = ledger.phase(timestep, "evaluate") if timestep else ledger.phase(0, "start")
    known = {skill for _, skill in cells_of(tested.result)} if tested is not None else set()
    later = range(timestep + 1, (ledger.last_timestep() or 0) + 1)
    records = [record for each in later if (record := ledger.phase(each, "evaluate")) is not None]
    cells = [cell for record in records for cell in cells_of(record.result)]
    # At timestep 0 a skill without an evaluation was registered after it; later ones test every skill there is.
    new = [skill.name for skill in stores.evals.skills() if skill.name not in known]
    return Undone(cells, new)


def cells_of(result: dict[str, Any]) -> list[tuple[int, str]]:
    """(timestep, skill) of the evaluations that a phase made, from its result."""
    cells = [name.rsplit(" after ", 1) for name in result.get("skills", {})]
    return [(int(after), skill) for skill, after in cells]


def clear_aliases(stores: Stores) -> None:
    """Make the stable names of decisions those of the timesteps that there are; can be done again at any time."""
    there = {
        record.timestep: record.committed for record in stores.ledger.files() if record.kind == DECISIONS
    }
    for path in sorted((stores.root / "timesteps").glob(f"*/{ALIAS}")):
        if int(path.parent.name) not in there:
            _unlink(path)
    for committed in there.values():
        if not (stores.root / committed.path).with_name(ALIAS).exists():
            publish(stores.root, committed, ALIAS)


def _unlink(path: Path) -> None:
    with naming_faults(path):
        path.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _kept_trajectory(stores: Stores, timestep: int) -> bool:
    from lifelong.recipes.method import method

    config = config_of(stores, timestep)
    return (
        config is not None
        and bool(config.measure.trajectory)
        and method(config.recipe, config).measures.trajectory
    )
