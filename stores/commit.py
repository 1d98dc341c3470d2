"""The commit rule: how a file comes to exist for good.

Stage beside the target, flush, fsync, rename to a name that holds the content hash, fsync the folder. Killed
at any instant, this leaves either the whole file under its final name, or garbage that no row points to and
that `sweep` removes.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stores.clock import kept
from stores.disk import naming_faults
from stores.errors import DamagedError

STAGING = ".staging-"
# safetensors writes beside the file that it is asked for, under a name of its own, and renames.
_TEMPORARY = re.compile(rf"{re.escape(STAGING)}|\.tmp[A-Za-z0-9]{{6}}$")
HASH_CHARS = 16
_CONTENT_NAMED = re.compile(rf"-[0-9a-f]{{{HASH_CHARS}}}(\.[A-Za-z0-9.]+)?$")
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Committed:
    """A file or folder that will not change any more.

    path: relative to the run's root, with forward slashes. sha256: 64 hex characters; of a folder, the hash
    of its sorted (sha256, name) lines. bytes: size of the content.
    """

    path: str
    sha256: str
    bytes: int


@kept
def commit_file(root: Path, folder: str, stem: str, suffix: str, write: Callable[[Path], None]) -> Committed:
    """Commit the file that `write(temporary_path)` makes, as `folder/stem-<16 hex of its sha256><suffix>`.

    Raises: DiskError if the disk is full or faulty; whatever else `write` raises. The temporary file is removed.
    """
    staged = stage(root, folder, suffix)
    try:
        with naming_faults(staged.parent / f"{stem}{suffix}"):
            write(staged)
        return commit_staged(root, staged, stem, suffix)
    except BaseException:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise


def commit_bytes(root: Path, folder: str, stem: str, suffix: str, data: bytes) -> Committed:
    """Commit `data` as a file. See `commit_file`."""

    def write(path: Path) -> None:
        path.write_bytes(data)

    return commit_file(root, folder, stem, suffix, write)


@kept
def commit_tree(root: Path, folder: str, stem: str, write: Callable[[Path], None]) -> Committed:
    """Commit the folder that `write(temporary_folder)` fills, as `folder/stem-<16 hex of its hash>`.

    Raises: DiskError if the disk is full or faulty; whatever else `write` raises. The temporary folder is removed.
    """
    staged = stage(root, folder, "")
    try:
        with naming_faults(staged.parent / stem):
            staged.mkdir()
            write(staged)
        return commit_staged(root, staged, stem, "")
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def stage(root: Path, folder: str, suffix: str) -> Path:
    """A fresh temporary path beside where the committed file will be; the folder is made if need be."""
    make_folder(root / folder)
    return root / folder / f"{STAGING}{secrets.token_hex(8)}{suffix}"


@kept
def commit_staged(root: Path, staged: Path, stem: str, suffix: str) -> Committed:
    """Commit a finished temporary file or folder that `stage` named.

    Raises: ValueError if `stem` could not be part of a file name; DiskError if the disk is full or faulty.
    """
    if not _STEM.fullmatch(stem):
        raise ValueError(
            f"stem {stem!r}: use letters, digits, '.', '_' and '-' only, since it becomes a file name"
        )
    with naming_faults(staged.parent / f"{stem}{suffix}"):
        for _, file in _files_of(staged):
            share(file, staged.parent)
        _fsync_content(staged)
        digest, size = content_hash(staged)
        target = staged.parent / f"{stem}-{digest[:HASH_CHARS]}{suffix}"
        if not _holds(target, digest):
            _put_in_place(staged, target)
        elif staged.is_dir():
            shutil.rmtree(staged)
        else:
            staged.unlink()
        fsync_folder(target.parent)
    return Committed(target.relative_to(root).as_posix(), digest, size)


@kept
def publish(root: Path, committed: Committed, name: str) -> None:
    """Give a committed file a stable alias `name` beside it; can be redone at any time.

    The alias is a hard link, or a copy where the file system has no links, and is replaced in one step by the
    next commit published under that name. Files only.
    """
    source = root / committed.path
    staged = stage(root, str(Path(committed.path).parent), "")
    with naming_faults(source.parent / name):
        try:
            try:
                os.link(source, staged)
            except OSError:
                shutil.copyfile(source, staged)
                _fsync(staged)
            os.replace(staged, source.parent / name)
        finally:
            # Renaming one link of a file over another link of it does nothing, and leaves the first one behind.
            staged.unlink(missing_ok=True)
        fsync_folder(source.parent)


def put(staged: Path, target: Path) -> None:
    """Put a finished temporary file in the place of `target` in one step, for good."""
    with naming_faults(target):
        _fsync(staged)
        os.replace(staged, target)
        fsync_folder(target.parent)


@kept
def verify(root: Path, committed: Committed, *, holds: str = "committed data", contents: bool = True) -> None:
    """Check that a committed file or folder is whole: its size, and with `contents` its hash.

    holds: what the file holds, for the message. Raises: DamagedError if it is missing or altered.
    """
    path = root / committed.path
    remedy = f"put back a copy whose sha256 is {committed.sha256}, or restore the run from a backup"
    if not path.exists():
        raise DamagedError(f"{path} ({holds}) is missing: {remedy}")
    size = sum(file.stat().st_size for _, file in _files_of(path))
    if size != committed.bytes:
        raise DamagedError(
            f"{path} ({holds}) has {size} bytes and was committed with {committed.bytes}: {remedy}"
        )
    if contents and content_hash(path)[0] != committed.sha256:
        raise DamagedError(f"{path} ({holds}) was altered after it was committed: {remedy}")


def garbage(root: Path, known: set[str], folders: Iterable[str]) -> list[str]:
    """What `sweep` would remove: temporary and unreferenced content-named paths, relative to root, sorted."""
    return sorted(path for folder in folders for path in _garbage_in(root, root / folder, known))


@kept
def sweep(root: Path, known: set[str], folders: Iterable[str]) -> list[str]:
    """Remove what interrupted commits left under `folders`; only while holding the run's lock.

    known: paths that rows point to; neither they nor what is in them is touched. Returns the paths removed.
    """
    removed = garbage(root, known, folders)
    for name in removed:
        path = root / name
        with naming_faults(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    return removed


def content_hash(path: Path) -> tuple[str, int]:
    """sha256 and size in bytes of a file, or of a folder (over sorted "sha256  name" lines of its files)."""
    if not path.is_dir():
        return _file_hash(path)
    lines = hashlib.sha256()
    total = 0
    for name, file in _files_of(path):
        digest, size = _file_hash(file)
        lines.update(f"{digest}  {name}\n".encode())
        total += size
    return lines.hexdigest(), total


def make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they outlast a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        with naming_faults(path):
            path.mkdir(exist_ok=True)
            fsync_folder(path.parent)


def share(file: Path, folder: Path) -> None:
    """Let those who may read a folder read a file in it: safetensors makes its files for their owner alone."""
    mode, folders = (path.stat().st_mode & 0o777 for path in (file, folder))
    if mode != mode | folders & 0o666:
        # Disks without permissions refuse, and need none.
        with suppress(PermissionError):
            file.chmod(mode | folders & 0o666)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut. Raises: DiskError if the disk is faulty."""
    with naming_faults(folder):
        _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_content(path: Path) -> None:
    """fsync a file; or every file of a folder, then its inner folders from the leaves up, then itself."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            _fsync_content(child)
    _fsync(path)


def _files_of(path: Path) -> list[tuple[str, Path]]:
    """(name relative to `path`, file) of a folder's files, sorted by name; or the file itself."""
    if not path.is_dir():
        return [(path.name, path)]
    return sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())


def _file_hash(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _holds(target: Path, digest: str) -> bool:
    return target.exists() and content_hash(target)[0] == digest


def _put_in_place(staged: Path, target: Path) -> None:
    """Rename over `target`. A damaged folder there is moved aside first: renaming cannot replace it."""
    if staged.is_dir() and target.exists():
        aside = target.parent / f"{STAGING}{secrets.token_hex(8)}"
        os.rename(target, aside)
        os.rename(staged, target)
        shutil.rmtree(aside)
    else:
        os.replace(staged, target)


def _garbage_in(root: Path, folder: Path, known: set[str]) -> Iterator[str]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        name = entry.relative_to(root).as_posix()
        if name in known:
            continue
        inner = entry.is_dir() and not entry.is_symlink()
        orphan = _CONTENT_NAMED.search(entry.name) and not (inner and _any_under(name, known))
        if _TEMPORARY.match(entry.name) or orphan:
            yield name
        elif inner:
            yield from _garbage_in(root, entry, known)


def _any_under(folder: str, known: set[str]) -> bool:
    return any(path.startswith(f"{folder}/") for path in known)
