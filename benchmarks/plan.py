"""How far off `lifelong plan` is on the demo: each dataset is planned, fed, and its seconds set beside the forecast.

    python -m benchmarks.plan FOLDER [--recipe adapt-inf] [--datasets 5]

FOLDER keeps the demo's data and model; a run in it is begun anew. Ends with code 1 if the mean error after three
timesteps is 25 % or more.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from lifelong import Run
from lifelong.demo.tour import _prepare, settings
from lifelong.progress import Silent
from lifelong.stream import read_stream
from stores.ledger import PHASES

LIMIT = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="adapt-inf")
    parser.add_argument("--datasets", type=int, default=5)
    arguments = parser.parse_args()
    stream, model = _prepare(arguments.folder, Silent(), "demo")
    root = arguments.folder / "plan-run"
    shutil.rmtree(root, ignore_errors=True)
    run = Run.create(root, config=settings(arguments.recipe, model.absolute()))
    print(f"{'':<10}" + "".join(f"{phase:>16}" for phase in PHASES) + f"{'in all':>16}")
    wrong: dict[int, float] = {}
    for timestep, feed in enumerate(read_stream(stream).datasets[: arguments.datasets], 1):
        names = ("images", "eval", "skill", "name", "format")
        given = {name: getattr(feed, name) for name in names}
        planned = run.plan(feed.train, **given)["forecast"]
        status = run.feed(feed.train, **given, metric=feed.metric)
        took = status["seconds"]
        foretold = planned["seconds"] if planned else {}
        cells = [f"{foretold.get(phase, float('nan')):8.1f}/{took[phase]:7.1f}" for phase in PHASES]
        total = sum(took.values())
        print(f"{feed.name:<10}" + "".join(cells) + f"{sum(foretold.values()):8.1f}/{total:7.1f}", flush=True)
        if planned:
            assert status["forecast"] == planned["seconds"], "what is on record is what plan said"
            wrong[timestep] = abs(planned["total"] - total) / total
    print("error by timestep: " + ", ".join(f"{t}: {100 * e:.0f} %" for t, e in wrong.items()))
    after_three = [error for timestep, error in wrong.items() if timestep > 3]
    mean = sum(after_three) / max(len(after_three), 1)
    print(f"mean error after three timesteps: {100 * mean:.0f} % (limit {100 * LIMIT:.0f} %)")
    return int(mean >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
