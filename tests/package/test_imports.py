"""The wings keep apart, and the help of a command waits for nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from lifelong.cli import app

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "pandas",
    "numpy",
    "pyarrow",
    "faiss",
    "sklearn",
    "matplotlib",
    "plotly",
    "jinja2",
    "sqlite_utils",
    "huggingface_hub",
)
"""Typer itself imports pydantic, in a few hundredths of a second."""
COMMANDS = ("", *sorted(typer.main.get_command(app).commands))


def test_the_contracts_of_the_wings_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_logo=True, cache_dir=None)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_no_help_imports_anything_heavy() -> None:
    code = (
        "import sys; from lifelong.cli import invoke\n"
        f"for command in {COMMANDS!r}:\n"
        "    assert invoke([*command.split(), '--help']) == 0\n"
        f"    found = sorted(set(sys.modules) & set({HEAVY!r}))\n"
        "    assert not found, f'lifelong {command} --help imports {found}'\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
