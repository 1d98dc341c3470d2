"""What selecting costs beside the released algorithm, and how it grows with the number of samples.

Given the clusters: the router, the budget per cluster, coverage-centric sampling, and pruning of near-duplicates,
each timed beside the released form (released.py) on the same pool (planted.py) in one process, a round at a time.
Pruning is timed twice: in 10 clusters, and with all samples in one. Its recall is the share of samples with an
earlier one of cosine ≥ 0.95 whose nearest earlier one is found, the same to 2e-6 as by comparing all pairs.
Clustering is timed beside scikit-learn's MiniBatchKMeans with the batch that the released code takes (10,240) and
with its default (1,024); inertia is the sum of squared distances of the samples to the means of their clusters.

    python benchmarks/select.py [--quick] [--json] [--only stage] [--threads N] [--sizes 10000 30000 100000]

A ratio is ours / theirs, taken within a round; medians, lowest and highest over the rounds. Seconds are CPU time on
one thread, which other work on the machine disturbs less than the time on the wall; that is used on several.
An exponent is the slope of log seconds on log samples.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import released
from benchmarks.memory import peak_mb
from benchmarks.planted import Pool, pool, unit
from policies.allocators import even
from policies.arrays import members
from policies.clusterers import KMeans
from policies.pruners import semdedup
from policies.routers import ByEntropy
from policies.samplers import ccs

SEED = 0
DIM = 1024
K = 10
TRAINED = 0.15  # of the pool
KEPT = 0.6
NEAR = 0.95  # cosine from which two samples are near-duplicates
EXPONENT_BAR, RECALL_BAR = 1.1, 0.98
ONE, MANY = "prune, one cluster", f"prune, {K} clusters"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. ratio, low, high: ours / theirs; None where theirs was not run."""

    name: str
    rows: int | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    theirs: float | None = None  # seconds
    peak_mb: float | None = None  # of the whole process, the pool included
    exponent: float | None = None
    exponent_theirs: float | None = None
    recall: float | None = None
    inertia: float | None = None  # ours / theirs
    note: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    sizes: tuple[int, ...]
    clustered: tuple[int, tuple[int, ...]]  # samples, and numbers of clusters
    rounds: int
    limit_s: float  # a round of the released algorithm longer than this is not run
    limit_bytes: float  # nor one that needs more memory
    queries: int  # near-duplicates that recall is measured on
    clock: Callable[[], float]


Work = Callable[[], object]


def steps(data: Pool, labels: np.ndarray) -> dict[str, tuple[Work, Work]]:
    """Step → (ours, released)."""
    n = len(labels)
    budget, keep = int(TRAINED * n), int(KEPT * n)
    scores, router = data.scores, ByEntropy(tuple(data.scores))
    inside = [rows for _, rows in members(labels)]
    sizes = np.array([len(rows) for rows in inside])
    quotas = even(sizes, budget)
    el2n, one = scores["el2n"], np.zeros(n, dtype=np.int64)

    def sample() -> None:
        rng = np.random.default_rng(SEED)
        for rows, quota in zip(inside, quotas.tolist(), strict=True):
            ccs(el2n[rows], quota, rng)

    def released_sample() -> None:
        generator = random.Random(SEED)
        for rows, quota in zip(inside, quotas.tolist(), strict=True):
            released.ccs(el2n[rows], quota, generator)

    return {
        "route": (
            lambda: router.route(scores, labels, np.random.default_rng(SEED)),
            lambda: released.route(scores, labels),
        ),
        "allocate": (
            lambda: even(np.bincount(labels), budget),
            lambda: released.allocate([int((labels == cluster).sum()) for cluster in range(K)], budget),
        ),
        "sample (CCS)": (sample, released_sample),
        MANY: (
            lambda: semdedup(data.vectors, labels, keep),
            lambda: released.prune(data.vectors, labels, keep),
        ),
        ONE: (
            lambda: semdedup(data.vectors, one, keep),
            lambda: released.prune(data.vectors, one, keep),
        ),
    }


