"""Features of content, their index, and what was fitted to them, damaged and made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.upkeep.fsck import examine
from tests.durability.test_fsck import classes, flip, rows
from tests.runs.small import settings, write_stream


@pytest.fixture(scope="module")
def encoded(llava: str, encoder_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two timesteps of OFA on a tiny CLIP. For reading only."""
    folder = tmp_path_factory.mktemp("encoded")
    config = settings(encoder={"kind": "clip", "path": str(encoder_folders["clip"])}, pool={"keep": 20})
    run = Run.create(folder / "run", model=llava, recipe="ofa", config=config)
    run.run_stream(write_stream(folder, names=("easyvqa", "ground_mix"), rows=16, evals=2))
    return run


@pytest.fixture
def run(encoded: Run, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(encoded.root, tmp_path / "run"))


def contents(run: Run) -> dict[str, bytes]:
    """Every file but what SQLite and the lock keep."""
    return {
        path.relative_to(run.root).as_posix(): path.read_bytes()
        for path in run.root.rglob("*")
        if path.is_file() and ".sqlite" not in path.name and path.name != "run.lock"
    }


def test_damaged_features_and_what_was_fitted_to_them_are_made_again(run: Run) -> None:
    before, digest = contents(run), run.digest()
    fitted = list(run.root.glob("timesteps/*/fitted-ofa-*"))
    blocks = [path for path in classes(run.root)["features"] if path.suffix == ".safetensors"]
    assert (len(fitted), len(blocks)) == (1, 2)
    rng = np.random.default_rng(0)
    for path in (
        *fitted,
        *blocks,
        *run.root.glob("timesteps/*/scores-*"),
        *run.root.glob("timesteps/*/clusters-*"),
    ):
        flip(path, rng)
    found = {problem.path: problem for problem in examine(run.root)}
    assert len(found) == 7
    assert all(problem.rebuild for problem in found.values())
    assert found["features/shards/" + blocks[0].name].holds.startswith("features of 16 samples by clip-")
    assert invoke(["fsck", str(run.root), "--repair"]) == 0
    assert contents(run) == before
    assert run.digest() == digest


def test_a_damaged_index_is_made_again_with_the_same_files(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before, index = contents(run), run.root / "features/features.sqlite"
    known = rows(index)
    text = index.read_bytes().index(b"clip-")
    flip(index, np.random.default_rng(1), text)
    assert [problem.path for problem in examine(run.root)] == ["features/features.sqlite"]
    assert invoke(["fsck", str(run.root), "--repair"]) == 0
    assert "features.sqlite: made again" in capsys.readouterr().out
    assert contents(run) == before
    assert rows(index) == known
    assert examine(run.root) == []


def test_features_of_a_lost_image_are_forgotten_and_asked_for_again(run: Run) -> None:
    blocks = [path for path in classes(run.root)["features"] if path.suffix == ".safetensors"]
    pack = next((run.root / "media").glob("pack-0001-*"))
    whole = pack.read_bytes()
    flip(pack, np.random.default_rng(2), 0)
    for block in blocks:
        flip(block, np.random.default_rng(3))
    assert invoke(["fsck", str(run.root), "--repair"]) == 3
    # Those of the other timestep's samples, whose images are whole, are made again.
    assert [block.exists() for block in blocks].count(False) == 1
    pack.write_bytes(whole)
    assert examine(run.root) == []
