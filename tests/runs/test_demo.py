"""The demo, in small: the same command on 24 rows a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifelong.demo.tour import RECIPES, tour
from lifelong.progress import Silent
from lifelong.run import Run

pytest.importorskip("easy_vqa", reason="the extra `demo` is not installed")


def test_the_demo_runs_both_recipes_to_the_end_and_tells_the_same_again(tmp_path: Path) -> None:
    told = tour(tmp_path, Silent(), size="tiny")
    for recipe in RECIPES:
        run = Run.open(tmp_path / recipe)
        status, curves = run.status(), run.skill_matrix()
        assert (status["timestep"], status["phase"]) == (5, None)
        assert status["pool"]["arrived"] == 5 * 24
        assert len(curves.skills) == 5
        assert curves.R.shape == (6, 5)
    assert "real" in told
    assert "generated" in told
    assert "forgetting" in told
    assert "forward_transfer" in told
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert told.endswith(f"report: open {tmp_path / 'report.html'} in a browser")
    assert b"Beside this run: sequential" in (tmp_path / "report.html").read_bytes()
    digests = [Run.open(tmp_path / recipe).digest() for recipe in RECIPES]
    assert tour(tmp_path, Silent(), size="tiny") == told
    assert [Run.open(tmp_path / recipe).digest() for recipe in RECIPES] == digests
    assert digests[0] != digests[1]
