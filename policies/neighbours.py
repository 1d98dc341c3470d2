"""Near-duplicates: of each sample, the most similar one that came before it.

Up to EXACT samples every pair is compared. Among more, candidates come from cells of the vectors' random projections
(cells.py), and their cosines are then computed from the vectors themselves: a similarity that is
returned is always the cosine of the pair named, so nothing is taken for a duplicate that is none. What may be
missed is a nearer sample. Time grows with n, not with n².
"""

from __future__ import annotations

import numpy as np

from policies.arrays import unit_rows
from policies.cells import NONE, nearest_points

NOTHING_EARLIER = -1.0  # its similarity: the least redundant
EXACT = 1024  # samples up to which every pair is compared: from here on the inverted file is faster
PROJECTED = 48  # length of a random projection; squared distances in it are right to ± √(2 / 48) = 20 %
CANDIDATES = 4  # nearest in projection, whose cosines are then computed
BLOCK = 256  # samples whose candidates are compared at a time

_READ = 1024  # vectors read at a time
_DECIMALS = 6  # similarities are rounded here: exact duplicates tie
_NOISE = np.float32(1e-6)  # cosines nearer than this are equal in float32: the earlier sample is the nearest
_SAME = 1 - 1e-9  # cosine from which two samples are the same, and the first stands for both


def nearest_earlier(vectors: np.ndarray, rows: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `rows`, earliest first, the most similar of those before it, and its cosine.

    vectors: (n, d), finite, possibly memory-mapped; rows: (m,) indices into it; block: samples compared at a
    time where all pairs are. Returns rows of neighbours, (m,) int64, NONE for the first, and similarities, (m,)
    float32, NOTHING_EARLIER for it; a zero vector has similarity 0 to anything. Of equally near samples
    the earliest found is the neighbour. Memory O(block² + block × d + m), vectors aside.
    """
    return exact(vectors, rows, block) if len(rows) <= EXACT else projected(vectors, rows)


def exact(vectors: np.ndarray, rows: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_earlier` by comparing all pairs: time O(m² d)."""
    neighbour = np.full(len(rows), NONE, dtype=np.int64)
    similarity = np.full(len(rows), NOTHING_EARLIER, dtype=np.float32)
    for start in range(0, len(rows), block):
        mine = slice(start, start + block)
        later = unit_rows(vectors[rows[mine]])
        nearest = np.full(len(later), NONE, dtype=np.int64)
        largest = np.full(len(later), -np.inf, dtype=np.float32)
        for other in range(0, start + 1, block):
            earlier = later if other == start else unit_rows(vectors[rows[other : other + block]])
            cosine = later @ earlier.T
            if other == start:
                cosine[~np.tri(len(later), k=-1, dtype=bool)] = -np.inf  # itself, and what came after
            here = cosine.max(axis=1)
            first = (cosine >= (here - _NOISE)[:, None]).argmax(axis=1)
            closer = here > largest + _NOISE
            nearest, largest = np.where(closer, rows[other + first], nearest), np.where(closer, here, largest)
        found = nearest != NONE
        neighbour[mine] = nearest
        cosines = _cosines(vectors[rows[mine][found]], vectors[nearest[found]])
        similarity[mine][found] = np.round(cosines, _DECIMALS)
    return neighbour, similarity


def projected(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`nearest_earlier` among candidates that lie near in projection: time O(m d), memory O(m + d).

    Projection and cells are drawn from fixed seeds: the same vectors give the same answer.
    """
    places, inverse_lengths = _project(vectors, rows)
    original = _first_copies(places)  # of each sample, the first of its exact duplicates
    indexed = np.flatnonzero((original == np.arange(len(rows))) & (inverse_lengths > 0))
    places = places if len(indexed) == len(rows) else places[indexed]
    found = nearest_points(places, CANDIDATES)
    candidates = np.full((len(rows), CANDIDATES), NONE, dtype=np.int64)
    candidates[indexed] = np.where(found == NONE, NONE, indexed[found])
    copies = original != np.arange(len(rows))
    candidates[copies, 0] = original[copies]
    lone = (candidates == NONE).all(axis=1)
    candidates[lone, 0] = np.flatnonzero(lone) - 1  # nothing is near: any earlier one will do
    candidates.sort(axis=1)
    nearest = np.full(len(rows), NONE, dtype=np.int64)
    cosines = np.full(len(rows), NOTHING_EARLIER)
    for start in range(0, len(rows), BLOCK):
        mine = np.arange(start, min(start + BLOCK, len(rows)))
        nearest[mine], cosines[mine] = _most_similar(vectors, rows, inverse_lengths, mine, candidates[mine])
    same = cosines >= _SAME
    original[same] = nearest[same]
    while (original != original[original]).any():
        original = original[original]
    first = np.where(nearest == NONE, NONE, original[nearest])
    moved = np.flatnonzero(first != nearest)
    for some in np.array_split(moved, -(-len(moved) // _READ) or 1):
        cosines[some] = _cosines(vectors[rows[some]], vectors[rows[first[some]]])
    return np.where(first == NONE, NONE, rows[first]), np.round(cosines, _DECIMALS).astype(np.float32)


def _first_copies(places: np.ndarray) -> np.ndarray:
    """(m,) int64: of each sample, the first whose place is the very same; itself if there is none before it."""
    factors = np.random.default_rng(2).integers(1, 2**63, size=places.shape[1], dtype=np.uint64)
    hashes = np.empty(len(places), dtype=np.uint64)
    for start in range(0, len(places), _READ):
        words = places[start : start + _READ].view(np.uint32).astype(np.uint64)
        hashes[start : start + _READ] = words @ factors
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    copies = np.flatnonzero(np.isin(hashes, twice)) if len(twice) else np.empty(0, np.int64)
    _, first, group = np.unique(hashes[copies], return_index=True, return_inverse=True)
    first = copies[first[group]]
    original = np.arange(len(places))
    original[copies] = np.where((places[first] == places[copies]).all(axis=1), first, copies)
    return original


def _project(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random projections of the unit vectors, (m, PROJECTED) float32, and 1 / length, (m,) float32, 0 for zeros.

    Signs as coefficients: Achlioptas 2003 (Database-friendly random projections). A vector that is no longer
    than its projection would be is taken as it is.
    """
    d = vectors.shape[1]
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (d, PROJECTED))
    signs /= np.float32(np.sqrt(PROJECTED))
    places = np.empty((len(rows), min(d, PROJECTED)), dtype=np.float32)
    inverse_lengths = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _READ):
        read = np.asarray(vectors[rows[start : start + _READ]], dtype=np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", read, read, dtype=np.float64))
        inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0).astype(np.float32)
        unit = read * inverse[:, None]
        places[start : start + _READ] = unit @ signs if d > PROJECTED else unit
        inverse_lengths[start : start + _READ] = inverse
    return places, inverse_lengths


