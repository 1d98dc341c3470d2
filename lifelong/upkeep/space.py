"""What a run takes on disk: all of it, and for each sample and timestep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lifelong.context import ADAPTER, Stores
from lifelong.signals.pool import is_signal


def bytes_on_disk(folder: Path) -> int:
    """Bytes of all files under a folder; one that goes while they are counted counts nothing."""
    total = 0
    # Not Path.rglob, which takes ten times as long: a long run has a hundred thousand shards.
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    total += bytes_on_disk(Path(entry.path))
                elif entry.is_file():
                    total += entry.stat().st_size
            except FileNotFoundError:
                continue
    return total


def bytes_per_sample(stores: Stores) -> list[dict[str, Any]]:
    """Of each timestep {timestep, samples, signals, tables}: how many it worked with, and bytes for each of them.

    signals: shards that are kept, of what it measured itself; tables: clusters, scores, selection, decisions and the
    like. Adapters, which do not grow with the samples, are left out.
    """
    ledger = stores.ledger
    signals: dict[int, int] = {}
    tables: dict[int, int] = {}
    for shard in ledger.shards():
        if is_signal(shard):
            signals[shard.timestep] = signals.get(shard.timestep, 0) + shard.bytes
    for record in ledger.files():
        if record.kind != ADAPTER:
            tables[record.timestep] = tables.get(record.timestep, 0) + record.committed.bytes
    found = []
    for timestep in range(1, (ledger.last_timestep() or 0) + 1):
        measured = ledger.phase(timestep, "measure")
        samples = measured.result["measured"] + measured.result.get("carried", 0) if measured else 0
        if samples:
            sizes = {"signals": signals.get(timestep, 0), "tables": tables.get(timestep, 0)}
            told = {name: round(size / samples, 1) for name, size in sizes.items()}
            found.append({"timestep": timestep, "samples": samples, **told})
    return found
