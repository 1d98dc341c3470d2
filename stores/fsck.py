"""Checking that every file a row points to is there and whole, and listing what no row points to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from sqlite_utils import Database

from stores.backup import BACKUP, BACKUP_FOLDER
from stores.checkpoints import CHECKPOINTS_FOLDER
from stores.commit import Committed, content_hash, garbage, verify
from stores.digest import DECISIONS
from stores.errors import StoreError
from stores.integrity import faults
from stores.ledger import Ledger
from stores.media import MEDIA_FOLDER, Media, MediaRow, read_media
from stores.wal import torn

FOLDERS = ("timesteps", "shards", MEDIA_FOLDER, CHECKPOINTS_FOLDER, BACKUP_FOLDER)
ALIAS = "decisions.parquet"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong under a run.

    kind: "damaged", a file that is needed is missing or altered; "garbage", no row needs the file; "edited", a
    file that a user may change is not what the run was last made with. path: relative to root (of an image used
    in place: absolute). message: what is wrong and what to do. holds: what the file holds, in words. rebuild:
    whether `lifelong fsck --repair` can make it again.
    """

    path: str
    kind: Literal["damaged", "garbage", "edited"]
    message: str
    holds: str = ""
    rebuild: bool = False


def check_database(path: Path) -> Problem | None:
    """Check every value in the database, and the log that waits beside it."""
    log = path.with_name(f"{path.name}-wal")
    if lost := torn(log):
        return Problem(
            log.name, "damaged", f"{log} (the last commits of the run): {lost}", "the last commits"
        )
    holds = "pool and ledger of the run"
    if wrong := faults(path):
        return Problem(path.name, "damaged", f"{path} ({holds}): {'; '.join(wrong)}", holds)
    return None


def check_backup(root: Path) -> Problem | None:
    """Check the copy of the database, if there is one."""
    holds = "copy of the database"
    if (root / BACKUP).exists() and (wrong := faults(root / BACKUP)):
        return Problem(BACKUP, "damaged", f"{root / BACKUP} ({holds}): {'; '.join(wrong)}", holds, True)
    return None


def check_files(db: Database, root: Path, *, folders: Iterable[str] = FOLDERS) -> list[Problem]:
    """Hash every committed file and every image, and list the garbage under `folders`."""
    ledger = Ledger(db, root)
    problems = [
        *_damaged(_committed(ledger), root),
        *_altered_aliases(ledger),
        *_damaged_media(Media(root, db)),
    ]
    for path in garbage(root, ledger.known_paths(), folders):
        message = f"{root / path} is left over from interrupted or released work: it can be removed"
        problems.append(Problem(path, "garbage", message))
    return problems


def _committed(ledger: Ledger) -> Iterator[tuple[Committed, str]]:
    for record in ledger.files():
        yield record.committed, record.holds
    for shard in ledger.shards():
        yield shard.committed, shard.holds


def _damaged(committed: Iterable[tuple[Committed, str]], root: Path) -> Iterator[Problem]:
    for each, holds in committed:
        try:
            verify(root, each, holds=holds)
        except StoreError as error:
            yield Problem(each.path, "damaged", str(error), holds)


def _altered_aliases(ledger: Ledger) -> Iterator[Problem]:
    """Decisions whose stable name is a copy of the committed file, not a link to it, and differs from it."""
    for record in ledger.files():
        committed = ledger.root / record.committed.path
        alias = committed.with_name(ALIAS)
        if (
            record.kind != DECISIONS
            or not alias.exists()
            or (committed.exists() and alias.samefile(committed))
        ):
            continue
        if content_hash(alias)[0] != record.committed.sha256:
            name = alias.relative_to(ledger.root).as_posix()
            holds = f"second name of the {record.holds}"
            yield Problem(name, "damaged", f"{alias} ({holds}) was altered", holds, True)


def _damaged_media(media: Media) -> Iterator[Problem]:
    """The first damaged image of each file: one altered pack is one problem, not one per image."""
    for path, rows in groupby(media.rows(), key=lambda row: row.path):
        if message := next(filter(None, (_image_damage(media.root, row) for row in rows)), None):
            yield Problem(path, "damaged", message, "images")


def _image_damage(root: Path, row: MediaRow) -> str | None:
    try:
        read_media(root, row)
    except StoreError as error:
        return str(error)
    return None
