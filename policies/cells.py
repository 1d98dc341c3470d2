"""An inverted file that is searched cell by cell: of each of many short vectors, the nearest that came before it.

Points are parted into cells of like ones; each looks for its neighbours in the few cells nearest to it. All that look
into a cell do so at once, while it is at hand: the time for each point is the same for a thousand and for a million,
where a search point by point waits for memory more and more. Where there are many cells, they
are found in two steps, among groups of them first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NONE = -1  # in the place of a point that there is not
CELL = 160  # points of a cell, on average
PROBED = 10  # cells in which a point's neighbours are looked for
FLAT = 640  # cells up to which all are compared to find the nearest
GROUPS_PROBED = 8  # groups in which the nearest cells are looked for, where there are more

_TRAINING = 32  # points per cell from which the cells are found
_ROUNDS = 3  # of k-means for them
_READ = 8192  # points compared with all cells at a time
_PAIRS = 1 << 18  # distances held at a time
_OWN = 512  # points of a cell compared with all of it at a time


def nearest_points(points: np.ndarray, k: int) -> np.ndarray:
    """(m, k) int64: of each point the k nearest before it, as far as they are found, in no order; NONE where fewer.

    points: (m, p) float32, no two the same in earnest: copies of a point would all lie in one cell. Deterministic.
    """
    centres = _centres(points, -(-len(points) // CELL))
    probes = _nearest_centres(points, centres, min(PROBED, len(centres)))
    return _search(points, probes, k)


def _centres(points: np.ndarray, cells: int) -> np.ndarray:
    """(c, p) float32 centres of about so many cells, by k-means on some of the points: in groups, if they are many."""
    chosen = np.random.default_rng(1).choice(len(points), min(len(points), cells * _TRAINING), replace=False)
    training = points[np.sort(chosen)]
    if cells <= FLAT:
        return _means(training, cells)
    groups = _means(training, round(cells**0.5))
    own = _nearest_centres(training, groups, 1)[:, 0]
    order = np.argsort(own, kind="stable")
    parts = np.split(training[order], np.cumsum(np.bincount(own, minlength=len(groups)))[:-1])
    return np.concatenate([_means(part, -(-len(part) // _TRAINING)) for part in parts if len(part)])


def _means(points: np.ndarray, k: int) -> np.ndarray:
    import faiss

    means = faiss.Kmeans(
        points.shape[1],
        min(k, len(points)),
        niter=_ROUNDS,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    means.train(points)
    return np.asarray(means.centroids, dtype=np.float32)


def _nearest_centres(points: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    """(m, k) int32: the k centres nearest to each point, the nearest first; many are searched in groups."""
    import faiss

    width = centres.shape[1]
    index: Any = faiss.IndexFlatL2(width)
    if len(centres) > FLAT:
        index = faiss.IndexIVFFlat(index, width, round(len(centres) ** 0.5))
        index.cp.min_points_per_centroid, index.cp.seed = 1, 0
        index.nprobe = GROUPS_PROBED
        index.train(centres)
    index.add(centres)
    found = np.empty((len(points), k), dtype=np.int32)
    for start in range(0, len(points), _READ):
        found[start : start + _READ] = index.search(points[start : start + _READ], k)[1]
    return found


def _search(points: np.ndarray, probes: np.ndarray, k: int) -> np.ndarray:
    """(m, k) int64: for each point the k nearest before it in the cells that it probes; NONE where there are fewer.

    points: (m, p); probes: (m, r) cells, the nearest first, NONE for none. A point is in the first that it probes.
    """
    cells = int(probes.max()) + 1
    own, first = _by_cell(probes[:, 0], cells)
    # From here on points stand cell by cell, so that those that look into a cell are read in a few long pieces.
    held = points[own]
    squares = np.einsum("mp,mp->m", held, held)
    best = _Best(own, k)

    def distances(who: slice | np.ndarray, here: slice) -> np.ndarray:
        """(b, c) ‖q − x‖² less ‖q‖², which is the same for all points, of queries and the points of a cell."""
        far = (-2 * held[who]) @ held[here].T
        far += squares[here]
        return far

    for cell in range(cells):
        for start in range(first[cell], first[cell + 1], _OWN):
            # A point's own cell first: what is found there tells what need not be looked at in the others.
            own_cell = slice(first[cell], first[cell + 1])
            some = slice(start, min(start + _OWN, first[cell + 1]))
            best.begin(some, own_cell, distances(some, own_cell))
    asking, bounds = _by_cell(probes[own, 1:].reshape(-1), cells)
    asking //= max(probes.shape[1] - 1, 1)
    for cell in range(cells):
        here = slice(first[cell], first[cell + 1])
        size = max(1, _PAIRS // max(here.stop - here.start, 1))
        for start in range(bounds[cell], bounds[cell + 1], size):
            who = asking[start : min(start + size, bounds[cell + 1])]
            best.better(who, here, distances(who, here))
    return best.by_arrival()


def _by_cell(labels: np.ndarray, cells: int) -> tuple[np.ndarray, list[int]]:
    """Places in `labels` in the order of their cells, int32, and where among them each cell begins; NONE left out."""
    missing = int((labels == NONE).sum())
    # Of 16 bits a stable sort takes time in proportion to their number.
    short = np.where(labels == NONE, cells, labels).astype(np.uint16 if cells < 1 << 16 else np.uint32)
    order = np.argsort(short, kind="stable").astype(np.int32)
    bounds = np.cumsum(np.bincount(short, minlength=cells + 1)[:cells])
    return order[: len(order) - missing], [0, *bounds.tolist()]


class _Best:
    """The k nearest points of each query so far. own: (m,) numbers of the points, which stand cell by cell."""

    def __init__(self, own: np.ndarray, k: int) -> None:
        self.k = k
        self.own = own
        self.numbers = np.full((len(own), k), NONE, dtype=np.int64)
        self.far = np.full((len(own), k), np.inf, dtype=np.float32)
        self.furthest = np.full(len(own), np.inf, dtype=np.float32)

    def by_arrival(self) -> np.ndarray:
        """(m, k) int64: what was found, in the order of the points' numbers."""
        found = np.empty_like(self.numbers)
        found[self.own] = self.numbers
        return found

    def begin(self, who: slice, here: slice, far: np.ndarray) -> None:
        """The points `here`, of which `who` are some, are all that is known so far to these; far: (b, c)."""
        places = np.arange(here.start, here.stop)
        far[places >= places[who.start - here.start : who.stop - here.start, None]] = np.inf
        k = min(self.k, len(places))
        nearest = np.argpartition(far, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(far, nearest, axis=1)
        self.far[who, :k] = found
        self.numbers[who, :k] = np.where(np.isfinite(found), self.own[here][nearest], NONE)
        self.furthest[who] = self.far[who].max(axis=1)

    def better(self, who: np.ndarray, here: slice, far: np.ndarray) -> None:
        """The points `here` may be among the nearest before the queries `who`, (b,); far: (b, c)."""
        numbers = self.own[here]
        hits = np.flatnonzero(far < self.furthest[who][:, None])
        row, column = np.divmod(hits, max(len(numbers), 1))
        before = numbers[column] < self.own[who[row]]
        row, column, hits = row[before], column[before], hits[before]
        if not len(row):
            return
        distances = far.reshape(-1)[hits]
        # Of each query the k nearest of these, then of these and those it had.
        nearest = np.lexsort((distances, row))
        row, column, distances = row[nearest], column[nearest], distances[nearest]
        begins = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        slot = np.repeat(np.arange(len(begins)), np.diff(np.r_[begins, len(row)]))
        place = np.arange(len(row)) - begins[slot]
        changed, few = who[row[begins]], place < self.k
        all_far = np.full((len(changed), 2 * self.k), np.inf, dtype=np.float32)
        all_numbers = np.full((len(changed), 2 * self.k), NONE, dtype=np.int64)
        all_far[:, : self.k], all_numbers[:, : self.k] = self.far[changed], self.numbers[changed]
        all_far[slot[few], self.k + place[few]] = distances[few]
        all_numbers[slot[few], self.k + place[few]] = numbers[column[few]]
        chosen = np.argpartition(all_far, self.k - 1, axis=1)[:, : self.k]
        self.far[changed] = found = np.take_along_axis(all_far, chosen, axis=1)
        self.numbers[changed] = np.take_along_axis(all_numbers, chosen, axis=1)
        self.furthest[changed] = found.max(axis=1)
