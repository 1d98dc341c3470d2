"""Images, each kept once by the hash of its bytes: appended to large pack files, or referenced in place.

A million small files with an fsync each is too slow, and too many names for a folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from sqlite_utils import Database

from stores.clock import keeping
from stores.commit import Committed, commit_staged, stage
from stores.database import require_transaction
from stores.disk import naming_faults
from stores.errors import DamagedError, StoreError
from stores.text import batched, marks

MEDIA_FOLDER = "media"
PACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class MediaRow:
    """Where an image's bytes are.

    path: of a pack, relative to the run's root; of a referenced file, absolute. offset, length: in bytes;
    width, height: in pixels.
    """

    sha256: str
    kind: Literal["packed", "referenced"]
    path: str
    offset: int
    length: int
    width: int
    height: int


@keeping
class Media:
    """The images of a run."""

    def __init__(self, root: Path, db: Database) -> None:
        self.root = root
        self.db = db

    @contextmanager
    def writer(self, timestep: int, *, pack_bytes: int = PACK_BYTES) -> Iterator[MediaWriter]:
        """Write images; `writer.rows` is whole once the block has ended, and is then for `record`.

        If the block fails, the packs already closed are garbage that no row points to.
        """
        writer = MediaWriter(self, f"pack-{timestep:04d}", pack_bytes)
        try:
            yield writer
            writer.close_pack()
        finally:
            writer.discard_open_pack()

    def record(self, rows: Sequence[MediaRow]) -> None:
        """Make written images known. Raises: StoreError outside the transaction of what uses them."""
        require_transaction(self.db, "Media.record")
        self.db.conn.executemany(f"INSERT OR IGNORE INTO media VALUES ({marks(7)})", map(astuple, rows))

    def knows(self, sha256: str) -> bool:
        """Whether the image is recorded."""
        return self.db.execute("SELECT 1 FROM media WHERE sha256 = ?", [sha256]).fetchone() is not None

    def locate(self, hashes: Iterable[str]) -> dict[str, MediaRow]:
        """Where each image is; with `read_media`, worker processes can read without the database.

        Raises: DamagedError if an image was never recorded.
        """
        located: dict[str, MediaRow] = {}
        for batch in batched(dict.fromkeys(hashes), 1000):
            cursor = self.db.execute(f"SELECT * FROM media WHERE sha256 IN ({marks(len(batch))})", batch)
            located.update((record[0], MediaRow(*record)) for record in cursor)
            for sha256 in batch:
                if sha256 not in located:
                    raise DamagedError(
                        f"image {sha256} is in no row of the run's database, so nobody knows where it is: "
                        "restore the database from a backup."
                    )
        return located

    def read(self, sha256: str) -> bytes:
        """The image's encoded bytes, checked against its hash. Raises: DamagedError if missing or altered."""
        return read_media(self.root, self.locate([sha256])[sha256])

    def rows(self) -> Iterator[MediaRow]:
        """Every image known, by file and place in it."""
        for record in self.db.execute('SELECT * FROM media ORDER BY kind, path, "offset"'):
            yield MediaRow(*record)


@keeping
class MediaWriter:
    """Takes the images of one timestep. Made by `Media.writer`. Memory: 0.5 kB per new image."""

    def __init__(self, media: Media, stem: str, pack_bytes: int) -> None:
        self.rows: list[MediaRow] = []
        self._media = media
        self._stem = stem
        self._pack_bytes = pack_bytes
        self._seen: set[bytes] = set()
        self._staged: Path | None = None
        self._file: BinaryIO | None = None
        self._in_pack: list[tuple[str, int, int, int, int]] = []

    def add(self, data: bytes, sha256: str, width: int, height: int) -> None:
        """Append an image's encoded bytes to the open pack, unless the run has that image already."""
        if not self._is_new(sha256):
            return
        if self._staged is None:
            self._staged = stage(self._media.root, MEDIA_FOLDER, ".bin")
        with naming_faults(self._staged):
            if self._file is None:
                self._file = self._staged.open("wb")
            self._in_pack.append((sha256, self._file.tell(), len(data), width, height))
            self._file.write(data)
        if self._file.tell() >= self._pack_bytes:
            self.close_pack()

    def reference(self, path: Path, sha256: str, width: int, height: int) -> None:
        """Use an image file where it lies, unless the run has that image already."""
        if self._is_new(sha256):
            place = path.absolute()
            self.rows.append(
                MediaRow(sha256, "referenced", str(place), 0, place.stat().st_size, width, height)
            )

    def close_pack(self) -> None:
        """Commit the open pack, if there is one; its images then have their rows."""
        if self._file is None or self._staged is None:
            return
        with naming_faults(self._staged):
            self._file.close()
        pack: Committed = commit_staged(self._media.root, self._staged, self._stem, ".bin")
        self.rows.extend(
            MediaRow(sha256, "packed", pack.path, offset, length, width, height)
            for sha256, offset, length, width, height in self._in_pack
        )
        self._in_pack.clear()
        self._file = self._staged = None

    def discard_open_pack(self) -> None:
        """Drop what was not committed."""
        if self._file is not None and self._staged is not None:
            # What could not be written before cannot now either, and nobody needs it.
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._staged.unlink(missing_ok=True)

    def _is_new(self, sha256: str) -> bool:
        key = bytes.fromhex(sha256)
        if key in self._seen or self._media.knows(sha256):
            return False
        self._seen.add(key)
        return True


def read_media(root: Path, row: MediaRow) -> bytes:
    """The bytes of an image, checked against its hash. Raises: DamagedError if missing or altered."""
    path = root / row.path
    try:
        with path.open("rb") as file:
            file.seek(row.offset)
            data = file.read(row.length)
    except FileNotFoundError:
        raise DamagedError(_damage(path, row, "is missing")) from None
    except OSError as error:
        raise StoreError(_damage(path, row, f"cannot be read ({error.strerror})")) from error
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise DamagedError(_damage(path, row, "has been altered"))
    return data


def _damage(path: Path, row: MediaRow, what: str) -> str:
    if row.kind == "referenced":
        return (
            f"{path} {what}: the run uses this image (sha256 {row.sha256}) where it lies. "
            "Put it back as it was, or feed the dataset into a new run that copies its images."
        )
    return (
        f"{path} {what}: this pack holds image {row.sha256} at byte {row.offset}, {row.length} bytes long. "
        "Restore the pack from a backup; its name holds the first 16 characters of its sha256."
    )