def timed(works: Mapping[str, Work], given: Given, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each in each round, (rounds,), after each was called once; the order changes every round."""
    generator = np.random.default_rng(SEED)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for position in generator.permutation(len(works)):
            name = list(works)[position]
            seconds[name].append(once(works[name], given))
    return {name: np.array(values) for name, values in seconds.items()}


def once(work: Work, given: Given) -> float:
    gc.collect()
    began = given.clock()
    work()
    return given.clock() - began


def stage(given: Given) -> Iterator[Row]:
    """Every step at every size, then how each grows."""
    found: dict[str, list[Row]] = {}
    for n in given.sizes:
        data = pool(n, DIM, SEED)
        labels = KMeans(k=K).cluster(data.vectors, n, np.random.default_rng(SEED)).labels
        for name, (ours, theirs) in steps(data, labels).items():
            one = name == ONE
            needs = released.prune_bytes(np.zeros(n, dtype=np.int64) if one else labels) * ("prune" in name)
            row = compared(Row(name, n), ours, theirs, needs, found.get(name, []), given)
            if "prune" in name:
                inside = np.zeros(n, dtype=np.int64) if one else labels
                row = replace(row, peak_mb=peak_mb(ours), recall=recall(data, inside, given))
            found.setdefault(name, []).append(row)
            yield row
        del data
    for name, rows in found.items():
        yield grown(name, rows)


def compared(row: Row, ours: Work, theirs: Work, needs: float, before: Sequence[Row], given: Given) -> Row:
    """The row with its times; the released algorithm is left out where it would not fit, and the note says so."""
    expected = extrapolated(row.rows or 0, before)
    ours()
    if needs > given.limit_bytes or expected > given.limit_s:
        reason = (
            f"its matrix of pairs would take {needs / 1e9:.0f} GB"
            if needs > given.limit_bytes
            else f"a limit of {given.limit_s:.0f} s"
        )
        guess = (
            f"about {expected:.0f} s by its growth" if math.isfinite(expected) and expected else "no estimate"
        )
        seconds = timed({"ours": ours}, given, given.rounds)["ours"]
        return replace(row, seconds=float(np.median(seconds)), note=f"released not run ({reason}; {guess})")
    slow = once(theirs, given) > given.limit_s / 6
    seconds_of = timed({"ours": ours, "theirs": theirs}, given, 1 if slow else given.rounds)
    mine = seconds_of["ours"]
    if slow:
        mine = np.concatenate([mine, timed({"ours": ours}, given, given.rounds - 1)["ours"]])
    ratios = mine / (seconds_of["theirs"] if not slow else seconds_of["theirs"][0])
    return replace(
        row,
        ratio=float(np.median(ratios)),
        low=float(ratios.min()),
        high=float(ratios.max()),
        seconds=float(np.median(mine)),
        theirs=float(np.median(seconds_of["theirs"])),
        note="released timed once" if slow else "",
    )


def extrapolated(n: int, before: Sequence[Row]) -> float:
    """Seconds that the released algorithm would take; 0 where nothing is known yet. Its growth is at most n²."""
    known = [(row.rows, row.theirs) for row in before if row.rows and row.theirs]
    if not known:
        return 0.0
    growth = slope(known) if len(known) > 1 else 2.0
    size, seconds = known[-1]
    return float(seconds * (n / size) ** growth)


def slope(points: Sequence[tuple[int, float]]) -> float:
    sizes, seconds = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(sizes, seconds, 1)[0])


def grown(name: str, rows: Sequence[Row]) -> Row:
    mine = [(row.rows, row.seconds) for row in rows if row.rows and row.seconds]
    theirs = [(row.rows, row.theirs) for row in rows if row.rows and row.theirs]
    recalls = [row.recall for row in rows if row.recall is not None]
    return Row(
        f"growth: {name}",
        exponent=slope(mine) if len(mine) > 1 else None,
        exponent_theirs=slope(theirs) if len(theirs) > 1 else None,
        recall=min(recalls) if recalls else None,
    )


def recall(data: Pool, labels: np.ndarray, given: Given) -> float:
    """Recall of near-duplicates, of some of them drawn at random, against all the earlier samples of their cluster."""
    pruned = semdedup(data.vectors, labels, int(KEPT * len(labels)))
    rng = np.random.default_rng(SEED)
    asked = rng.choice(data.duplicates, min(given.queries, len(data.duplicates)), replace=False)
    asked.sort()
    largest = np.concatenate(
        [nearest_of_all(data.vectors, labels, block) for block in np.array_split(asked, 8)]
    )
    near = largest >= NEAR
    return float((pruned.similarity[asked][near] >= largest[near] - 2e-6).mean())


def nearest_of_all(vectors: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(m,) the largest cosine of each row asked to an earlier one of its cluster, from all of them."""
    mine = unit(vectors[asked].astype(np.float32))
    largest = np.full(len(asked), -np.inf, dtype=np.float32)
    for start in range(0, int(asked.max()), 8192):
        rows = np.arange(start, min(start + 8192, int(asked.max())))
        cosine = mine @ unit(vectors[rows].astype(np.float32)).T
        allowed = (rows < asked[:, None]) & (labels[rows] == labels[asked][:, None])
        largest = np.maximum(largest, np.where(allowed, cosine, -np.inf).max(axis=1))
    return largest


def clustering(given: Given) -> Iterator[Row]:
    """k-means beside scikit-learn's on the same float32 vectors, then how ours grows."""
    from sklearn.cluster import MiniBatchKMeans

    n, numbers = given.clustered
    vectors = pool(n, DIM, SEED, modes=200).vectors.astype(np.float32)
    for k in numbers:
        for batch in (10_240, 1_024):
            rounds = min(given.rounds, 2 if batch * k > 2_000_000 else 3)
            yield against_sklearn(vectors, k, batch, MiniBatchKMeans, rounds, given)
    rows = []
    for size in given.sizes:
        data = pool(size, DIM, SEED).vectors

        def ours(data: np.ndarray = data) -> object:
            return KMeans(k=K).cluster(data, len(data), np.random.default_rng(SEED))

        ours()
        seconds = timed({"ours": ours}, given, given.rounds)["ours"]
        rows.append(Row(f"cluster, k = {K}", size, seconds=float(np.median(seconds))))
        yield rows[-1]
    yield grown(f"cluster, k = {K}", rows)


def against_sklearn(vectors: np.ndarray, k: int, batch: int, theirs: type, rounds: int, given: Given) -> Row:
    """Each round has a seed of its own, for both: the inertia of one start says little."""
    ratios, inertias, mine, other = [], [], [], []
    for seed in range(rounds):
        labels: dict[str, np.ndarray] = {}

        def ours(seed: int = seed, labels: dict[str, np.ndarray] = labels) -> None:
            rng = np.random.default_rng(seed)
            labels["ours"] = KMeans(k=k).cluster(vectors, len(vectors), rng).labels

        def sklearn(seed: int = seed, labels: dict[str, np.ndarray] = labels) -> None:
            model = theirs(k, batch_size=batch, random_state=seed)
            labels["theirs"] = model.fit(vectors).labels_

        order = (ours, sklearn) if seed % 2 else (sklearn, ours)
        seconds = {work.__name__: once(work, given) for work in order}
        mine.append(seconds["ours"])
        other.append(seconds["sklearn"])
        ratios.append(seconds["ours"] / seconds["sklearn"])
        inertias.append(inertia(vectors, labels["ours"]) / inertia(vectors, labels["theirs"]))
    return Row(
        f"cluster, k = {k}, beside batches of {batch}",
        len(vectors),
        float(np.median(ratios)),
        min(ratios),
        max(ratios),
        seconds=float(np.median(mine)),
        theirs=float(np.median(other)),
        inertia=float(np.median(inertias)),
        note=f"{rounds} seeds",
    )


def inertia(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances to the means of the clusters: Σ ‖x‖² − Σ n_c ‖mean_c‖²."""
    total = np.einsum("nd,nd->", vectors, vectors, dtype=np.float64)
    for _, rows in members(labels):
        total -= np.square(vectors[rows].sum(axis=0, dtype=np.float64)).sum() / len(rows)
    return float(total)


def verdict(row: Row) -> str:
    """Which bars the row is held to, and whether it meets them."""
    bars = []
    if row.exponent is not None:
        bars.append((f"exponent ≤ {EXPONENT_BAR}", row.exponent <= EXPONENT_BAR))
    if row.recall is not None and row.rows:
        bars.append((f"recall ≥ {RECALL_BAR}", row.recall >= RECALL_BAR))
    if row.inertia is not None and row.ratio is not None:
        bars.append(("time < 1", row.ratio < 1))
        bars.append(("inertia ≤ 1", round(row.inertia, 3) <= 1))
    return ", ".join(f"{bar} {'met' if met else 'MISSED'}" for bar, met in bars)


def printed(row: Row) -> str:
    def cell(label: str, value: float | None, form: str) -> str:
        return "" if value is None else f"{label}{value:{form}}"

    ratio = "" if row.ratio is None else f"{row.ratio:.3g} × ({row.low:.3g} to {row.high:.3g})"
    cells = [
        f"{row.name:<40}",
        cell("", row.rows, ">8,"),
        cell("", row.seconds, "9.4f").rjust(9) + (" s" if row.seconds is not None else ""),
        "" if row.theirs is None else f"theirs {row.theirs:.4f} s",
        ratio,
        cell("exponent ", row.exponent, ".2f"),
        cell("theirs ", row.exponent_theirs, ".2f"),
        cell("recall ", row.recall, ".4f"),
        cell("inertia × ", row.inertia, ".4f"),
        cell("peak MB ", row.peak_mb, ",.0f"),
        verdict(row),
        row.note,
    ]
    return "  ".join(part for part in cells if part.strip())


def settings(arguments: argparse.Namespace) -> Given:
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    if arguments.quick:
        return Given((3_000, 6_000, 12_000), (10_000, (50,)), 2, 5.0, 1e9, 200, clock)
    return Given(tuple(arguments.sizes), (50_000, (50, 100, 500)), 5, 60.0, 8e9, 1500, clock)


def versions() -> str:
    import faiss
    import sklearn

    return f"numpy {np.__version__}, faiss {faiss.__version__}, scikit-learn {sklearn.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small pools, under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS and OpenMP, on both sides")
    parser.add_argument("--only", choices=("stage", "clustering"), help="one half of the table")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")
    given = settings(arguments)
    if not arguments.json:
        print(
            f"{time.strftime('%Y-%m-%d')}; {arguments.threads} thread(s) on each side, {os.cpu_count()} cores; "
            f"{DIM} dimensions; {given.rounds} rounds; {versions()}",
            flush=True,
        )
    with threadpool_limits(arguments.threads):
        for name, make in {"stage": stage, "clustering": clustering}.items():
            for row in make(given) if arguments.only in (None, name) else ():
                print(as_json(row) if arguments.json else printed(row), flush=True)


def as_json(row: Row) -> str:
    return json.dumps(
        {"name": row.name, "ratio": row.ratio} | {k: v for k, v in asdict(row).items() if v not in (None, "")}
    )


if __name__ == "__main__":
    sys.exit(main())
