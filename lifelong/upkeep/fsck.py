"""What is wrong with a run: each damaged file, what it holds, and whether it can be made again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifelong.config import RunConfig, read_config
from lifelong.context import ADAPTER, DATABASE, Stores
from lifelong.errors import UsageError
from lifelong.recorded import CONFIG, config_of
from lifelong.signals.pool import MEASURED, complete
from stores.backup import BACKUP, timestep_of_backup
from stores.commit import garbage, verify
from stores.database import open_database
from stores.errors import DamagedError
from stores.features import FOLDER as FEATURE_SHARDS
from stores.features import INDEX, Features
from stores.features import MIGRATIONS as FEATURE_MIGRATIONS
from stores.fsck import Problem, check_backup, check_database, check_files
from stores.integrity import faults


def examine(root: Path) -> list[Problem]:
    """Every problem of a run; a problem of the database alone if it has one, since the rest is judged by it.

    Raises: StoreError if the database is of another version of the package.
    """
    backup = check_backup(root)
    broken = check_database(root / DATABASE)
    if broken is not None:
        copied = timestep_of_backup(root) if backup is None and (root / BACKUP).exists() else None
        broken = replace(broken, rebuild=broken.path.endswith("-wal") or copied is not None)
        if copied is not None and not broken.path.endswith("-wal"):
            until = f"there is a sound copy of it as timestep {copied} left it"
            broken = replace(broken, message=f"{broken.message}; {until}")
        return [_told(root, problem) for problem in (broken, backup) if problem is not None]
    db = open_database(root / DATABASE, read_only=True)
    try:
        stores = Stores(root, db)
        found = [*_files(stores), *_features(stores), *_config(stores), *([backup] if backup else [])]
        ways = _way_back(stores)
    finally:
        db.close()
    return [_told(root, problem, ways.get(problem.path, "")) for problem in found]


def features_folder(stores: Stores) -> Path:
    """Where the run keeps features that depend on content alone."""
    config = config_of(stores, stores.ledger.last_timestep() or 0)
    return Path(config.encoder.cache) if config and config.encoder.cache else stores.root / "features"


def open_index(folder: Path) -> Features:
    """The features in a folder, to read. The caller closes their database."""
    return Features(folder, open_database(folder / INDEX, read_only=True, migrations=FEATURE_MIGRATIONS))


def _told(root: Path, problem: Problem, way: str = "") -> Problem:
    if problem.kind != "damaged":
        return problem
    remedy = (
        f"`lifelong fsck {root} --repair` makes it again"
        if problem.rebuild
        else f"it cannot be made again here{way}"
    )
    return replace(problem, message=f"{problem.message}; {remedy}")


def _way_back(stores: Stores) -> dict[str, str]:
    """What can be done without the last timestep's adapter, by its path: the run goes on from the one before."""
    adapters = {each.timestep: each.committed.path for each in stores.ledger.files() if each.kind == ADAPTER}
    last = max(adapters, default=0)
    if last - 1 not in adapters:
        return {}
    back = f"`lifelong rollback {stores.root} --to {last - 1}`, and feed again what came after it"
    return {adapters[last]: f"; the run can go on without it: {back}"}


def _files(stores: Stores) -> Iterator[Problem]:
    again = _made_again(stores)
    for problem in check_files(stores.db, stores.root):
        yield replace(problem, rebuild=True) if problem.path in again else problem


def _made_again(stores: Stores) -> set[str]:
    """Paths of what follows from what is kept: signals from adapter and pool; decisions from signals; answers."""
    ledger = stores.ledger
    adapters = {record.timestep for record in ledger.files() if record.kind == ADAPTER}
    timesteps = {record.timestep for record in ledger.files()}
    measured = {timestep for timestep in timesteps if complete(stores, timestep)}
    of_shards = {
        shard.path for shard in ledger.shards() if shard.kind == MEASURED and shard.timestep - 1 in adapters
    }
    of_files = {
        record.committed.path
        for record in ledger.files()
        if record.kind != ADAPTER and (record.timestep in measured or record.phase in ("start", "evaluate"))
    }
    aliases = {f"{path.rsplit('/', 1)[0]}/decisions.parquet" for path in of_files}
    return of_shards | of_files | aliases


def _features(stores: Stores) -> Iterator[Problem]:
    folder = features_folder(stores)
    if not (folder / INDEX).exists():
        return
    own = folder == stores.root / "features"
    if wrong := faults(folder / INDEX, FEATURE_MIGRATIONS):
        holds = "index of the features"
        message = f"{folder / INDEX} ({holds}): {'; '.join(wrong)}"
        yield Problem(_named(stores, folder / INDEX), "damaged", message, holds, rebuild=own)
        return
    features = open_index(folder)
    try:
        known = set()
        for block in features.blocks():
            known.add(block.committed.path)
            holds = f"features of {block.rows} samples by {block.producer}"
            try:
                verify(folder, block.committed, holds=holds)
            except DamagedError as error:
                path = _named(stores, folder / block.committed.path)
                yield Problem(path, "damaged", str(error), holds, rebuild=True)
        for path in garbage(folder, known, [FEATURE_SHARDS]) if own else []:
            yield Problem(_named(stores, folder / path), "garbage", f"{folder / path}: no row needs it")
    finally:
        features.db.close()


def _named(stores: Stores, path: Path) -> str:
    return path.relative_to(stores.root).as_posix() if path.is_relative_to(stores.root) else str(path)


def _config(stores: Stores) -> Iterator[Problem]:
    """config.yaml is the user's to edit: what differs from the last timestep's configuration is told, no more."""
    recorded = config_of(stores, stores.ledger.last_timestep() or 0)
    path, holds = stores.root / CONFIG, "configuration of the next timestep"
    try:
        now = read_config(path)
    except UsageError as error:
        yield Problem(CONFIG, "damaged", f"{path} ({holds}): {error}", holds, rebuild=recorded is not None)
        return
    if recorded is not None and (changed := _differences(recorded, now)):
        message = f"{path} ({holds}) differs from the last timestep's: {'; '.join(changed)}"
        yield Problem(CONFIG, "edited", message, holds)


def _differences(before: RunConfig, now: RunConfig) -> list[str]:
    """`section.field was A, is B` of each field that differs."""
    pairs = [_flat(config.model_dump(mode="json")) for config in (before, now)]
    names = sorted(pairs[0].keys() | pairs[1].keys())
    return [
        f"{name} was {pairs[0].get(name)!r}, is {pairs[1].get(name)!r}"
        for name in names
        if pairs[0].get(name) != pairs[1].get(name)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
