"""Leverage scores of a million samples (ScalSelect) beside the singular value decomposition that was released.

The released form holds the matrix and decomposes it whole; it runs at sizes that fit. Ours streams: its rows come from
shards, a block at a time. To spare the disk SHARDS of them are written, and read again and again for as many rows as
are asked for: every byte that is counted on is read from a file (from its cache, after the first time), and the rows
repeat, which changes no time.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.memory import peak_mb
from policies.scorers.scalselect import leverage_scores
from stores.shards import read_array, write_shard

WIDTH, RANK, SHARD, SHARDS = 4096, 300, 2048, 16
ENERGY = 0.9


class Rows:
    """(n, d) float16, read a block at a time: as much of an array as `leverage_scores` asks for."""

    def __init__(self, paths: list[Path], n: int, width: int, shard: int) -> None:
        self.shape, self.ndim = (n, width), 2
        self._paths, self._shard = paths, shard
        self.bytes_read = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        parts = []
        while start < stop:
            number, first = divmod(start, self._shard)
            block = read_array(self._paths[number % len(self._paths)], "attended")
            self.bytes_read += block.nbytes
            parts.append(block[first : first + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)


def write_features(folder: Path, rows: int, width: int) -> list[Path]:
    """Features whose energy falls off slowly, as those of a model do."""
    rng = np.random.default_rng(0)
    rank = min(RANK, width // 4)
    falling = np.arange(1, rank + 1, dtype=np.float32) ** -0.4
    directions = rng.standard_normal((rank, width), dtype=np.float32) / np.float32(np.sqrt(rank))
    paths = []
    for position in range(SHARDS):
        features = (rng.standard_normal((rows, rank), dtype=np.float32) * falling) @ directions
        features += 0.03 * rng.standard_normal((rows, width), dtype=np.float32)
        shard = write_shard(folder, 1, "signals", position, {"attended": features.astype(np.float16)})
        paths.append(folder / shard.path)
    return paths


def released_leverage(features: np.ndarray) -> np.ndarray:
    """As the authors' script has it: the decomposition of the whole matrix."""
    centred = features.astype(np.float32) - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    share = np.cumsum(values**2) / np.sum(values**2)
    k = int(np.searchsorted(share, ENERGY)) + 1
    return np.asarray(np.square(left[:, :k]).sum(axis=1))


def leverage_rows(sizes: list[int] | None, quick: bool, threads: int = 2) -> Iterator[dict[str, Any]]:
    """Both on the sizes at which the released one fits; then ours alone."""
    width, shard = (512, 256) if quick else (WIDTH, SHARD)
    small = [1_000] if quick else [5_000]
    large = sizes or ([16_000] if quick else [20_000, 200_000, 1_000_000])
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(threads):
        paths = write_features(Path(temporary), shard, width)
        points = []
        for n in [*small, *large]:
            rows = Rows(paths, n, width, shard)
            found: list[np.ndarray] = []
            took = timed(lambda rows=rows, found=found: found.append(leverage_scores(rows, ENERGY)))
            points.append((n, took["cpu_seconds"]))
            told = {
                "read_gb": round(rows.bytes_read / 1e9, 1),
                "on_disk_mb": round(sum(path.stat().st_size for path in paths) / 1e6),
            }
            yield {"step": "leverage", "rows": n, **took, **told, "rank": round(float(found[0].sum()))}
            if n in small:
                whole = rows[0:n]
                theirs: list[np.ndarray] = []
                took = timed(lambda whole=whole, theirs=theirs: theirs.append(released_leverage(whole)))
                apart = float(np.abs(found[0] - theirs[0]).max())
                yield {"step": "released leverage", "rows": n, **took, "apart": apart}
        if len(points) > 1:
            exponent = float(np.polyfit(*np.log(np.array(points)).T, 1)[0])
            needs = 3 * 4 * points[-1][0] * width / 1e9
            row = {"step": "leverage", "rows": points[-1][0], "seconds": None, "exponent": round(exponent, 3)}
            yield row | {"released_needs_gb": round(needs, 1)}


def timed(work: Any) -> dict[str, float | None]:
    """Seconds of the wall, of all threads together, and the largest resident size."""
    began = time.perf_counter(), time.process_time()
    peak = peak_mb(work)
    seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}
