"""Stands for the command `lmms-eval` in the tests: takes its arguments, leaves a results file as version 0.7 does.

The score is drawn from the model's weights, so that a test can tell which model was given. Task `broken` fails as
lmms-eval does: a traceback, no file, exit code 0. No model is run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path


def accuracy(model: Path, task: str) -> float:
    """In [0, 1], of the weights and the task."""
    weights = (model / "model.safetensors").read_bytes() + task.encode()
    return int(hashlib.sha256(weights).hexdigest()[:6], 16) / 0xFFFFFF


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "model_args", "tasks", "batch_size", "output_path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=float)
    asked = parser.parse_args()
    model = Path(dict(pair.split("=", 1) for pair in asked.model_args.split(","))["pretrained"])
    assert json.loads((model / "config.json").read_text())["model_type"] == "llava"
    tasks = asked.tasks.split(",")
    if "broken" in tasks:
        print("Traceback (most recent call last):\n  …\nValueError: no such split", file=sys.stderr)
        return
    effective = int(asked.limit or 5000)
    results = {
        "results": {
            task: {
                "alias": task,
                "exact_match,none": accuracy(model, task) * (2000 if task == "mme" else 1),
                "samples": effective,
                "exact_match_stderr,none": "N/A" if task == "mme" else 0.02,
                "exact_match_stderr_clt,none": 20.0 if task == "mme" else 0.03,
                "exact_match_stderr_clustered,none": "N/A",
            }
            for task in tasks
        },
        "group_subtasks": {task: [] for task in tasks},
        "higher_is_better": {task: {"exact_match": True} for task in tasks},
        "n-samples": {task: {"original": 5000, "effective": effective} for task in tasks},
    }
    folder = Path(asked.output_path) / "__".join(model.parts[-2:])
    folder.mkdir(parents=True)
    (folder / "20260101_000000_results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
