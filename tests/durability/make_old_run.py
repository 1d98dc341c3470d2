"""Makes the fixture run of the schema that the installed code writes: done once for each schema that is released.

    python -m tests.durability.make_old_run

leaves tests/fixtures/runs/schema-NNN: a run of two timesteps over made-up rows and pictures of noise (growth.py), on
the tiny LLaVA of tests/tiny_models.py with the smallest adapter, and `expected.json` with what the code of that day
said of it. To make one with the code of an older commit, run this file with that commit's tree first on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from tests.durability.growth import write_dataset

RUNS = Path(__file__).resolve().parents[1] / "fixtures" / "runs"
MODEL = "old-model"
"""Name of the model's folder, relative to where the run is used: no path of a machine gets into the fixture."""
CONFIG = {
    "model": {"path": MODEL},
    "lora": {"rank": 1, "targets": ["q_proj"]},
    "pool": {"keep": 10},
    "measure": {"batch_size": 8, "shard_size": 8},
    "train": {"budget": "50%", "batch_size": 2, "warmup": 0.0, "learning_rate": 1e-3},
    "evaluate": {"limit": 4},
}
RECIPE = {"recipe": "el2n", "prune": "random"}


def make(folder: Path) -> Path:
    """The run, in a folder beside its model and its data."""
    from lifelong import Run
    from tests.tiny_models import build

    os.chdir(folder)
    os.mkdir(MODEL)
    build("llava", Path(MODEL))
    run = Run.create(Path("run"), recipe=RECIPE, config=CONFIG)
    evals = write_dataset(Path("data"), 0)
    for number in (1, 2):
        train = write_dataset(Path("data"), number)
        run.feed(train, images=Path("data/images"), skill="colours", eval=evals if number == 1 else None)
    pool = run.status()["pool"]
    expected = {"digest": run.digest(), "pool": pool, "curves": json.loads(run.skill_matrix().to_json())}
    (run.root / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    return run.root


def main() -> None:
    from stores.migrations import MIGRATIONS

    target = RUNS / f"schema-{MIGRATIONS[-1].number:03d}"
    # The source of each dataset is on record with its whole path: that of a folder which any machine has.
    with tempfile.TemporaryDirectory(prefix="old-run-", dir="/tmp") as folder:
        made = make(Path(folder))
        shutil.copytree(made, target, ignore=shutil.ignore_patterns("*-wal", "*-shm", "run.lock"))
    print(target)


if __name__ == "__main__":
    main()
