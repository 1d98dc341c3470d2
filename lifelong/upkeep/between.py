"""What is done for a run between two timesteps: what `keep` says is let go, and the database is copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lifelong.config import KeepConfig, parse_config
from lifelong.context import ADAPTER, Stores
from lifelong.recorded import FEEDING, config_of, keep_config
from lifelong.signals.pool import is_signal, shards_in_use
from lifelong.steer.verdicts import pending
from stores.backup import back_up, is_current
from stores.commit import garbage, sweep, verify
from stores.database import transaction
from stores.digest import weights_of
from stores.errors import DamagedError
from stores.fsck import FOLDERS
from stores.ledger import FileRecord
from stores.repack import dead_packs, repack
from stores.shards import Shard
from stores.undo import events_undone, forget_undone, paths_undone

SETTLED = "settled"
"""Key of the last timestep after which old signals were let go, and how many timesteps' were kept."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What was, or would be, removed. path: relative to the run; bytes: that it gives back; why: in words."""

    path: str
    bytes: int
    why: str


def settle(stores: Stores) -> None:
    """After a timestep: let go what its configuration does not keep, and copy the database.

    Can be done again at any time while no timestep is under way; where nothing is left to do it changes nothing.
    """
    last = _last_finished(stores)
    if last is None:
        return
    request = stores.ledger.get_meta(FEEDING)
    if request is not None and request["timestep"] > last:
        return  # the next timestep is under way, though none of its phases is committed yet
    if request is not None:
        config = parse_config(request["config"], "the configuration on record")
        if pending(stores, config, last):
            return  # its guard has yet to judge it
        with transaction(stores.db):
            # A timestep that an earlier version finished has its configuration in the request alone.
            if config_of(stores, last) is None:
                keep_config(stores, last, config)
            stores.ledger.set_meta(FEEDING, None)
    config = config_of(stores, last)
    keep = KeepConfig() if config is None else config.keep
    done = {"timestep": last, "signals": keep.signals}
    # To tell which signals live samples are still in takes a look at the whole pool: once for each timestep.
    signals = [] if stores.ledger.get_meta(SETTLED) == done else _old_signals(stores, keep)
    _release(stores, keep, signals)
    if stores.ledger.get_meta(SETTLED) != done and keep.signals:
        stores.ledger.set_meta(SETTLED, done)
    copy_and_sweep(stores)


def collect_garbage(stores: Stores, keep: KeepConfig) -> list[Freed]:
    """Let go what `keep` does not ask for, and the images that nothing needs any more; no timestep may be under way."""
    freed = list(removable(stores, keep))
    if events_undone(stores.db):
        with transaction(stores.db):
            forget_undone(stores.db)
    _release(stores, keep, _old_signals(stores, keep))
    if dead_packs(stores.media):
        repack(stores.media)
    copy_and_sweep(stores)
    return freed


def removable(stores: Stores, keep: KeepConfig) -> Iterator[Freed]:
    """What `collect_garbage` would remove."""
    for path in garbage(stores.root, stores.ledger.known_paths(), FOLDERS):
        yield Freed(path, _size(stores, path), "no row needs it")
    for path in sorted(paths_undone(stores.db)):
        yield Freed(path, _size(stores, path), "of a timestep that was taken back")
    for record in _old_adapters(stores, keep):
        yield Freed(record.committed.path, record.committed.bytes, f"{record.holds}: beyond keep.checkpoints")
    for shard in _old_signals(stores, keep):
        yield Freed(shard.path, shard.bytes, f"{shard.holds}: beyond keep.signals")
    for pack in dead_packs(stores.media):
        yield Freed(pack.path, pack.dead, "images of pruned samples")


def _release(stores: Stores, keep: KeepConfig, signals: list[Shard]) -> None:
    adapters = [record for record in _old_adapters(stores, keep) if _is_whole(stores, record)]
    if not adapters and not signals:
        return
    weights = [weights_of(stores.root, record) for record in adapters]
    with transaction(stores.db):
        for record, hashes in zip(adapters, weights, strict=True):
            stores.ledger.release_file(record, hashes)
        for shard in signals:
            stores.ledger.release_shards(shard.timestep, shard.kind, shard.position)


def copy_and_sweep(stores: Stores, *, anew: bool = False) -> None:
    """The new copy first: what only the old one needs is garbage after it. anew: copy in any case."""
    if anew or not is_current(stores.db, stores.root):
        back_up(stores.db, stores.root)
    sweep(stores.root, stores.ledger.known_paths(), FOLDERS)


def _is_whole(stores: Stores, record: FileRecord) -> bool:
    """A damaged adapter stays for `lifelong fsck` to name: the digest would take its hashes for those of the run."""
    try:
        verify(stores.root, record.committed, holds=record.holds)
    except DamagedError:
        return False
    return True


def _old_adapters(stores: Stores, keep: KeepConfig) -> Iterator[FileRecord]:
    last = _last_finished(stores)
    for record in stores.ledger.files():
        old = keep.checkpoints and last is not None and record.timestep <= last - keep.checkpoints
        if record.kind == ADAPTER and old and record.timestep > 0:
            yield record


def _old_signals(stores: Stores, keep: KeepConfig) -> list[Shard]:
    """Shards of signals beyond `keep.signals`; those that live samples still have their signals in are not old."""
    last = _last_finished(stores)
    if not keep.signals or last is None:
        return []
    beyond = [
        shard
        for shard in stores.ledger.shards()
        if shard.timestep <= last - keep.signals and is_signal(shard)
    ]
    used = shards_in_use(stores, last) if beyond else set()
    return [shard for shard in beyond if shard.path not in used]


def _last_finished(stores: Stores) -> int | None:
    """The last timestep, or None if there is none or it is under way."""
    last = stores.ledger.last_timestep()
    return last if last and stores.ledger.phase(last, "prune") is not None else None


def _size(stores: Stores, path: str) -> int:
    found: Any = stores.root / path
    if not found.is_dir():
        return int(found.stat().st_size)
    return sum(
        os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(found) for name in names
    )
