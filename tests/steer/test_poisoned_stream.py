"""The script of the docs, in small: a poisoned dataset, from the plan to the way around it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.runs.conftest import llava  # noqa: F401
from tests.steer.taste import write_stream

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "poisoned_stream.py"


def test_the_script_of_the_docs(llava: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    spec = importlib.util.spec_from_file_location("poisoned_stream", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    settings = (
        "lora.rank=16",
        "lora.dropout=0.0",
        "train.budget=100%",
        "train.batch_size=8",
        "train.epochs=6",
    )
    settings += (
        "train.learning_rate=3e-3",
        "guard.max_forgetting=0.05",
        "guard.protect=[flavour]",
        "evaluate.limit=30",
    )
    given = [
        str(tmp_path / "out"),
        "--stream",
        str(write_stream(tmp_path)),
        "--first",
        "taste",
        "--poison",
        "flavour",
    ]
    given += ["--model", llava, "--recipe", "sequential", "--other", "random-replay", "--rows", "64"]
    assert script.main([*given, *(part for each in settings for part in ("--set", each))]) == 0
    said = capsys.readouterr()
    assert "# The plan does not warn: 64 of 64 rows would join." in said.out
    assert "flavour fell from" in said.err
    assert "SKILLS" in said.out
    assert "# All as expected." in said.out
