"""The wings keep apart, and the help of a command waits for nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer

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


def test_the_contracts_of_the_wings_are_kept() -> None:
    # In a process of its own: where a contract is broken it closes standard output, and pytest's capture with it.
    code = (
        "import sys; from importlinter.cli import lint_imports\n"
        "sys.exit(lint_imports(config_filename='pyproject.toml', no_logo=True, no_cache=True))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


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