def _most_similar(
    vectors: np.ndarray,
    rows: np.ndarray,
    inverse_lengths: np.ndarray,
    mine: np.ndarray,
    candidates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample's (b, c) candidates the one with the largest cosine, of equals the earliest; and that cosine.

    Returns (b,) int64, NONE where there is no candidate, and (b,) float64, NOTHING_EARLIER there.
    """
    own = np.asarray(vectors[rows[mine]], dtype=np.float32)
    others = np.asarray(vectors[rows[candidates]], dtype=np.float32)
    cosine = np.einsum("bd,bcd->bc", own * inverse_lengths[mine, None], others) * inverse_lengths[candidates]
    cosine[candidates == NONE] = -np.inf
    first = (cosine >= cosine.max(axis=1, keepdims=True) - _NOISE).argmax(axis=1)
    each = np.arange(len(mine))
    nearest = candidates[each, first]
    return nearest, np.where(nearest == NONE, NOTHING_EARLIER, _cosines(own, others[each, first]))


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of each row of (n, d) with the same row of another, (n,) float64: so that equal ones round to the same."""
    a, b = np.asarray(first, dtype=np.float32), np.asarray(second, dtype=np.float32)
    squares = [np.einsum("nd,nd->n", x, y, dtype=np.float64) for x, y in ((a, b), (a, a), (b, b))]
    lengths = np.sqrt(squares[1]) * np.sqrt(squares[2])
    return np.clip(squares[0] / np.where(lengths > 0, lengths, 1.0), -1.0, 1.0)
