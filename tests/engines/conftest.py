"""A small stream of its own, the run of it that nobody disturbs, and what runs are compared by."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from lifelong import Run
from tests.conftest import picture
from tests.runs.conftest import ROOT, children, llava  # noqa: F401
from tests.runs.small import decisions

SETTINGS: dict[str, Any] = {
    # Dropout draws other numbers for other parts of a batch.
    "lora": {"rank": 4, "dropout": 0.0},
    "measure": {"batch_size": 4, "shard_size": 8},
    # Thirteen samples in batches of five: two workers get parts of three and two, and a last batch of three.
    "train": {"budget": "50%", "batch_size": 5, "checkpoint_steps": 1},
    "evaluate": {"batch_size": 1, "limit": 6},
}
RECIPE = {"recipe": "adapt-inf", "clusters": "kmeans[k=3]"}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
}
# Before a process of these tests forks or starts another: nothing of Ray is left at home.
os.environ |= {name: value for name, value in ENVIRONMENT.items() if name.startswith("RAY_")}


def _rows(folder: Path, name: str, count: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        question = f"what is {name} {number}? {'please ' * (number % 5)}"
        row: dict[str, Any] = {"id": f"{name}{number}"}
        if number % 3:
            row["image"] = f"{name}{number}.png"
            picture(seed + number).save(folder / "images" / row["image"])
            question = f"<image>\n{question}"
        row["conversations"] = [
            {"from": "human", "value": question},
            {"from": "gpt", "value": "abcdefgh"[: 1 + number % 8]},
        ]
        if name.endswith("eval") and number % 2:
            row["answers"] = ["no", *"abcdefgh"]
            row["answers"].append(row["conversations"][1]["value"])
        rows.append(row)
    return rows


def _stream(folder: Path, names: Sequence[str]) -> Path:
    """The file of a stream of datasets of 26 samples, with 6 questions each."""
    (folder / "images").mkdir()
    entries = []
    for place, name in enumerate(names):
        for part, count in (("train", 26), ("eval", 6)):
            rows = _rows(folder, f"{name}-{part}", count, 1000 * place + 100 * len(part))
            (folder / f"{name}-{part}.json").write_text(json.dumps(rows))
        files = {"train": f"{name}-train.json", "eval": f"{name}-eval.json", "images": "images"}
        entries.append({"name": name, "skill": name} | files)
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "datasets": entries}))
    return path


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a stream of one dataset."""
    return _stream(tmp_path_factory.mktemp("dataset"), ["one"])


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a stream of two datasets."""
    return _stream(tmp_path_factory.mktemp("datasets"), ["one", "two"])


Make = Callable[..., Run]


@pytest.fixture(scope="session")
def make(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Make:  # noqa: F811
    """Makes a run: (engine="local", recipe=RECIPE, settings={}, **fields of the section `cluster`)."""

    def new(
        engine: str = "local",
        recipe: dict[str, str] = RECIPE,
        settings: dict[str, Any] | None = None,
        **cluster: Any,
    ) -> Run:
        config = SETTINGS | {"engine": engine, "cluster": cluster} | (settings or {})
        return Run.create(tmp_path_factory.mktemp(engine) / "run", model=llava, recipe=recipe, config=config)

    return new


@pytest.fixture(scope="session")
def local(make: Make, dataset: Path) -> Run:
    """The run as one process does it. For reading only."""
    run = make()
    run.run_stream(dataset)
    return run


IN_PARTS = {"train": SETTINGS["train"] | {"parts": 2, "accumulate": 2}, "lora": {"rank": 4, "dropout": 0.1}}
"""Settings under which two workers give the bits of one, dropout and all."""


@pytest.fixture(scope="session")
def in_parts(make: Make, datasets: Path) -> Run:
    """Two timesteps as one process does them, each batch in two parts. For reading only."""
    run = make(settings=IN_PARTS)
    run.run_stream(datasets)
    return run


def weights(run: Run, timestep: int = 1) -> dict[str, np.ndarray]:
    with run.reading() as stores:
        return load_file(stores.ledger.file(timestep, "adapter") / "adapter_model.safetensors")


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return float(np.sqrt(sum(np.square(a[name] - b[name]).sum() for name in a)))


SHARED = 1e-4
"""How far weights may be from those of one process, as a share of the way that training took them.

Two parts of a batch are padded to other lengths and summed in another order, so each gradient differs in its last
float32 digits; AdamW divides it by its own size, which carries that into weights whose gradient is near zero. One to
two millionths are measured.
"""


def answers(run: Run) -> list[dict[str, Any]]:
    """Every answer to an eval sample, with what it was compared with."""
    with run.reading() as stores:
        paths = [
            stores.root / file.committed.path for file in stores.ledger.files() if file.kind == "answers"
        ]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def assert_same_but_for_rounding(run: Run, expected: Run) -> None:
    """Decisions and order to the bit, the weights of a training that was shared to SHARED."""
    assert decisions(run, 1) == decisions(expected, 1)
    with run.reading() as ours, expected.reading() as theirs:
        np.testing.assert_array_equal(ours.ledger.selection(1), theirs.ledger.selection(1))
        assert ours.ledger.phase(1, "train").result["steps"] == 3
    way = distance(weights(expected), weights(expected, 0))
    assert distance(weights(run), weights(expected)) < SHARED * way


def kill_one(title: str) -> bool:
    """Kill a descendant of this process whose title begins so; returns whether there was one."""
    for process in psutil.Process().children(recursive=True):
        if " ".join(process.cmdline()).startswith(title):
            process.kill()
            return True
    return False
