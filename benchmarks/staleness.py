"""What it costs to measure less: how far selections agree where samples keep old signals (`measure.refresh`).

Each rule runs the same real stream from the start, with training, on the small model; `all` measures every sample at
every timestep. Agreement with it is |A ∩ B| / |A ∪ B| of the samples selected at a timestep (Jaccard). Two lines say
what to compare it with: `all` under another seed, where only chance differs (order of training, k-means, draws inside
strata), and two selections of that size drawn blindly from the pool.

    python benchmarks/staleness.py [--quick] [--json] [--stream FOLDER] [--datasets 6] [--rules new "stale(1)" …]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

STREAMS = Path(os.environ.get("LIFELONG_STREAMS", Path(__file__).resolve().parents[2] / "shared" / "streams"))
RULES = ("stale(0)", "stale(1)", "stale(2)", "new")
RECIPE = {
    "recipe": "adapt-inf",
    "clusters": "kmeans[k=5]",
    "router": "entropy[el2n perplexity grounding grand]",
    "prune": "none",
}
SETTINGS: dict[str, Any] = {
    "measure": {"batch_size": 16, "shard_size": 64},
    "train": {"budget": "50%", "batch_size": 8, "learning_rate": 1e-3},
    "evaluate": {"limit": 1},
}


def run(
    folder: Path, model: Path, stream: Any, refresh: str, seed: int
) -> tuple[list[set[str]], list[int], float]:
    """Selected sample ids and samples measured at each timestep, and seconds of measuring in all."""
    import pyarrow.parquet as pq

    from lifelong import Run

    config = SETTINGS | {"seed": seed, "measure": SETTINGS["measure"] | {"refresh": refresh}}
    made = Run.create(folder, model=str(model), recipe=RECIPE, config=config)
    made.run_stream(stream)
    selected, measured, seconds = [], [], 0.0
    with made.reading() as stores:
        for timestep in range(1, len(stream.datasets) + 1):
            table = pq.read_table(
                stores.ledger.file(timestep, "decisions"), columns=["sample_id", "selected"]
            )
            selected.append(set(table.filter(table["selected"])["sample_id"].to_pylist()))
            record = stores.ledger.phase(timestep, "measure")
            assert record is not None
            measured.append(record.result["measured"])
            seconds += record.seconds
    return selected, measured, seconds


def blind(pool: int, size: int, draws: int = 200) -> float:
    """Mean Jaccard of two selections of a size drawn from a pool."""
    rng = np.random.default_rng(0)
    common = rng.hypergeometric(size, pool - size, size, draws)
    return float((common / (2 * size - common)).mean())


def jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def rows(stream: Any, model: Path, rules: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    whole, measured, seconds = run(folder / "all", model, stream, "all", 0)
    yield {"rule": "all", "measured": measured, "seconds": round(seconds, 1), "agreement": [1.0] * len(whole)}
    for rule in rules:
        found, fresh, took = run(folder / rule, model, stream, rule, 0)
        agreement = [round(jaccard(a, b), 3) for a, b in zip(whole, found, strict=True)]
        yield {"rule": rule, "measured": fresh, "seconds": round(took, 1), "agreement": agreement}
    other, _, _ = run(folder / "seed", model, stream, "all", 1)
    agreement = [round(jaccard(a, b), 3) for a, b in zip(whole, other, strict=True)]
    yield {"rule": "all, another seed", "measured": measured, "agreement": agreement}
    chance = [round(blind(pool, len(each)), 3) for pool, each in zip(measured, whole, strict=True)]
    yield {"rule": "drawn blindly", "measured": measured, "agreement": chance}


def printed(row: dict[str, Any]) -> str:
    seconds = f"{row['seconds']:7.1f} s" if "seconds" in row else " " * 9
    later = np.mean(row["agreement"][1:])
    told = " ".join(f"{value:.2f}" for value in row["agreement"])
    what = f"{row['rule']:<18} {sum(row['measured']):>6} measured {seconds}"
    return f"{what}  agreement {told}  mean from 2 on {later:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="three datasets, the tests' tiny model, two rules"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--stream", type=Path, default=STREAMS / "real10-mini", help="folder of a stream")
    parser.add_argument("--datasets", type=int, default=6, help="so many of its datasets, the first ones")
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    arguments = parser.parse_args()
    from benchmarks.models import MODELS
    from lifelong.stream import Stream, read_stream

    stream = read_stream(arguments.stream / "stream.yaml")
    stream = Stream(stream.name, stream.datasets[: 3 if arguments.quick else arguments.datasets])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = MODELS["tiny" if arguments.quick else "small"](folder / "model")
        if not arguments.json:
            print(
                f"{time.strftime('%Y-%m-%d')}; {len(stream.datasets)} datasets of {stream.name}", flush=True
            )
        rules = ["stale(0)", "new"] if arguments.quick else arguments.rules
        for row in rows(stream, model, rules, folder):
            print(json.dumps(row) if arguments.json else printed(row), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
