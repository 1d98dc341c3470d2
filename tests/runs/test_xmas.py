"""XMAS on real rows: trajectories from the loop's own checkpoints or from a proxy, and what is chosen by them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lifelong import Run
from lifelong.cli import invoke
from lifelong.config import RunConfig, parse_config
from lifelong.context import TRAJECTORY
from lifelong.measure.crossmodal import TOP_SINGULAR_VALUES
from lifelong.models.load import VisionLanguageModel, load
from lifelong.oneshot.proxy import CHECKPOINTS, with_checkpoints
from policies.allocators import smallest_first
from policies.scorers.xmas import instability
from stores.fsck import check_files
from tests.runs.child import Children, Point
from tests.runs.conftest import ROOT
from tests.runs.small import decisions, entry, feed_entry, files, rows_of, settings, small_entry, write_rows

SECTIONS = {
    "measure": {"trajectory": 3, "shard_size": 16},
    "train": {"budget": "50%", "batch_size": 4, "learning_rate": 2e-3},
    "evaluate": {"limit": 2},
}
TEXT = {"id": "text", "conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "no"}]}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Twenty-four rows with an image, and two without."""
    rows = [*rows_of("easyvqa")[:24], TEXT]
    other = {"from": "human", "value": "and what else?"}
    rows.append(TEXT | {"id": "other", "conversations": [other, TEXT["conversations"][1]]})
    found = {key: value for key, value in entry("easyvqa").items() if key not in ("eval", "metric")}
    return found | {"train": str(write_rows(tmp_path_factory.mktemp("first") / "train.json", rows))}


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return small_entry(tmp_path_factory.mktemp("second"), "ground_mix", rows=24, evals=0)


def explicit(run: Run, adapter: Path, samples: list[str]) -> np.ndarray:
    """(n,) alignment of samples at one checkpoint, from eager attention maps, a sample at a time."""
    vlm = eager_model(run.config)
    vlm.load_adapter(adapter)
    with run.reading() as stores:
        rows = [stores.pool.find(sample)[0] for sample in samples]
        return np.array([_alignment(vlm, stores.loader.conversation(row)) for row in rows])


def eager_model(config: RunConfig) -> VisionLanguageModel:
    vlm = load(config.model.model_copy(update={"attention": "eager"}), config.lora, seed=9)
    vlm.model.eval()
    return vlm


@torch.no_grad()
def _alignment(vlm: VisionLanguageModel, conversation: Any) -> float:
    batch = vlm.encoder.training([conversation])
    if not conversation.images:
        return float("nan")
    maps = vlm.model(**batch.inputs, output_attentions=True, use_cache=False).attentions
    summed = sum(layer[0].double().mean(0) for layer in maps)
    values = torch.linalg.svdvals(summed[~batch.image[0]][:, batch.image[0]])
    return float(values[:TOP_SINGULAR_VALUES].sum())


def kept(run: Run, timestep: int) -> list[Path]:
    with run.reading() as stores:
        return [run.root / shard.path for shard in stores.ledger.shards(timestep, TRAJECTORY)]


def test_in_the_loop_the_trajectory_is_that_of_the_last_trainings_checkpoints(
    new_run: Callable[..., Run], first: dict[str, str], second: dict[str, str], tmp_path: Path
) -> None:
    run = new_run(recipe="xmas", **SECTIONS)
    feed_entry(run, first)
    assert {row["scorer"] for row in decisions(run, 1)} == {"random"}  # nothing has been trained yet
    copies = [shutil.copytree(path, tmp_path / f"checkpoint{n}") for n, path in enumerate(kept(run, 1))]
    assert len(copies) == 3
    assert len({(path / "adapter_model.safetensors").read_bytes() for path in copies}) == 3
    feed_entry(run, second)
    rows = decisions(run, 2)
    assert len(rows) == 26 + 24
    trajectories = np.stack([explicit(run, path, [row["sample_id"] for row in rows]) for path in copies], 1)
    scores = np.array([np.nan if row["score_xmas"] is None else row["score_xmas"] for row in rows])
    there = np.isfinite(trajectories).all(axis=1)
    assert there.sum() == 48
    assert (np.isfinite(scores) == there).all()
    # Float32 sums of singular values near 1: an instability is good to a few 1e-6.
    np.testing.assert_allclose(scores[there], -instability(trajectories[there]), atol=1e-5)
    assert np.abs(scores[there]).max() > 1e-3
    text_cluster = {row["cluster"] for row, known in zip(rows, there, strict=True) if not known}
    assert text_cluster == {max(row["cluster"] for row in rows)}
    assert_stable_ones(rows, budget=12)


