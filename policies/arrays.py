"""Small steps on arrays that several slots share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from policies.errors import PolicyError

_IN_CACHE = 2**20  # bytes of a block that is looked at only
_TINY = 1e-20  # sum of squares from which none of those that matter has lost digits to underflow


def members(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(cluster, its rows in ascending order), clusters in ascending order, with one sort for all of them."""
    order = np.argsort(labels, kind="stable")
    clusters, starts = np.unique(np.asarray(labels)[order], return_index=True)
    if len(clusters):
        yield from zip(map(int, clusters), np.split(order, starts[1:]), strict=True)


def blocks(vectors: np.ndarray, block_bytes: int = 4 * 2**20) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, block of rows as float32), so that a memory-mapped array is never read whole."""
    rows = max(1, block_bytes // (4 * max(1, vectors.shape[1])))
    for start in range(0, len(vectors), rows):
        yield start, np.asarray(vectors[start : start + rows], dtype=np.float32)


def finite_rows(vectors: np.ndarray) -> np.ndarray:
    """(n,) bool: which rows of (n, d) have no NaN or infinite value."""
    return np.concatenate(
        [np.zeros(0, bool), *(np.isfinite(block).all(axis=1) for _, block in blocks(vectors, _IN_CACHE))]
    )


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, (n, d) float32; zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vecdot(vectors, vectors)[:, None]
        unit = vectors / np.sqrt(np.where(squares > 0, squares, 1.0))
    # The squares of tiny or huge entries are not exact, or not finite: there the largest entry is divided out first.
    extreme = np.flatnonzero(~((squares[:, 0] > _TINY) & (squares[:, 0] < np.inf)))
    if len(extreme):
        rows = vectors[extreme]
        largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
        rows = rows / np.where(largest > 0, largest, 1.0)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit[extreme] = rows / np.where(length > 0, length, 1.0)
    return unit


def check_rows(vectors: np.ndarray, user: str, *, zeros: bool) -> None:
    """Raises PolicyError that names the first row that is not finite or, unless `zeros`, is all zeros."""
    for start, block in blocks(vectors, _IN_CACHE):
        bad = ~np.isfinite(block).all(axis=1)
        if not zeros:
            bad |= ~block.any(axis=1)
        if bad.any():
            row = int(bad.argmax())
            fault = "is all zeros" if np.isfinite(block[row]).all() else "has NaN or infinite values"
            raise PolicyError(f"{user}: the vector in row {start + row} {fault}; measure that sample again")
