"""The plan: what a dataset would bring, nothing written; the forecast beside what it took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lifelong import Run
from lifelong.cli import invoke
from stores.ledger import PHASES
from tests.durability.growth import write_dataset
from tests.steer.conftest import Steps

Captured = pytest.CaptureFixture[str]


def everything(root: Path) -> dict[str, bytes]:
    wal = ("-wal", "-shm")
    paths = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(wal)]
    return {str(path): path.read_bytes() for path in paths}


def test_a_plan_says_what_becomes_of_each_row_and_writes_nothing(
    steps: Steps, tmp_path: Path, capsys: Captured
) -> None:
    run = steps.copy(2, tmp_path / "run")
    rows = json.loads((steps.data / "set2.json").read_text())
    new = json.loads(write_dataset(steps.data, 4).read_text())
    near = json.loads(json.dumps(rows[0]))  # a full stop more: another sample, nearly the same
    near["id"], near["conversations"][0]["value"] = "near", near["conversations"][0]["value"] + " ."
    bad = {"id": "bad", "image": "nosuch.png", "conversations": rows[0]["conversations"]}
    mixed = tmp_path / "mixed.json"
    mixed.write_text(json.dumps([*new[:5], new[0] | {"id": "again"}, *rows[:2], near, bad]))
    before = everything(run.root)
    command = ["plan", str(run.root), str(mixed), "--images", str(steps.data / "images"), "--skill", "others"]
    assert invoke([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == {"rows": 10, "accepted": 6, "rejected": 1, "duplicate": 1, "held": 2}
    assert any("nosuch.png" in reason or "not found" in reason for reason in found["reasons"])
    assert found["timestep"] == 3
    alike = found["likeness"]
    assert "words and picture hashes" in alike["by"]
    assert alike["near"] == pytest.approx(1 / 6)
    assert sum(share for share, _ in alike["skills"].values()) == pytest.approx(1)
    assert set(found["forecast"]["seconds"]) == set(PHASES)
    assert found["forecast"]["total"] > 0
    assert found["forecast"]["bytes"] > 10_000
    assert (found["measured"], found["trained"]) == (run.status()["pool"]["live"] + 6, 3)
    assert invoke(command) == 0
    assert "6 would join, 1 rejected, 1 repeat an earlier row, 2 have come before" in capsys.readouterr().out
    assert everything(run.root) == before
    status = run.feed(mixed, images=steps.data / "images", skill="others")
    assert status["forecast"] == found["forecast"]["seconds"], "what is kept is what was said"
    error = status["forecast_error"]
    assert list(error["timesteps"]) == ["2", "3"]
    total = sum(status["seconds"].values())
    expected = abs(sum(found["forecast"]["seconds"].values()) - total) / total
    assert error["timesteps"]["3"] == pytest.approx(expected, abs=0.02)  # seconds are told in thousandths
    assert invoke(["status", str(run.root)]) == 0
    assert "forecasts were off by" in capsys.readouterr().out


def test_a_first_timestep_has_no_forecast_and_says_so(steps: Steps, capsys: Captured) -> None:
    train = write_dataset(steps.data, 1)
    run = Run.open(steps.states[0])
    assert invoke(["plan", str(run.root), str(train), "--images", str(steps.data / "images")]) == 0
    text = capsys.readouterr().out
    assert "no timestep of this run has finished" in text
    assert "the pool is empty" in text
    assert Run.open(steps.states[1]).status()["forecast"] is None


def test_likeness_by_the_frozen_encoder(
    steps: Steps, encoder_folders: dict[str, Path], tmp_path: Path, capsys: Captured
) -> None:
    run = steps.copy(2, tmp_path / "run")
    text = (run.root / "config.yaml").read_text()
    (run.root / "config.yaml").unlink()
    path = str(encoder_folders["clip"])
    text = text.replace("kind: none", "kind: clip").replace(
        "path: openai/clip-vit-base-patch32", f"path: {path}"
    )
    (run.root / "config.yaml").write_text(text)
    train = write_dataset(steps.data, 4)
    assert invoke(["plan", str(run.root), str(train), "--images", str(steps.data / "images"), "--json"]) == 0
    alike = json.loads(capsys.readouterr().out)["likeness"]
    assert alike["by"] == "frozen encoder clip"
    assert set(alike["skills"]) <= {"colours", "others"}
