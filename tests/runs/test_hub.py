"""Cards, merged models, and pushing to a hub that stands on this machine (tests/runs/hub.py)."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, ModelCard
from safetensors.numpy import load_file

from lifelong import Run
from lifelong.export.card import CARD
from stores.clock import day
from tests.runs.hub import serving
from tests.runs.small import NAMES
from tests.runs.test_cli import Captured, complaint, output


def test_a_model_card_says_what_was_learned_of_what(finished: Run, capsys: Captured) -> None:
    card = ModelCard(output(capsys, "card", finished.root, "--timestep", 2))
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "image-text-to-text")
    frame = finished.curves()
    results = {result.dataset_name: result for result in card.data.eval_results}
    assert {skill: result.metric_value for skill, result in results.items()} == pytest.approx(
        frame.loc[2].to_dict(), abs=1e-6
    )
    assert {result.metric_type for result in results.values()} <= set(
        finished.skill_matrix().metrics.values()
    )
    for name in NAMES[:2]:
        assert f"| {name} |" in card.text
    assert NAMES[2] not in card.text  # fed later
    assert "GPL-2.0-or-later" in card.text
    assert "seed 0" in card.text
    with finished.reading() as stores:
        records = stores.ledger.phases(2)
    results = {record.phase: record.result for record in records}
    told = (
        f"25% | {results['select']['selected']} | {results['select']['new']} | {results['train']['steps']} |"
    )
    (line,) = [line for line in card.text.splitlines() if "| adapt-inf" in line and line.startswith("| 2 |")]
    assert line == f"| 2 | {day(records[-1].finished)} | adapt-inf (clusters kmeans[k=3]) | {told}"
    assert "transformers 5" in card.text
    assert "\n| 3 |" not in card.text
    assert str(finished.config.model.path) not in card.text  # a folder of this machine


def test_an_export_has_its_card_beside_it(finished: Run, tmp_path: Path, capsys: Captured) -> None:
    output(capsys, "export", finished.root, "--out", tmp_path / "a" / "pool.json", "--card")
    output(
        capsys,
        "export",
        finished.root,
        "--out",
        tmp_path / "b",
        "--format",
        "webdataset",
        "--card",
        "--timestep",
        1,
    )
    pool, shards = (DatasetCard.load(tmp_path / folder / CARD) for folder in "ab")
    assert pool.data.task_categories == ["image-text-to-text"]
    assert shards.data.license == "mit"  # of the first dataset alone
    assert "holds after timestep 3" in pool.text
    assert "selected at timestep 1" in shards.text


def push(
    run: Run, address: str, *arguments: str, token: str = "hf_of_the_test"
) -> subprocess.CompletedProcess[str]:
    """`lifelong push` as a user would run it."""
    environment = os.environ | {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    command = [
        sys.executable,
        "-c",
        "import lifelong.cli; lifelong.cli.main()",
        "push",
        str(run.root),
        *arguments,
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_adapter_and_a_selection_are_pushed_with_their_cards(finished: Run) -> None:
    with serving() as hub:
        said = push(finished, hub.address, "--repo", "someone/adapter", "--timestep", "1")
        assert (said.returncode, said.stdout.strip()) == (0, f"{hub.address}/someone/adapter"), said.stderr
        said = push(finished, hub.address, "--repo", "someone/pool", "--what", "data", "--private")
        assert said.returncode == 0, said.stderr
        refused = push(finished, hub.address, "--repo", "someone/adapter", token="hf_of_another")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "cannot push to someone/adapter" in refused.stderr
        assert "hf auth login" in refused.stderr
    assert [made.get("private") or made.get("visibility") for made in hub.made] == [None, "private"]
    model, data = hub.files["models/someone/adapter"], hub.files["datasets/someone/pool"]
    assert set(model) == {"adapter_config.json", "adapter_model.safetensors", CARD}
    with finished.reading() as stores:
        adapter = stores.ledger.file(1, "adapter")
    assert model["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert load_file(adapter / "adapter_model.safetensors")
    rows = pq.read_table(io.BytesIO(data["data/train-00000-of-00001.parquet"]))
    assert rows.num_rows == finished.status()["pool"]["live"]
    assert DatasetCard(data[CARD].decode()).data.pretty_name


def test_a_merged_model_is_a_folder_that_transformers_loads(
    finished: Run, tmp_path: Path, capsys: Captured
) -> None:
    output(capsys, "merge", finished.root, "--out", tmp_path / "merged", "--timestep", 1)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "exists" in complaint(capsys, "merge", finished.root, "--out", tmp_path / "merged", code=1)
    words = complaint(capsys, "merge", finished.root, "--out", tmp_path / "no", "--timestep", 9, code=1)
    assert "timestep 9 has no adapter; the last that has one is 3" in words
