"""Making again what follows from what is sound: the same phase, on what it saw then, leaves the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lifelong.context import DATABASE, Context, ModelHolder, Outcome, Stores
from lifelong.errors import LifelongError
from lifelong.loop import PHASES, publish_decisions
from lifelong.phases.measure import ask_producers
from lifelong.phases.start import start
from lifelong.progress import Progress, Silent
from lifelong.recorded import CONFIG, config_of, write_config
from lifelong.signals.frozen import features_of
from lifelong.signals.pool import MEASURED
from lifelong.upkeep.fsck import examine, features_folder
from lifelong.upkeep.past import ORDER, different, models_of, past
from stores.backup import BACKUP, back_up, restore, timestep_of_backup
from stores.commit import sweep, verify
from stores.database import open_database
from stores.errors import DamagedError, StoreError
from stores.features import INDEX, Block, Features, open_features
from stores.fsck import FOLDERS, Problem
from stores.lock import RunLock

Unit = tuple[int, str]
"""A phase of a timestep."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of a damaged file. done: whether it is as it was; told: how, or why not."""

    path: str
    done: bool
    told: str


def repair(root: Path, progress: Progress | None = None) -> list[Repaired]:
    """Make again whatever of a run's damaged files can be made again, bit for bit.

    Raises: LockedError if another process is writing to the run.
    """
    progress = progress or Silent()
    with RunLock(root):
        done = list(_repair_database(root))
        if any(not each.done for each in done):
            return done
        problems = [problem for problem in examine(root) if problem.kind == "damaged"]
        db = open_database(root / DATABASE)
        try:
            stores = Stores(root, db)
            done += _Repair(stores, progress).all(problems)
            sweep(root, stores.ledger.known_paths(), FOLDERS)
        finally:
            db.close()
    return done


def _repair_database(root: Path) -> Iterator[Repaired]:
    for problem in examine(root):
        if problem.path == f"{DATABASE}-wal":
            # Opened for writing, SQLite takes what it can read of the log and begins another.
            open_database(root / DATABASE).close()
            yield Repaired(
                problem.path,
                True,
                f"the commits that it had lost are to be made again: `lifelong resume {root}`",
            )
        elif problem.path == DATABASE:
            try:
                restore(root, root / DATABASE)
            except DamagedError as error:
                yield Repaired(problem.path, False, str(error))
                return
            timestep = timestep_of_backup(root)
            yield Repaired(problem.path, True, f"as timestep {timestep} left it; feed again what came after")


