"""Letting go of the images that no live sample and no eval set needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from sqlite_utils import Database

from stores.database import transaction
from stores.media import PACK_BYTES, Media, MediaRow, MediaWriter, read_media

DEAD_SHARE = 0.5
"""Share of a pack's bytes that must be dead before its living images are copied into another."""

_NEEDED = """
CREATE TEMP TABLE needed AS
SELECT DISTINCT value AS sha256 FROM samples JOIN contents USING (ordinal), json_each(contents.images)
WHERE status = 'live'
UNION SELECT DISTINCT value FROM evals, json_each(evals.images)
"""


@dataclass(frozen=True, slots=True)
class DeadPack:
    """A pack of which enough is dead. bytes: of all its images; dead: of those that nothing needs."""

    path: str
    bytes: int
    dead: int


def dead_packs(media: Media) -> list[DeadPack]:
    """The packs that `repack` would empty, by path."""
    with _needed(media.db, _NEEDED):
        return _dead_packs(media.db, DEAD_SHARE)


def repack(media: Media, *, pack_bytes: int = PACK_BYTES) -> list[DeadPack]:
    """Copy what lives in the packs of `dead_packs` into new packs, and forget what is dead in them.

    The old packs are garbage afterwards, for `sweep`. Raises: DamagedError if a living image is damaged; nothing is
    forgotten then.
    """
    return _emptied(media, _NEEDED, DEAD_SHARE, pack_bytes)


def repack_without(media: Media, needed: str, *, pack_bytes: int = PACK_BYTES) -> list[DeadPack]:
    """The same for every pack with an image that is not needed. needed: SQL that gives the sha256 of those that are."""
    return _emptied(
        media, f"CREATE TEMP TABLE needed AS SELECT DISTINCT sha256 FROM ({needed})", 0.0, pack_bytes
    )


def _emptied(media: Media, needed: str, share: float, pack_bytes: int) -> list[DeadPack]:
    with _needed(media.db, needed):
        packs = _dead_packs(media.db, share)
        moved: list[MediaRow] = []
        for stem, group in groupby(packs, key=lambda pack: pack.path.rsplit("/", 1)[1].rsplit("-", 1)[0]):
            writer = _Mover(media, stem, pack_bytes)
            try:
                for pack in group:
                    for row in _rows(media.db, pack.path):
                        writer.add(read_media(media.root, row), row.sha256, row.width, row.height)
                writer.close_pack()
            finally:
                writer.discard_open_pack()
            moved += writer.rows
        with transaction(media.db):
            _forget(media.db, [pack.path for pack in packs])
            media.record(moved)
    return packs


class _Mover(MediaWriter):
    """Writes images that the run knows from elsewhere."""

    def _is_new(self, sha256: str) -> bool:
        return True


@contextmanager
def _needed(db: Database, sql: str) -> Iterator[None]:
    """A temporary table of the images that something needs."""
    db.execute(sql)
    db.execute("CREATE UNIQUE INDEX temp.needed_sha256 ON needed (sha256)")
    try:
        yield
    finally:
        db.execute("DROP TABLE temp.needed")


def _dead_packs(db: Database, share: float) -> list[DeadPack]:
    cursor = db.execute(
        "SELECT path, sum(length), sum(CASE WHEN sha256 IN (SELECT sha256 FROM needed) THEN 0 ELSE length END) AS dead"
        " FROM media WHERE kind = 'packed' GROUP BY path HAVING dead > ? * sum(length) ORDER BY path",
        [share],
    )
    return [DeadPack(*record) for record in cursor]


def _rows(db: Database, path: str) -> list[MediaRow]:
    """The living images of a pack, in their order."""
    cursor = db.execute(
        "SELECT * FROM media WHERE kind = 'packed' AND path = ? AND sha256 IN (SELECT sha256 FROM needed)"
        ' ORDER BY "offset"',
        [path],
    )
    return [MediaRow(*record) for record in cursor]


def _forget(db: Database, paths: list[str]) -> None:
    db.conn.executemany("DELETE FROM media WHERE kind = 'packed' AND path = ?", [(path,) for path in paths])
