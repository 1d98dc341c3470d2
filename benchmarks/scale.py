"""What a timestep costs as the pool grows: ten thousand samples, a hundred thousand, a million.

A real run folder is made by the library's own code: rows of text with pictures that are referenced where they lie are
ingested; signals (vectors of 1024 × float16 with planted near-duplicates, scores of four experts) are planted in shards
as the measure phase writes them; the phases run on them as the loop runs them. Nothing is trained or tested. Each step
is a process of its own; its imports are not counted. `peak_mb` is the largest resident size of that process.

    python benchmarks/scale.py [--rows 10000 100000 1000000] [--json] [--quick] [--folder DIR] [--only STEP …]
    python benchmarks/scale.py --scalselect [--rows …] [--quick]

With --folder what was made and measured stays there: a long benchmark can be run in pieces (`--only ingest measure`),
and the growth is that of all sizes in the folder; a phase happens once, and is timed once.
Exponents are the slope of log seconds on log rows over all sizes, and between the last two: of CPU seconds, which other
work disturbs less, where all sizes have them, else of those of the wall; a step under 0.2 s at the largest size is not
judged by them. The released algorithm (released.py) runs on the same clusters where it fits; `fits_rows` is the pool
at which its matrix of all pairs of the largest cluster takes 8 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOUND = "found.jsonl"
STAGE = ("cluster", "route", "select", "prune")
STEPS = ("dataset", "ingest", "measure", *STAGE, "settle", "export", "look", "recall", "released")
EXPONENT_BAR = 1.1
MEASURABLE_S = 0.2
BARS: dict[str, tuple[str, float]] = {
    "select + prune": ("seconds", 900.0),
    "open": ("seconds", 1.0),
    "open to write": ("seconds", 1.0),
    "status": ("seconds", 1.0),
    "why": ("seconds", 1.0),
}
PEAK_BAR_MB, INGEST_BAR, RECALL_BAR = 6 * 1024**3 / 1e6, 5000.0, 0.98


def run_steps(folder: Path, rows: int, steps: list[str]) -> Iterator[dict[str, Any]]:
    """Run steps on a pool of so many rows, and give what each took."""
    place = folder / str(rows)
    place.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(ROOT)}
    for step in steps:
        command = [sys.executable, "-m", "benchmarks.scale_steps", step, str(place), str(rows)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        for line in done.stdout.splitlines():
            with (folder / FOUND).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            yield json.loads(line)


def known(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """step → rows → what it took, the last time that it was run."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    path = folder / FOUND
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        found.setdefault(row["step"], {})[row["rows"]] = row
    for rows in {rows for sizes in found.values() for rows in sizes}:
        parts = [found[step][rows] for step in STAGE if rows in found.get(step, {})]
        if len(parts) == len(STAGE):
            whole = {name: sum(part.get(name, 0.0) for part in parts) for name in ("seconds", "cpu_seconds")}
            whole |= {"rows": rows}
            whole |= {"step": "select + prune", "peak_mb": max(part["peak_mb"] or 0 for part in parts)}
            found.setdefault("select + prune", {})[rows] = whole
    return found


def summary(found: dict[str, dict[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Of each step the row of its largest pool, with the exponent of its growth; `last`: between the two largest."""
    for sizes in found.values():
        told = [row for row in sizes.values() if row["seconds"]]
        clock = "cpu_seconds" if all(row.get("cpu_seconds") for row in told) else "seconds"
        points = sorted((row["rows"], row[clock]) for row in told)
        grown = {"exponent": slope(points)} | ({"last": slope(points[-2:])} if len(points) > 2 else {})
        yield sizes[max(sizes)] | grown


def slope(points: list[tuple[int, float]]) -> float | None:
    """Of log seconds on log rows."""
    return round(float(np.polyfit(*np.log(np.array(points)).T, 1)[0]), 3) if len(points) > 1 else None


def verdict(row: dict[str, Any]) -> str:
    """The bars that a row is held to, and whether it meets them."""
    step, seconds, bars = row["step"], row["seconds"], []
    if step in BARS:
        name, bar = BARS[step]
        bars.append((f"{name} < {bar:g}", row[name] < bar))
    if step == "select + prune":
        bars.append(("peak < 6 GiB", row["peak_mb"] < PEAK_BAR_MB))
    if step == "ingest":
        bars.append((f"rows/s ≥ {INGEST_BAR:,.0f}", row["rows"] / seconds >= INGEST_BAR))
    if step == "recall":
        bars.append((f"recall ≥ {RECALL_BAR}", row["recall"] >= RECALL_BAR))
    judged = row.get("exponent") is not None and not step.startswith(("released", "lifelong"))
    if judged and (seconds is None or seconds >= MEASURABLE_S):
        bars.append((f"exponent ≤ {EXPONENT_BAR}", row["exponent"] <= EXPONENT_BAR))
    return ", ".join(f"{bar} {'met' if met else 'MISSED'}" for bar, met in bars)


def printed(row: dict[str, Any]) -> str:
    seconds, peak = row["seconds"], row.get("peak_mb")
    told = [
        f"{key} {value}"
        for key, value in row.items()
        if key not in ("step", "rows", "seconds", "peak_mb", "exponent")
    ]
    if row["step"] == "ingest":
        told.append(f"{row['rows'] / seconds:,.0f} rows/s")
    if row.get("exponent") is not None:
        told.append(
            f"exponent {row['exponent']:.2f}" + (f", last {row['last']:.2f}" if "last" in row else "")
        )
    cells = [
        f"{row['step']:<26} {row['rows']:>9,}",
        " " * 11 if seconds is None else f"{seconds:9.3f} s",
        f"CPU {row['cpu_seconds']:8.3f} s" if row.get("cpu_seconds") else " " * 14,
        " " * 9 if not peak else f"{peak:6,.0f} MB",
        *told,
        verdict(row) if "exponent" in row else "",
    ]
    return "  ".join(cell for cell in cells if cell)


def show(row: dict[str, Any], as_json: bool) -> None:
    print(json.dumps({"exponent": None} | row) if as_json else printed(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", help="sizes of the pool (default: 10000 100000 1000000)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="2,000 and 8,000 rows")
    parser.add_argument(
        "--folder", type=Path, help="where the pools go and stay (default: a temporary folder)"
    )
    parser.add_argument(
        "--only", nargs="*", choices=STEPS, help="these steps; none: only what is known already"
    )
    parser.add_argument("--scalselect", action="store_true", help="leverage at scale instead")
    arguments = parser.parse_args()
    if arguments.scalselect:
        from benchmarks.scale_leverage import leverage_rows

        for row in leverage_rows(arguments.rows, arguments.quick):
            show(row, arguments.json)
        return
    sizes = arguments.rows or ([2_000, 8_000] if arguments.quick else [10_000, 100_000, 1_000_000])
    steps = list(STEPS) if arguments.only is None else [step for step in STEPS if step in arguments.only]
    if not arguments.json:
        print(f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores; steps {' '.join(steps)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for rows in sorted(sizes):
            for row in run_steps(folder, rows, steps):
                show(row, arguments.json) if not arguments.json else None
        for row in summary(known(folder)):
            show(row, arguments.json)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
