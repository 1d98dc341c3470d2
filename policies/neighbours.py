"""Near-duplicates: of each sample, the most similar one that came before it.

Up to EXACT samples every pair is compared. Among more, candidates come from an inverted file (faiss IVF) of the
vectors' random projections, and their cosines are then computed from the vectors themselves: a similarity that is
returned is always the cosine of the pair named, so nothing is taken for a duplicate that is none. What may be
missed is a nearer sample. Time grows with n, not with n².
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.arrays import unit_rows

NONE = -1  # neighbour of a sample before which there is none
NOTHING_EARLIER = -1.0  # its similarity: the least redundant
EXACT = 1024  # samples up to which every pair is compared: from here on the inverted file is faster
PROJECTED = 48  # length of a random projection; squared distances in it are right to ± √(2 / 48) = 20 %
CELL = 160  # samples of a cell of the inverted file, on average
PROBED = 9  # cells in which a sample's neighbours are looked for
CANDIDATES = 4  # nearest in projection, whose cosines are then computed
BLOCK = 256  # samples that are looked up before they are added

_TRAINING = 16  # vectors per cell from which the cells are found
_ROUNDS = 3  # of k-means for them
_READ = 4096  # vectors read at a time
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

    Blocks are looked up in order of arrival and added afterwards, so only earlier samples are found. Projection
    and cells are drawn from fixed seeds: the same vectors give the same answer.
    """
    from faiss.contrib.ivf_tools import add_preassigned

    places, inverse_lengths = _project(vectors, rows)
    index = _empty_index(places)
    neighbour = np.full(len(rows), NONE, dtype=np.int64)
    similarity = np.full(len(rows), NOTHING_EARLIER, dtype=np.float32)
    original = np.arange(len(rows))  # of each sample, the first of its exact duplicates
    for start in range(0, len(rows), BLOCK):
        mine = np.arange(start, min(start + BLOCK, len(rows)))
        here = places[mine]
        # Finding the cells is what grows with m²: it is done once, to look a sample up and to add it.
        far, cells = index.quantizer.search(here, PROBED)
        candidates = _candidates(index, here, mine, far, cells)
        lone = candidates[:, -1] == NONE
        candidates[lone, -1] = mine[lone] - 1  # nothing is near: any earlier one will do
        nearest, cosines = _most_similar(vectors, rows, inverse_lengths, mine, candidates)
        same = cosines >= _SAME
        original[mine[same]] = nearest[same]
        while (original[mine] != original[original[mine]]).any():
            original[mine] = original[original[mine]]
        found = nearest != NONE
        first = np.where(found, original[nearest], NONE)
        moved = first != nearest
        cosines[moved] = _cosines(vectors[rows[mine[moved]]], vectors[rows[first[moved]]])
        neighbour[mine[found]] = rows[first[found]]
        similarity[mine] = np.round(cosines, _DECIMALS)
        new = ~same & (inverse_lengths[mine] > 0)
        numbers = mine[new]  # named: add_preassigned lets go of what it is given before it reads it
        add_preassigned(index, here[new], cells[new, 0], numbers)
    return neighbour, similarity


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


def _empty_index(places: np.ndarray) -> Any:
    """An inverted file whose cells are found by k-means on a sample of the places; nothing is in it yet."""
    import faiss

    m, d = places.shape
    cells = -(-m // CELL)
    halves = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatL2(d), d, cells, halves, faiss.METRIC_L2, False)
    index.cp.niter, index.cp.seed = _ROUNDS, 0
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _TRAINING
    index.nprobe = PROBED
    chosen = np.random.default_rng(1).choice(m, min(m, cells * _TRAINING), replace=False)
    index.train(places[np.sort(chosen)])
    return index


def _candidates(
    index: Any, here: np.ndarray, mine: np.ndarray, far: np.ndarray, cells: np.ndarray
) -> np.ndarray:
    """The CANDIDATES nearest in projection among what came before, in ascending order; NONE where there are fewer.

    here: (b, p) places of the samples `mine`, (b,), of which a later one may be near an earlier one too; cells: (b,
    PROBED) nearest of them, the squared distances to whose centres are `far`.
    """
    from faiss.contrib.ivf_tools import search_preassigned

    far, before = search_preassigned(index, here, CANDIDATES, cells, far)
    squares = np.einsum("np,np->n", here, here)
    within = squares[:, None] + squares - 2.0 * (here @ here.T)
    within[~np.tri(len(here), k=-1, dtype=bool)] = np.inf
    distance = np.concatenate([np.where(before == NONE, np.inf, far), within], axis=1)
    number = np.concatenate([before, np.broadcast_to(mine, within.shape)], axis=1)
    nearest = np.argpartition(distance, CANDIDATES - 1, axis=1)[:, :CANDIDATES]
    found = np.take_along_axis(number, nearest, 1)
    return np.sort(np.where(np.isfinite(np.take_along_axis(distance, nearest, 1)), found, NONE), axis=1)


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
