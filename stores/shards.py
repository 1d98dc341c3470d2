"""Shards: files of arrays (safetensors) for a block of samples, and reading many of them as one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stores.clock import keeping, kept
from stores.commit import Committed, commit_file
from stores.errors import DamagedError, StoreError

MEMORY_LIMIT = 2 << 30


@dataclass(frozen=True, slots=True)
class Shard:
    """A recorded shard. position: its place among those of its timestep and kind; rows: samples in it."""

    timestep: int
    kind: str
    position: int
    path: str
    sha256: str
    bytes: int
    rows: int

    @property
    def committed(self) -> Committed:
        """Its file."""
        return Committed(self.path, self.sha256, self.bytes)

    @property
    def holds(self) -> str:
        """What is in it, in words."""
        return f"shard {self.position} of {self.kind} of timestep {self.timestep}"


@kept
def write_shard(
    root: Path, timestep: int, kind: str, position: int, arrays: dict[str, np.ndarray]
) -> Committed:
    """Commit named arrays, each (n, …) for the n samples of the block, as one safetensors file."""
    # safetensors reads raw memory: a strided view would be written wrong without a word.
    dense = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    folder = f"shards/{timestep:04d}"
    return commit_file(
        root, folder, f"{kind}-{position:06d}", ".safetensors", lambda path: save_file(dense, path)
    )


@kept
def read_shard(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a shard. Raises: DamagedError if it is missing or is not a whole safetensors file."""
    with _open(path) as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}


@kept
def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a shard; the rest of the file is not read.

    Raises: DamagedError as `read_shard`; StoreError if the shard has no array of that name.
    """
    with _open(path) as file:
        names = list(file.keys())
        if name not in names:
            raise StoreError(f"{path} has no array {name!r}; it has {', '.join(sorted(names))}")
        array: np.ndarray = file.get_tensor(name)
        return array


@dataclass(frozen=True, slots=True)
class Pick:
    """Some rows of a shard, and the places that they have in the whole."""

    shard: Shard
    rows: np.ndarray
    places: np.ndarray


def array_names(path: Path) -> list[str]:
    """Names of the arrays in a shard. Raises: DamagedError if it is missing or unreadable."""
    with _open(path) as file:
        return list(file.keys())


@keeping
class ShardReader:
    """Shards of one kind, in order, read as if they were one file.

    picks: of each shard the rows that are read, and where they go; all of them, one after another, if left out.
    scratch: folder for a matrix larger than `memory_limit` bytes (default: the system's temporary folder).
    """

    def __init__(
        self,
        root: Path,
        shards: Sequence[Shard],
        *,
        picks: Sequence[Pick] | None = None,
        memory_limit: int = MEMORY_LIMIT,
        scratch: Path | None = None,
    ) -> None:
        if not shards and picks is None:
            raise StoreError(f"{root}: no shards to read; run the phase that writes them first")
        self.root = root
        self.shards = list(shards)
        self.rows = (
            sum(shard.rows for shard in shards) if picks is None else sum(len(pick.rows) for pick in picks)
        )
        self._picks = picks
        self._memory_limit = memory_limit
        self._scratch = scratch

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """(index of the first row, array (rows of the shard, …)) of each shard in order, one at a time.

        Raises: DamagedError if a shard has another number of rows than was recorded.
        """
        start = 0
        for shard in self.shards:
            array = read_array(self.root / shard.path, name)
            if len(array) != shard.rows:
                raise DamagedError(
                    f"{self.root / shard.path} ({shard.holds}) has {len(array)} rows of {name!r} instead of "
                    f"{shard.rows}: restore it from a backup."
                )
            yield start, array
            start += shard.rows

    def column(self, name: str) -> np.ndarray:
        """The whole of a small array, (n, …), in memory."""
        return self._whole(name, np.empty)

    def matrix(self, name: str) -> np.ndarray:
        """The whole of a large array, (n, d): in memory, or as a `np.memmap` of an unnamed scratch file."""
        return self._whole(name, self._space)

    def _whole(self, name: str, space: Callable[[tuple[int, ...], np.dtype], np.ndarray]) -> np.ndarray:
        whole = np.empty(0)  # what is left where not a row is picked
        for number, (start, array) in enumerate(self.blocks(name)):
            if not number:
                whole = space((self.rows, *array.shape[1:]), array.dtype)
            if not np.can_cast(array.dtype, whole.dtype):
                narrow, whole = whole, space(whole.shape, np.promote_types(whole.dtype, array.dtype))
                whole[...] = narrow
            if self._picks is None:
                whole[start : start + len(array)] = array
            else:
                whole[self._picks[number].places] = array[self._picks[number].rows]
        return whole

    def _space(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if int(np.prod(shape)) * dtype.itemsize <= self._memory_limit:
            return np.empty(shape, dtype)
        # The file has no name, so it is gone with the last reference to it, or with the process.
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except (FileNotFoundError, SafetensorError) as error:
        raise DamagedError(
            f"{path} (arrays of a block of samples): {error}. Restore it from a backup."
        ) from error
