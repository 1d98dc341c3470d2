"""A long run of a tiny model in a process of its own, which prints what it holds after each timestep.

python -m tests.durability.growth RUN MODEL TIMESTEPS
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = 8
COLOURS = ("red", "green", "blue", "grey")
SETTINGS = {
    "lora": {"rank": 4},
    "pool": {"keep": 12},
    "keep": {"checkpoints": 2, "signals": 3},
    "measure": {"batch_size": 8, "shard_size": 8},
    "train": {"budget": "50%", "batch_size": 2},
    "evaluate": {"limit": 2},
}
RECIPE = {"recipe": "el2n", "prune": "random"}


def write_dataset(folder: Path, number: int) -> Path:
    """Rows with a picture of noise each; every second picture is that of the row before it."""
    rng = np.random.default_rng(number)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for row in range(ROWS):
        image = f"{number}-{row - row % 2}.png"
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        if row % 2 == 0:
            Image.fromarray(pixels).save(folder / "images" / image)
        question = f"<image>\nwhat is in picture {row} of set {number}?"
        answer = COLOURS[int(rng.integers(len(COLOURS)))]
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        rows.append({"id": f"{number}-{row}", "image": image, "conversations": turns})
    path = folder / f"set{number}.json"
    path.write_text(json.dumps(rows))
    return path


def feed(run: object, folder: Path, number: int) -> None:
    """Feed dataset `number`; the one before the first is the eval set of all."""
    evals = {"eval": write_dataset(folder, 0)} if number == 1 else {}
    run.feed(write_dataset(folder, number), images=folder / "images", skill="colours", **evals)  # type: ignore[attr-defined]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(root: Path, model: str, timesteps: int) -> None:
    from lifelong import Run

    run = Run.create(root, model=model, recipe=RECIPE, config=SETTINGS)
    for number in range(1, timesteps + 1):
        feed(run, root.parent / "data", number)
        gc.collect()
        disk = {
            folder: sum(path.stat().st_size for path in (root / folder).rglob("*") if path.is_file())
            for folder in ("checkpoints", "shards", "media", "timesteps", "backup")
        }
        print(json.dumps({"resident": resident(), "disk": disk}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
