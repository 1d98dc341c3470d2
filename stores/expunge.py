"""Making content go for good: rows emptied, arrays blanked, images cut out of their packs, no trace in the database.

Each step can be done again, and does nothing where it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sqlite_utils import Database

from stores.commit import Committed, commit_file
from stores.database import require_transaction, transaction
from stores.features import Block, Features
from stores.ledger import Ledger
from stores.media import Media
from stores.repack import repack_without
from stores.shards import Shard, read_shard
from stores.text import batched, marks

_CHUNK = 1000
_KEPT = ("ordinal", "faults", "halved")
"""Arrays of a shard that say which samples it is of, and nothing of what is in them."""

# What pruned samples show may still be exported; what nobody's row names any more goes.
NAMED = """
SELECT value AS sha256 FROM contents, json_each(contents.images)
UNION SELECT value FROM evals, json_each(evals.images)
"""


def tombstone(db: Database, ordinals: Sequence[int], timestep: int, reason: str) -> None:
    """Leave of samples their ids and why they went; whatever else was on record of them is emptied.

    Inside the caller's transaction. Of samples that had left the pool before, the timestep of that stays on record.
    """
    require_transaction(db, "tombstone")
    for batch in batched(ordinals, _CHUNK):
        these = f"ordinal IN ({marks(len(batch))})"
        db.execute(
            f"INSERT OR IGNORE INTO retired SELECT sample_id, ?, ? FROM samples WHERE {these}",
            [reason, timestep, *batch],
        )
        db.execute(f"UPDATE contents SET messages = '[]', images = '[]' WHERE {these}", batch)
        db.execute(f"DELETE FROM lengths WHERE {these}", batch)
        db.execute(
            "UPDATE samples SET changed = CASE status WHEN 'live' THEN ? ELSE changed END, status = CASE status WHEN"
            " 'live' THEN 'pruned' ELSE status END, reason = ?, source_id = NULL, file = '', \"row\" = NULL,"
            f" text_chars = 0, n_images = 0 WHERE {these}",
            [timestep, f"retired: {reason}", *batch],
        )
        ids = f"(SELECT sample_id FROM samples WHERE {these})"
        db.execute(
            f'UPDATE refusals SET source_id = NULL, file = \'\', "row" = NULL WHERE "of" IN {ids}', batch
        )
        db.execute(f"DELETE FROM evals WHERE sample_id IN {ids}", batch)


def blank_shards(ledger: Ledger, ordinals: np.ndarray) -> int:
    """Blank the rows of samples in every shard of arrays; returns how many files were written anew."""
    changed = 0
    for shard in ledger.shards():
        if not shard.path.endswith(".safetensors"):
            continue
        arrays = read_shard(ledger.root / shard.path)
        rows = np.flatnonzero(np.isin(arrays.get("ordinal", np.empty(0, np.int64)), ordinals))
        blanked = {name: _blanked(array, rows) for name, array in arrays.items() if name not in _KEPT}
        if not any(_differ(blanked[name], arrays[name]) for name in blanked):
            continue
        written = _rewrite(ledger.root, shard, {**arrays, **blanked})
        with transaction(ledger.db):
            ledger.release_shards(shard.timestep, shard.kind, shard.position)
            ledger.shard_commit(shard.timestep, shard.kind, shard.position, written, shard.rows)
        changed += 1
    return changed


def forget_features(features: Features, sample_ids: Sequence[str]) -> int:
    """Forget the features of samples: the blocks that hold some are written without them; returns how many."""
    gone = set(sample_ids)
    changed = 0
    for block in features.blocks():
        members = features.members(block)
        rest = [row for row, sample_id in enumerate(members) if sample_id not in gone]
        if len(rest) == len(members) == block.rows:
            continue
        _rewrite_block(features, block, members, rest)
        changed += 1
    if changed:
        features.sweep()
        scrub(features.db)
    return changed


def cut_media(media: Media) -> tuple[int, list[str]]:
    """Cut images that no row names out of their packs, and forget them; those used in place cannot be cut.

    Returns how many packs were written anew, and the paths of the latter.
    """
    packs = repack_without(media, NAMED)
    outside = [
        row.path for row in media.rows() if row.kind == "referenced" and not _named(media.db, row.sha256)
    ]
    with transaction(media.db):
        media.db.execute(f"DELETE FROM media WHERE kind = 'referenced' AND sha256 NOT IN ({NAMED})")
    return len(packs), outside


def scrub(db: Database) -> None:
    """Write the database anew, so that no page of the file holds what its rows do not."""
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _named(db: Database, sha256: str) -> bool:
    return db.execute(f"SELECT 1 FROM ({NAMED}) WHERE sha256 = ?", [sha256]).fetchone() is not None


def _blanked(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    blanked = array.copy()
    if len(rows):
        blanked[rows] = np.nan if np.issubdtype(array.dtype, np.floating) else 0
    return blanked


def _differ(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() != b.tobytes()


def _rewrite(root: Path, shard: Shard, arrays: dict[str, np.ndarray]) -> Committed:
    folder, name = shard.path.rsplit("/", 1)
    dense = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    return commit_file(
        root, folder, name.rsplit("-", 1)[0], ".safetensors", lambda path: save_file(dense, path)
    )


def _rewrite_block(features: Features, block: Block, members: Sequence[str], rest: Sequence[int]) -> None:
    arrays = read_shard(features.root / block.committed.path)
    features.forget(block)
    if rest:
        kept = {name: array[list(rest)] for name, array in arrays.items()}
        features.add(block.producer, [members[row] for row in rest], kept)
