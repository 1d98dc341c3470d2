"""The steps of a timestep on a pool of many samples, each run and timed in a process of its own by scale.py.

python -m benchmarks.scale_steps STEP FOLDER ROWS   (one JSON object a line: step, rows, seconds, peak_mb, …)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import released
from benchmarks.memory import peak_mb
from benchmarks.scale_pool import KEPT, SEED, config, context, write_dataset, write_signals
from lifelong import Run
from lifelong.context import Stores

REPEATS = 5
QUERIES = 300
LIMIT_S, LIMIT_BYTES = 60.0, 8e9
"""Beyond which the released algorithm is not run."""


@dataclass
class Timer:
    """What the steps of this process took."""

    rows: int
    found: list[dict[str, Any]] = field(default_factory=list)

    def time(self, step: str, work: Callable[[], Any], repeats: int = 1, **told: Any) -> Any:
        """Run work and put down its seconds (the median) and the largest resident size while it ran."""
        result: list[Any] = []
        seconds, cpu, peaks = [], [], []
        for _ in range(repeats):
            began = time.perf_counter(), time.process_time()
            peaks.append(peak_mb(lambda: result.append(work())))
            seconds.append(time.perf_counter() - began[0])
            cpu.append(time.process_time() - began[1])
        told["cpu_seconds"] = float(np.median(cpu))
        self.put(step, float(np.median(seconds)), max((peak for peak in peaks if peak), default=None), **told)
        return result[-1]

    def put(self, step: str, seconds: float | None, peak: float | None = None, **told: Any) -> None:
        row = {"step": step, "rows": self.rows, "seconds": seconds, "peak_mb": peak, **told}
        self.found.append(row)
        print(json.dumps(row), flush=True)


@contextmanager
def writing(folder: Path) -> Iterator[Stores]:
    with Run.open(folder / "run")._writing() as stores:
        yield stores


def dataset(timer: Timer, folder: Path) -> None:
    """The files that are then fed: no step of a timestep, and not timed."""
    write_dataset(folder, timer.rows)


def ingest(timer: Timer, folder: Path) -> None:
    """The dataset is read, checked and taken into the pool."""
    from lifelong.loop import run_phase
    from lifelong.phases.ingest import ingest as phase
    from lifelong.recorded import keep_config

    import_all()
    size = (folder / "train.json").stat().st_size
    settings = config(timer.rows)
    Run.create(folder / "run", config=settings)
    with writing(folder) as stores:
        given = context(stores, folder, timer.rows)
        timer.time("ingest", partial(run_phase, given, 1, "ingest", phase), bytes_a_row=size // timer.rows)
        keep_config(stores, 1, settings)


def measure(timer: Timer, folder: Path) -> None:
    """Signals are planted, in shards as the measure phase writes them; the phase itself then finds them all there."""
    from lifelong.loop import run_phase
    from lifelong.phases.measure import measure as phase

    with writing(folder) as stores:
        seconds, duplicates = write_signals(stores, timer.rows)
        np.save(folder / "duplicates.npy", duplicates)
        timer.put("write signals", seconds)
        timer.time(
            "commit measure", partial(run_phase, context(stores, folder, timer.rows), 1, "measure", phase)
        )


def phase(name: str, timer: Timer, folder: Path) -> None:
    """A phase as the loop runs it."""
    from lifelong.loop import PHASES, run_phase

    import_all()
    with writing(folder) as stores:
        given = context(stores, folder, timer.rows)
        timer.time(name, partial(run_phase, given, 1, name, PHASES[name]))


def prune(timer: Timer, folder: Path) -> None:
    """The prune phase; of it, finding near-duplicates and writing down the decisions. Nothing is trained or tested."""
    from lifelong.loop import run_phase
    from lifelong.phases import prune as module
    from policies import pruners

    import_all()
    with writing(folder) as stores:
        for untouched in ("train", "evaluate"):
            stores.ledger.commit(1, untouched, seed=0, result={"skills": {}}, seconds=0.0)
        semdedup, decisions, write = pruners.semdedup, module.Decisions.of, module.write_decisions
        pruners.semdedup = lambda *given, **more: timer.time(
            "near-duplicates", partial(semdedup, *given, **more)
        )
        module.Decisions.of = lambda *given: timer.time("decisions", partial(decisions, *given))
        module.write_decisions = lambda *given: timer.time("write decisions", partial(write, *given))
        given = context(stores, folder, timer.rows)
        began = time.perf_counter(), time.process_time()
        last = peak_mb(partial(run_phase, given, 1, "prune", module.prune))
        peaks = [row["peak_mb"] for row in timer.found] + [last]
        seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        timer.put("prune", seconds, max(filter(None, peaks), default=None), cpu_seconds=cpu)


def settle(timer: Timer, folder: Path) -> None:
    """What ends a timestep: the decisions get their name, the database is copied and the copy proved."""
    from lifelong.loop import publish_decisions
    from lifelong.upkeep.between import settle as work

    with Run.open(folder / "run").reading():
        pass
    from stores.database import open_database

    root = folder / "run"
    stores = Stores(root, open_database(root / "lifelong.sqlite"))
    publish_decisions(stores, 1)
    timer.time("copy the database", partial(work, stores))
    stores.db.close()


def export(timer: Timer, folder: Path) -> None:
    """The selection (15 % of the rows) as LLaVA JSON, with its pictures."""
    import shutil

    from lifelong.export.samples import export as work

    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with Run.open(folder / "run").reading() as stores:
        timer.time("export", partial(work, stores, out / "selection.json", "llava", 1))
    shutil.rmtree(out)


def look(timer: Timer, folder: Path) -> None:
    """Opening a run to read and to write, `status` and `why`; in this process, and as commands with their start."""
    from lifelong.account.why import why

    root = folder / "run"
    run = Run.open(root)

    def read() -> None:
        with Run.open(root).reading():
            pass

    def write() -> None:
        with run._writing():
            pass

    with run.reading() as stores:
        sample = next(stores.pool.rows([timer.rows // 2])).sample_id

    def tell() -> Any:
        with run.reading() as stores:
            return why(stores, sample)

    write()  # what is done once for each timestep is not opening
    timer.time("open", read, REPEATS)
    timer.time("open to write", write, REPEATS)
    timer.time("status", run.status, REPEATS)
    assert timer.time("why", tell, REPEATS)["samples"][0]["decisions"]
    for name, arguments in {"status": [], "why": [sample]}.items():
        command = [sys.executable, "-c", "from lifelong.cli import main; main()", name, str(root), *arguments]
        seconds = [timed_command(command) for _ in range(3)]
        timer.put(f"lifelong {name}", float(np.median(seconds)))


def timed_command(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def recall(timer: Timer, folder: Path) -> None:
    """Of near-duplicates drawn at random, how many have their nearest earlier sample named; and are cosines right."""
    import pyarrow.parquet as pq

    from benchmarks.selection import NEAR, nearest_of_all

    table = pq.read_table(folder / "run/timesteps/0001/decisions.parquet", columns=["cluster", "similarity"])
    labels, similarity = table["cluster"].to_numpy(), table["similarity"].to_numpy()
    with Run.open(folder / "run").reading() as stores:
        vectors = context(stores, folder, timer.rows).signals().matrix("gradient")
    duplicates = np.load(folder / "duplicates.npy")
    asked = np.sort(
        np.random.default_rng(SEED).choice(duplicates, min(QUERIES, len(duplicates)), replace=False)
    )
    largest = nearest_of_all(vectors, labels, asked)
    near = largest >= NEAR
    found = similarity[asked][near]
    timer.put("recall", None, recall=float((found >= largest[near] - 2e-6).mean()), queries=int(near.sum()))


def beside(timer: Timer, folder: Path) -> None:
    """The released algorithm on the same clusters and scores, where it fits."""
    with Run.open(folder / "run").reading() as stores:
        given = context(stores, folder, timer.rows)
        labels, scores = given.arrays("clusters")["cluster"], given.arrays("scores")
        scores = {name: values for name, values in scores.items() if name.startswith("score_")}
        largest = int(np.bincount(labels).max())
        fits = int(np.sqrt(LIMIT_BYTES / released.prune_bytes(np.zeros(1, int))) * timer.rows / largest)
        keep, needs = int(KEPT * timer.rows), released.prune_bytes(labels)
        told = {"needs_gb": round(needs / 1e9, 1), "fits_rows": fits}
        timer.time("released: route", lambda: released.route(scores, labels))
        if needs > LIMIT_BYTES:
            timer.put("released: near-duplicates", None, **told)
            return
        vectors = given.signals().matrix("gradient")
        timer.time("released: near-duplicates", lambda: released.prune(vectors, labels, keep), **told)


def import_all() -> None:
    """What the phases import when they are first used is no part of their work."""
    import sklearn  # noqa: F401

    import lifelong.training.train  # noqa: F401


STEPS: dict[str, Callable[[Timer, Path], None]] = {
    "dataset": dataset,
    "ingest": ingest,
    "measure": measure,
    "cluster": partial(phase, "cluster"),
    "route": partial(phase, "route"),
    "select": partial(phase, "select"),
    "prune": prune,
    "settle": settle,
    "export": export,
    "look": look,
    "recall": recall,
    "released": beside,
}


def main() -> None:
    step, folder, rows = sys.argv[1:]
    STEPS[step](Timer(int(rows)), Path(folder))


if __name__ == "__main__":
    main()
