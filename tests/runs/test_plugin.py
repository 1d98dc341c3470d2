"""A scorer of somebody else's package: installed, it is a word like any other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifelong import Run
from policies.routers import score_entropy
from tests.runs.conftest import ROOT
from tests.runs.small import decisions, write_stream

PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "spread-out"
version = "1.2.3"

[project.entry-points."lifelong.scorers"]
mine = "spread_out:Mine"

[tool.setuptools]
py-modules = ["spread_out"]
"""
MODULE = '''
from dataclasses import dataclass

import numpy as np

from policies.scorers.base import Scorer


@dataclass(frozen=True, slots=True)
class Mine(Scorer):
    """Places by loss, evenly spread: no other score tells samples apart as well."""

    name = "mine"
    needs = ("nll",)
    paper = ""
    passes = "one forward"

    def score(self, signals, rng):
        return np.argsort(np.argsort(signals["nll"], kind="stable")).astype(float)
'''
EXPERTS = ("el2n", "mine")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the package installed."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "spread_out.py").write_text(MODULE)
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(folder)], check=True, cwd=folder
    )
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(target), str(ROOT)])}


def lifelong(environment: dict[str, str], *arguments: object) -> str:
    """Standard output of a `lifelong` command in a process of its own."""
    command = [sys.executable, "-c", "from lifelong.cli import main; main()", *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_scorer_of_another_package_decides_where_it_tells_most(
    environment: dict[str, str], new_run: Callable[..., Run], edit_config: Callable[..., None], tmp_path: Path
) -> None:
    run = new_run()
    edit_config(run, recipe={"recipe": "adapt-inf", "router": "entropy[el2n mine]"})
    lifelong(environment, "run", run.root, write_stream(tmp_path, ("easyvqa", "ground_mix"), evals=0))
    chosen = Counter()
    for timestep in (1, 2):
        rows = decisions(run, timestep)
        assert sorted(row["score_mine"] for row in rows) == list(range(24 * timestep))
        clusters = defaultdict(list)
        for row in rows:
            clusters[row["cluster"]].append(row)
        chosen.update(decided_by(rows) for rows in clusters.values())
    assert chosen["mine"] > 0


def decided_by(rows: list[dict[str, Any]]) -> str:
    """The expert that a cluster went to, which is the one of highest entropy where any can rank it."""
    (chosen,) = {row["scorer"] for row in rows}
    entropy = {
        name: score_entropy(np.array([row[f"score_{name}"] for row in rows]), resolution=1e-6)
        for name in EXPERTS
    }
    if chosen == "random":
        assert max(entropy.values()) == -np.inf
    else:
        assert entropy[chosen] == max(entropy.values())
        assert all(row["score"] == row[f"score_{chosen}"] for row in rows)
    return chosen


def test_it_is_in_the_catalogue_and_can_be_named(environment: dict[str, str]) -> None:
    code = (
        "from lifelong.recipes.method import method; from lifelong.recipes.catalogue import catalogue\n"
        "print('mine' in {each['name'] for each in catalogue()['scorers']})\n"
        "print(sorted(method({'recipe': 'el2n', 'router': 'always[mine]'}).measures.signals))"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.stdout.split("\n")[:2] == ["True", "['nll']"], ended.stderr
