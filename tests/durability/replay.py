"""A file system in memory: plays a log of operations, and says what a power cut could have left of them.

The model is POSIX at its strictest: what was written to a file since its last fsync, and which names a folder got
or lost since its own last fsync, may be there, gone or, block by block, both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.durability.disk import Op, Operation

Chance = Callable[[], bool]


@dataclass(slots=True)
class File:
    """A file: as it is, as its last fsync left it, and the changes since: (offset, data), or (size, None)."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, offset: int, data: bytes | None) -> None:
        self.since.append((offset, data))
        _apply(self.now, offset, data)

    def sync(self) -> None:
        self.synced = bytes(self.now)
        self.since.clear()


@dataclass(slots=True)
class Folder:
    """A folder: its names as they are, and as its last fsync left them."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)

    def sync(self) -> None:
        self.synced = dict(self.now)


@dataclass(frozen=True, slots=True)
class Cut:
    """How a power cut treats what was not synced.

    names, data: "kept", "lost", or "some" (each name, each block by chance). block: bytes that a disk writes whole.
    """

    names: str
    data: str
    block: int = 512
    seed: int = 0

    def __str__(self) -> str:
        return f"names {self.names}, data {self.data} at {self.block} B, seed {self.seed}"


NOTHING_LOST = Cut("kept", "kept")
CUTS = (
    Cut("lost", "lost"),
    Cut("kept", "lost"),
    Cut("lost", "kept"),
    Cut("kept", "some", 512),
    Cut("kept", "some", 4096),
    Cut("some", "some", 512),
    Cut("some", "some", 4096),
)


class Disk:
    """The folder `root` as it is now, and from then on as the operations of a log make it."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.marks: set[str] = set()
        self._by_inode: dict[int, File] = {}
        self.tree = self._read(root)

    def play(self, operation: Operation) -> None:
        """Let one operation of the log happen."""
        op, path = operation.op, operation.path
        self._catch_up(path, operation.inode)
        if op == Op.MARK:
            self.marks.add(path)
        elif op == Op.CREATE:
            self._by_inode[operation.inode] = file = File()
            self._put(path, file)
        elif op == Op.WRITE:
            self._by_inode[operation.inode].change(operation.offset, operation.data)
        elif op == Op.TRUNCATE:
            self._by_inode[operation.inode].change(operation.offset, None)
        elif op == Op.FSYNC:
            (self._by_inode.get(operation.inode) or self._find(path)).sync()
        elif op == Op.MKDIR:
            self._put(path, Folder())
        elif op == Op.LINK:
            self._put(operation.second, self._find(path))
        elif op == Op.RENAME:
            moved = self._find(path)
            self._put(operation.second, moved)
            if path != operation.second:
                del self._parent(path).now[os.path.basename(path)]
        else:
            removed = self._parent(path).now.pop(os.path.basename(path))
            if isinstance(removed, Folder):
                assert not removed.now

    def unsynced(self) -> bool:
        """Whether a power cut could lose anything now."""
        return _unsynced(self.tree)

    def leave(self, target: Path, cut: Cut) -> Path:
        """Write what a power cut leaves into the new folder `target`."""
        rng = np.random.default_rng(cut.seed)
        _leave(self.tree, target, cut, lambda: bool(rng.random() < 0.5), {})
        return target

    def _catch_up(self, path: str, inode: int) -> None:
        """A known file under a name of its folder that is not: it was renamed by a call that the log cannot see."""
        file = self._by_inode.get(inode)
        if file is None or path.endswith(" (deleted)"):
            return
        names = self._parent(path).now
        if names.get(os.path.basename(path)) is not file:
            old = next((name for name, node in names.items() if node is file), None)
            if old is not None:
                names[os.path.basename(path)] = names.pop(old)

    def _read(self, folder: Path) -> Folder:
        found = Folder()
        for entry in os.scandir(folder):
            if entry.name.endswith("-shm"):
                continue
            if entry.is_dir():
                found.now[entry.name] = self._read(Path(entry.path))
            else:
                file = self._by_inode.get(entry.inode())
                if file is None:
                    data = Path(entry.path).read_bytes()
                    file = self._by_inode[entry.inode()] = File(bytearray(data), data)
                found.now[entry.name] = file
        found.sync()
        return found

    def _find(self, path: str) -> File | Folder:
        node: File | Folder = self.tree
        for name in path.removeprefix(self.root).strip("/").split("/"):
            if name not in ("", "."):
                assert isinstance(node, Folder)
                node = node.now[name]
        return node

    def _parent(self, path: str) -> Folder:
        folder = self._find(os.path.dirname(path))
        assert isinstance(folder, Folder)
        return folder

    def _put(self, path: str, node: File | Folder) -> None:
        self._parent(path).now[os.path.basename(path)] = node


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    size = offset if data is None else max(len(content), offset + len(data))
    content.extend(bytes(max(size - len(content), 0)))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


def _unsynced(folder: Folder) -> bool:
    return folder.now != folder.synced or any(
        bool(node.since) if isinstance(node, File) else _unsynced(node) for node in folder.now.values()
    )


def _names(folder: Folder, cut: Cut, chance: Chance) -> dict[str, File | Folder]:
    if cut.names != "some":
        return folder.now if cut.names == "kept" else folder.synced
    found = {}
    for name in sorted({*folder.now, *folder.synced}):
        node = (folder.now if chance() else folder.synced).get(name)
        if node is not None:
            found[name] = node
    return found


def _leave(folder: Folder, target: Path, cut: Cut, chance: Chance, written: dict[int, Path]) -> None:
    target.mkdir()
    for name, node in _names(folder, cut, chance).items():
        path = target / name
        if isinstance(node, Folder):
            _leave(node, path, cut, chance, written)
        elif id(node) in written:
            os.link(written[id(node)], path)
        else:
            path.write_bytes(_content(node, cut, chance))
            written[id(node)] = path


def _content(file: File, cut: Cut, chance: Chance) -> bytes:
    if cut.data == "kept" or not file.since:
        return bytes(file.now)
    content = bytearray(file.synced)
    if cut.data == "lost":
        return bytes(content)
    for offset, data in file.since:
        if data is None:
            if chance():
                _apply(content, offset, None)
            continue
        # Its size may have reached the disk before its blocks: they are then zeros.
        content.extend(bytes(max(offset + len(data) - len(content), 0)))
        for start, block in _blocks(offset, data, cut.block):
            if chance():
                _apply(content, start, block)
    return bytes(content)


def _blocks(offset: int, data: bytes, block: int) -> list[tuple[int, bytes]]:
    """The parts of a write that lie in different blocks of the disk: (offset, data)."""
    edges = [offset, *range(offset - offset % block + block, offset + len(data), block), offset + len(data)]
    return [(start, data[start - offset : end - offset]) for start, end in pairwise(edges)]
