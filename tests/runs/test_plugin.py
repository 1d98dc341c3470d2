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

from lifelong import Run, methods, select
from lifelong.cli import invoke
from lifelong.errors import UsageError
from policies.routers import score_entropy
from tests.runs.conftest import ROOT
from tests.runs.small import decisions, small_entry, write_stream

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


FAULTY = """
from dataclasses import dataclass

import numpy as np

from policies.grammar import Recipe
from policies.samplers import Sampler
from policies.scorers.base import Scorer


@dataclass(frozen=True, slots=True)
class Greedy(Sampler):
    name = "greedy"

    def pick(self, scores, budget, rng, signals=None):
        return np.arange(len(scores))


class Expert(Scorer):
    paper = ""
    passes = "none"
    needs = ("ordinal",)


@dataclass(frozen=True, slots=True)
class Fails(Expert):
    name = "fails"

    def score(self, signals, rng):
        raise KeyError("of mine")


@dataclass(frozen=True, slots=True)
class Forgets(Expert):
    name = "forgets"

    def score(self, signals, rng):
        return signals["source"]


@dataclass(frozen=True, slots=True)
class Sorts(Expert):
    name = "sorts"

    def score(self, signals, rng):
        signals["ordinal"].sort()
        return signals["ordinal"]


LOST = Recipe.parse("lost", "router always[nowhere]")
"""
POINTS = """
[lifelong.samplers]
greedy = faulty:Greedy
[lifelong.scorers]
fails = faulty:Fails
forgets = faulty:Forgets
sorts = faulty:Sorts
gone = faulty:Gone
[lifelong.recipes]
lost = faulty:LOST
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with mistakes, as an installer leaves it."""
    metadata = tmp_path / "faulty-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(POINTS)
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ({"sample": "greedy"}, "sample greedy: picked 24 of 24 samples; want 6"),
        (
            {"router": "always[fails]"},
            r"expert fails of faulty failed: KeyError: 'of mine' \(faulty.py line 30\)",
        ),
        (
            {"router": "always[forgets]"},
            "expert forgets: reads the signal 'source', which its `needs` do not",
        ),
        ({"router": "always[sorts]"}, "expert sorts of faulty failed: ValueError: .*read-only"),
    ],
)
def test_what_goes_wrong_in_a_word_is_told_with_its_name(
    faulty: None, tmp_path: Path, word: dict[str, str], said: str
) -> None:
    given = small_entry(tmp_path, "easyvqa")
    with pytest.raises(UsageError, match=said):
        select(
            given["train"],
            tmp_path / "out.json",
            {"recipe": "random", **word},
            budget="25%",
            images=given["images"],
        )
    assert not (tmp_path / "out.json").exists()


def test_what_cannot_be_used_is_listed_beside_all_that_can(
    faulty: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = methods()
    assert {each["name"] for each in found["broken"]} == {"gone", "lost"}
    assert "adapt-inf" in {each["name"] for each in found["recipes"]}
    assert {"el2n", "fails"} <= {each["name"] for each in found["scorers"]}
    assert invoke(["methods"]) == 0
    told = capsys.readouterr().out
    assert "scorers 'gone' of faulty 0.1 (faulty:Gone) cannot be imported" in told
    assert "unknown word in scorers 'nowhere'" in told