def assert_stable_ones(rows: list[dict[str, Any]], budget: int) -> None:
    """Quotas are smallest-first; of each cluster the highest scores are taken; text-only ones are random's."""
    clusters: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        clusters[row["cluster"]].append(row)
    sizes = np.array([len(clusters[cluster]) for cluster in sorted(clusters)])
    quotas = smallest_first(sizes, budget)
    for cluster, quota in zip(sorted(clusters), quotas, strict=True):
        members = clusters[cluster]
        taken = [row["score_xmas"] for row in members if row["selected"]]
        assert len(taken) == quota
        if any(row["score_xmas"] is None for row in members):
            assert {row["scorer"] for row in members} == {"random"}
            continue
        left = [row["score_xmas"] for row in members if not row["selected"]]
        assert not taken or not left or min(taken) >= max(left)


def test_checkpoints_do_not_pile_up(
    new_run: Callable[..., Run], first: dict[str, str], second: dict[str, str]
) -> None:
    run = new_run(recipe="xmas", **SECTIONS)
    feed_entry(run, first)
    old = kept(run, 1)
    feed_entry(run, second)
    assert kept(run, 1) == []
    assert not any(path.exists() for path in old)
    assert len(kept(run, 2)) == 3
    assert all(path.exists() for path in kept(run, 2))
    with run.reading() as stores:
        assert check_files(stores.db, run.root) == []


