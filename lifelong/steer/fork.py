"""Another run that begins where this one stood after a timestep: its files are links, its database a copy."""

from __future__ import annotations

import os
import secrets
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.config import RunConfig, commented_yaml, read_config
from lifelong.context import DATABASE, Stores, as_run_errors
from lifelong.errors import RunError, UsageError
from lifelong.recipes.files import read_recipe
from lifelong.recipes.method import method
from lifelong.recorded import CONFIG, FEEDING
from lifelong.steer.rollback import left_after, require_timestep
from stores.commit import commit_bytes, fsync_folder, publish
from stores.database import open_database, transaction
from stores.disk import naming_faults
from stores.features import INDEX, MIGRATIONS
from stores.undo import Undo, forget_undone

if TYPE_CHECKING:
    from lifelong.run import Run

KIND = "fork"


@dataclass(frozen=True, slots=True)
class Forked:
    """What a fork cost. linked, copied: files; bytes: written, the database included; notes: what to know of it."""

    at: int
    linked: int
    copied: int
    bytes: int
    seconds: float
    notes: tuple[str, ...]


def fork(run: Run, new: Path, at: int | None = None, recipe: str | dict[str, str] | None = None) -> Forked:
    """Make the run `new`, in the state in which `run` was when timestep `at` (default: the last) had finished.

    Neither changes the other: every file is written once, and removing a link leaves the other one. The fork appears
    whole under its name or not at all. recipe: of the fork's next timesteps, instead of the run's.

    Raises:
        UsageError: `new` is there already, the timestep is not, or the recipe is wrong.
    """
    began = time.monotonic()
    if new.exists():
        raise UsageError(f"{new} is there already; name a new folder for the fork")
    config = run.config
    if recipe is not None:
        config = config.model_copy(update={"recipe": read_recipe(recipe)})
    method(config.recipe, config)
    new.absolute().parent.mkdir(parents=True, exist_ok=True)
    staged = new.absolute().parent / f".{new.name}.fork-{secrets.token_hex(4)}"
    with as_run_errors(run.root):
        try:
            made = _Fork(run, staged)
            notes = made.database(at)
            made.files()
            made.features(config)
            made.config(config if recipe is not None else None)
            for folder in [path for path in staged.rglob("*") if path.is_dir()]:
                fsync_folder(folder)
            fsync_folder(staged)
            os.rename(staged, new)
            fsync_folder(new.absolute().parent)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    _back_up(new)
    return Forked(made.at, made.linked, made.copied, made.bytes, time.monotonic() - began, tuple(notes))


def _back_up(new: Path) -> None:
    """What any opening for writing does: the proved copy of the database."""
    from lifelong.run import Run
    from lifelong.upkeep.between import copy_and_sweep

    with Run(new).writing() as stores:
        copy_and_sweep(stores)


class _Fork:
    """A fork being put together in a folder that nobody looks at yet."""

    def __init__(self, run: Run, staged: Path) -> None:
        self._run = run
        self._staged = staged
        self._paths: list[str] = []
        self.at = 0
        self.linked = self.copied = self.bytes = 0
        staged.mkdir()

    def database(self, at: int | None) -> list[str]:
        """A copy of the database as it is at this instant, taken back to the timestep."""
        path = self._staged / DATABASE
        with self._run.reading() as stores:
            finished = [each for each in _finished(stores) if at is None or each == at]
            self.at = finished[-1] if finished else (at or 0)
            notes = require_timestep(stores, self.at)
            stores.db.execute("VACUUM INTO ?", [str(path)])
        db = open_database(path)
        try:
            stores = Stores(self._staged, db)
            origin = self._origin(stores)
            with transaction(db):
                forget_undone(db)
                event = stores.ledger.record_event(self.at, KIND, origin)
                Undo(db, event, keep=False).after(self.at, left_after(stores, self.at))
                stores.ledger.set_meta(FEEDING, None)
                stores.ledger.set_meta("run_id", uuid.uuid4().hex)
                stores.ledger.set_meta("origin", origin)
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            known = (
                "SELECT path FROM files UNION SELECT path FROM shards UNION SELECT path FROM media"
                " WHERE kind = 'packed' ORDER BY path"
            )
            self._paths = [name for (name,) in db.execute(known)]
        finally:
            db.close()
        self.bytes += path.stat().st_size
        return notes

    def _origin(self, stores: Stores) -> dict[str, Any]:
        return {
            "run_id": stores.ledger.get_meta("run_id"),
            "folder": str(self._run.root.absolute()),
            "timestep": self.at,
        }

    def files(self) -> None:
        """Links to every file that the fork needs."""
        for name in self._paths:
            source = self._run.root / name
            if not source.exists():
                raise RunError(
                    f"{source} is missing: the run was changed meanwhile, or is damaged (`lifelong fsck "
                    f"{self._run.root}` tells); try again"
                )
            for each in [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]:
                self._link(each, self._staged / each.relative_to(self._run.root))
        for name in self._paths:
            if name.startswith("timesteps/") and "/decisions-" in name:
                alias = self._staged / name.rsplit("/", 1)[0] / "decisions.parquet"
                self._link(self._staged / name, alias)

    def features(self, config: RunConfig) -> None:
        """The features of content: their index is written to, hence copied; their files are links."""
        folder = self._run.root / "features"
        if config.encoder.cache or not (folder / INDEX).exists():
            return
        (self._staged / "features").mkdir()
        index = open_database(folder / INDEX, read_only=True, migrations=MIGRATIONS)
        try:
            index.execute("VACUUM INTO ?", [str(self._staged / "features" / INDEX)])
            names = [name for (name,) in index.execute("SELECT path FROM shards")]
        finally:
            index.close()
        self.bytes += (self._staged / "features" / INDEX).stat().st_size
        for name in names:
            self._link(folder / name, self._staged / "features" / name)

    def config(self, changed: RunConfig | None) -> None:
        """The configuration is the user's to edit in place, and must be a file of its own."""
        path = self._run.root / CONFIG
        text = path.read_bytes() if changed is None else commented_yaml(changed).encode()
        publish(self._staged, commit_bytes(self._staged, ".", "config", ".yaml", text), CONFIG)
        read_config(self._staged / CONFIG)
        self.bytes += len(text)

    def _link(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
            self.linked += 1
        except OSError:
            with naming_faults(target):
                shutil.copyfile(source, target)
                descriptor = os.open(target, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
            self.copied += 1
            self.bytes += target.stat().st_size


def _finished(stores: Stores) -> list[int]:
    fed = sorted({each.timestep for each in stores.pool.datasets()})
    return [0, *(timestep for timestep in fed if stores.ledger.phase(timestep, "prune") is not None)]