class _Repair:
    """The repair of a run whose database is sound."""

    def __init__(self, stores: Stores, progress: Progress) -> None:
        self._stores = stores
        self._progress = progress
        self._models: dict[int, ModelHolder] = {}

    def all(self, problems: list[Problem]) -> Iterator[Repaired]:
        damaged = {problem.path: problem for problem in problems if problem.rebuild}
        for problem in problems:
            if not problem.rebuild:
                yield Repaired(problem.path, False, f"{problem.holds} cannot be made again")
        yield from self._features(damaged)
        for unit, paths in sorted(
            self._units(damaged).items(), key=lambda item: (item[0][0], ORDER[item[0][1]])
        ):
            yield from self._phase(unit, paths)
        for path in damaged:
            if path.endswith("/decisions.parquet"):
                publish_decisions(self._stores, int(path.split("/")[-2]))
                yield Repaired(path, True, "given its second name again")
        if CONFIG in damaged:
            yield self._config()
        if BACKUP in damaged:
            back_up(self._stores.db, self._stores.root)
            yield Repaired(BACKUP, True, "copied again")

    def _units(self, damaged: dict[str, Problem]) -> dict[Unit, list[str]]:
        """The phases that left the damaged files."""
        units: dict[Unit, list[str]] = {}
        for shard in self._stores.ledger.shards(kind=MEASURED):
            if shard.path in damaged:
                units.setdefault((shard.timestep, "measure"), []).append(shard.path)
        for record in self._stores.ledger.files():
            if record.committed.path in damaged:
                units.setdefault((record.timestep, record.phase), []).append(record.committed.path)
        return units

    def _phase(self, unit: Unit, paths: list[str]) -> Iterator[Repaired]:
        """Run a phase again and see that what it leaves is what is on record."""
        timestep, phase = unit
        try:
            run: Callable[[Context], Outcome] = start if phase == "start" else PHASES[phase]
            context = past(
                self._stores, timestep, phase, set(paths), self._models_of(timestep, phase), self._progress
            )
            if ORDER[phase] > ORDER["measure"]:
                ask_producers(context)
            run(context)
        except (LifelongError, StoreError) as error:
            yield from (Repaired(path, False, str(error)) for path in paths)
            return
        for record in self._stores.ledger.files(timestep):
            if record.committed.path in paths:
                yield self._verified(record.committed.path, record.holds)
                if record.kind == "decisions":
                    publish_decisions(self._stores, timestep)
        for shard in self._stores.ledger.shards(timestep, MEASURED):
            if shard.path in paths:
                yield self._verified(shard.path, shard.holds)

    def _verified(self, path: str, holds: str) -> Repaired:
        known = [record.committed for record in self._stores.ledger.files()]
        known += [shard.committed for shard in self._stores.ledger.shards()]
        (committed,) = (each for each in known if each.path == path)
        try:
            verify(self._stores.root, committed, holds=holds)
        except DamagedError:
            return Repaired(path, False, different(holds))
        return Repaired(path, True, f"{holds}, made again")

    def _models_of(self, timestep: int, phase: str) -> ModelHolder:
        fresh = models_of(self._stores, timestep)
        if phase == "start":
            return fresh  # it needs the adapter as drawn from the seed
        for holder in self._models.values():
            if holder.config == fresh.config:
                return holder
        return self._models.setdefault(timestep, fresh)

    def _config(self) -> Repaired:
        stores = self._stores
        config = config_of(stores, stores.ledger.last_timestep() or 0)
        assert config is not None  # else it would not be said to be rebuilt
        write_config(stores.root, config)
        return Repaired(CONFIG, True, "the last timestep's configuration")

    def _features(self, damaged: dict[str, Problem]) -> Iterator[Repaired]:
        folder = features_folder(self._stores)
        index = folder / INDEX
        if _within(self._stores.root, index) in damaged:
            for suffix in ("-wal", "-shm", ""):
                index.with_name(index.name + suffix).unlink(missing_ok=True)
            yield Repaired(_within(self._stores.root, index), True, self._features_again())
        elif index.exists():
            with open_features(folder) as features:
                for block in features.blocks():
                    path = _within(self._stores.root, folder / block.committed.path)
                    if path in damaged:
                        yield Repaired(path, True, self._block_again(features, block))
                if folder == self._stores.root / "features":
                    features.sweep()

    def _features_again(self) -> str:
        """Features of every sample that was ever measured, in the blocks in which they were made."""
        try:
            for timestep in range(1, (self._stores.ledger.last_timestep() or 0) + 1):
                models = self._models_of(timestep, "measure")
                ask_producers(past(self._stores, timestep, "measure", set(), models, self._progress))
        except (LifelongError, StoreError) as error:
            return f"begun anew; what is missing is made when it is next asked for ({error})"
        return "made again"

    def _block_again(self, features: Features, block: Block) -> str:
        """A block's file as it was, or else no block: its samples then get features when they are next asked for."""
        members = features.members(block)
        timestep = self._stores.ledger.last_timestep() or 0
        try:
            context = past(
                self._stores, timestep, "measure", set(), self._models_of(timestep, "measure"), self._progress
            )
            maker = next((each for each in context.producers() if each.name == block.producer), None)
            if maker is not None and len(members) == block.rows:
                rows = list(self._stores.pool.rows(self._stores.pool.ordinals(members)))
                again = features.write(features_of(maker, self._stores.loader, rows))
                if again == block.committed:
                    return "made again"
        except (LifelongError, StoreError):
            pass  # an image is gone, or the sample is another run's
        features.forget(block)
        return "forgotten: made anew when it is next asked for"


def _within(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