def test_the_router_may_pick_it_as_an_expert(
    new_run: Callable[..., Run],
    first: dict[str, str],
    second: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = {"recipe": "adapt-inf", "clusters": "kmeans[k=2]", "router": "entropy[xmas scalselect]"}
    run = new_run(recipe=recipe, **SECTIONS)
    feed_entry(run, first)
    assert {row["scorer"] for row in decisions(run, 1)} == {"scalselect"}
    feed_entry(run, second)
    rows = decisions(run, 2)
    assert sum(row["selected"] for row in rows) == 12
    with run.reading() as stores:
        values = stores.ledger.phase(2, "route").result["values"]
    assert all(found["xmas"] is not None for found in values.values())
    for row in rows:
        assert row["scorer"] == max(values[str(row["cluster"])], key=values[str(row["cluster"])].get)
    capsys.readouterr()
    assert invoke(["why", str(run.root), "easyvqa-train-00085"]) == 0
    assert "xmas" in capsys.readouterr().out


def test_without_checkpoints_it_says_what_to_set(llava: str, tmp_path: Path) -> None:
    options = ["--model", llava, "--recipe", "xmas"]
    assert invoke(["init", str(tmp_path / "run"), *options]) == 2
    assert invoke(["init", str(tmp_path / "other"), *options, "--set", "measure.trajectory=7"]) == 0


POINTS: list[Point] = [
    (1, "trajectory 1", "after"),
    (1, "train", "before"),
    (2, "shard 1", "after"),
    (2, "alignment00 1", "after"),
    (2, "alignment02 0", "before"),
    (2, "measure", "before"),
    (2, "measure", "after"),
    (2, "route", "before"),
    (2, "trajectory 0", "after"),
    (2, "prune", "before"),
]


@pytest.fixture(scope="module")
def fresh(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = settings(**SECTIONS)
    root = tmp_path_factory.mktemp("fresh") / "run"
    return Run.create(root, model=llava, recipe="xmas", config=config).root


@pytest.fixture(scope="module")
def stream_of_two(first: dict[str, str], second: dict[str, str], tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("stream") / "stream.yaml"
    path.write_text(json.dumps({"name": "two", "datasets": [first, second]}), encoding="utf-8")
    return path


def test_killed_among_its_checkpoints_a_run_goes_on_the_same(
    fresh: Path, stream_of_two: Path, tmp_path: Path, children: Children
) -> None:
    undisturbed = Run.open(shutil.copytree(fresh, tmp_path / "undisturbed"))
    assert children.run("run", undisturbed.root, stream_of_two).code == 0
    run = Run.open(shutil.copytree(fresh, tmp_path / "run"))
    for point in POINTS:
        ended = children.run("run", run.root, stream_of_two, at=point)
        assert ended.code == -signal.SIGKILL, (point, ended)
    assert children.run("run", run.root, stream_of_two).code == 0
    assert run.digest() == undisturbed.digest()
    assert decisions(run, 2) == decisions(undisturbed, 2)
    assert files(run) == files(undisturbed)


def select(train: str, out: Path, model: str, *options: str) -> list[dict[str, Any]]:
    command = ["select", train, "--images", entry("easyvqa")["images"], "--method", "xmas", "--out", str(out)]
    assert invoke([*command, "--budget", "25%", "--model", model, "--quiet", *options]) == 0
    return pq.read_table(f"{out}.decisions.parquet").to_pylist()


def test_one_shot_a_proxy_is_trained(first: dict[str, str], llava: str, tmp_path: Path) -> None:
    rows = select(first["train"], tmp_path / "out.json", llava, "--set", "train.learning_rate=2e-3")
    assert len(json.loads((tmp_path / "out.json").read_text())) == 7  # 25 % of 26, rounded half up
    assert_stable_ones(rows, budget=7)
    scores = [row["score_xmas"] for row in rows if row["score_xmas"] is not None]
    assert len(scores) == 24
    assert len(set(scores)) > 20
    # With a rate of next to nothing the proxy stands still, and so do its trajectories.
    still = select(first["train"], tmp_path / "still.json", llava, "--set", "train.learning_rate=1e-9")
    moved = [abs(row["score_xmas"]) for row in still if row["score_xmas"] is not None]
    assert max(moved) < min(map(abs, scores))


def test_the_proxy_sees_every_sample_once(
    first: dict[str, str], llava: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["select", first["train"], "--images", first["images"], "--method", "xmas", "--model", llava]
    command += ["--set", "train.epochs=3", "--set", "train.batch_size=8", "--set", "measure.trajectory=3"]
    assert invoke([*command, "--out", str(tmp_path / "out.json")]) == 0
    # Twenty-six samples are four batches of eight, whatever the epochs of a timestep.
    assert "4 steps on 26 samples, 3 checkpoints" in capfd.readouterr().err


def test_one_shot_a_sample_that_the_processor_refuses_is_left_out(
    first: dict[str, str], llava: str, tmp_path: Path
) -> None:
    rows = json.loads(Path(first["train"]).read_text())
    rows[3]["conversations"][0]["value"] = "<image>\n" + "a very long question " * 400
    train = write_rows(tmp_path / "train.json", rows)
    table = select(str(train), tmp_path / "out.json", llava)
    (refused,) = (row for row in table if row["reason"].startswith("quarantined"))
    assert "longer than the model's" in refused["reason"]
    assert sum(row["selected"] for row in table) == 7


@pytest.mark.parametrize("method", ["xmas", "scalselect"])
def test_two_processes_and_batch_sizes_select_the_same(
    method: str, first: dict[str, str], llava: str, tmp_path: Path
) -> None:
    for batch_size in (2, 16):
        command = ["select", first["train"], "--images", first["images"], "--method", method]
        command += ["--out", str(tmp_path / f"{batch_size}.json"), "--budget", "25%", "--model", llava]
        command += ["--set", f"measure.batch_size={batch_size}"]
        subprocess.run(
            [sys.executable, "-c", "from lifelong.cli import main; main()", *command],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(batch_size)},
            check=True,
            capture_output=True,
        )
    assert (tmp_path / "2.json").read_bytes() == (tmp_path / "16.json").read_bytes()


def trajectories_asked(recipe: str | dict[str, str], **measure: int) -> int:
    config = parse_config({"recipe": recipe, "measure": measure})
    return with_checkpoints(config).measure.trajectory


def test_a_proxy_only_where_a_method_cannot_do_without() -> None:
    assert trajectories_asked("xmas") == CHECKPOINTS == 7
    assert trajectories_asked("xmas", trajectory=3) == 3
    assert trajectories_asked("el2n") == 0
    assert trajectories_asked({"recipe": "adapt-inf", "router": "entropy[el2n xmas]"}) == 0
    assert trajectories_asked({"recipe": "adapt-inf", "router": "entropy[el2n xmas]"}, trajectory=4) == 4
    assert trajectories_asked({"router": "entropy[xmas]"}) == 7
    assert trajectories_asked({"vectors": "trajectory", "clusters": "kmeans", "router": "always[el2n]"}) == 7
