"""A run grows by what it is told to keep, and garbage collection takes only garbage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as checked
from hypothesis import strategies as st

from lifelong import Run
from lifelong.cli import invoke
from lifelong.upkeep.fsck import examine
from stores.commit import sweep
from stores.database import open_database, transaction
from stores.errors import DamagedError
from stores.evals import EvalItem, Evals
from stores.fsck import FOLDERS, check_files
from stores.ledger import Ledger
from stores.media import Media
from stores.pool import Arrival, Pool
from stores.repack import DEAD_SHARE, dead_packs, repack
from tests.durability.growth import RECIPE, SETTINGS, feed
from tests.runs.conftest import ROOT
from tests.runs.small import entry, files


@pytest.fixture(scope="session")
def grown(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, list[dict]]]:
    """Makes a run of so many timesteps in a process of its own; gives its folder and what that process said."""

    def grow(timesteps: int) -> tuple[Path, list[dict]]:
        root = tmp_path_factory.mktemp("grown") / "run"
        done = subprocess.run(
            [sys.executable, "-m", "tests.durability.growth", str(root), llava, str(timesteps)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        )
        return root, [json.loads(line) for line in done.stdout.splitlines()]

    return grow


def slope(values: list[int]) -> float:
    """Growth per step over the second half, as a share of its mean."""
    half = np.array(values[len(values) // 2 :], dtype=np.float64)
    return float(np.polyfit(np.arange(len(half)), half, 1)[0] / half.mean())


@pytest.mark.parametrize("timesteps", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_memory_stays_and_disk_is_what_is_kept(
    timesteps: int,
    grown: Callable[[int], tuple[Path, list[dict]]],
    figures: Callable[[str], None],
) -> None:
    root, told = grown(timesteps)
    memory = [each["resident"] for each in told]
    assert len(memory) == timesteps
    assert slope(memory) < 0.01
    keep = SETTINGS["keep"]
    with Run.open(root).reading() as stores:
        adapters = [record.timestep for record in stores.ledger.files() if record.kind == "adapter"]
        signals = {shard.timestep for shard in stores.ledger.shards()}
    last = range(timesteps, 0, -1)
    assert adapters == [0, *sorted(last[: keep["checkpoints"]])]
    assert signals == set(last[: keep["signals"]])
    assert len(list((root / "checkpoints").iterdir())) == len(adapters)
    assert {int(path.name) for path in (root / "shards").iterdir() if any(path.iterdir())} == signals
    assert examine(root) == []
    # As soon as as many are there as are kept, these two folders have their size.
    steady = [each["disk"] for each in told[4:]]
    for folder in ("checkpoints", "shards"):
        sizes = [each[folder] for each in steady]
        assert max(sizes) < 1.02 * min(sizes)
    disk = ", ".join(f"{folder} {size / 1e3:.0f} kB" for folder, size in told[-1]["disk"].items())
    held = f"resident {memory[-1] / 1e6:.0f} MB, slope {100 * slope(memory):.3f} % a timestep"
    figures(f"growth: {timesteps} timesteps, {held}; on disk {disk}")


def test_the_slope_sees_growth() -> None:
    assert slope([100 + 2 * step for step in range(20)]) > 0.01


@pytest.fixture
def long(new_run: Callable[..., Run], tmp_path: Path) -> Run:
    """Four timesteps that keep everything."""
    run = new_run(recipe=RECIPE, **{**SETTINGS, "keep": {}})
    for number in range(1, 5):
        feed(run, tmp_path / "data", number)
    return run


def tree(run: Run) -> dict[str, bytes]:
    return {name: (run.root / name).read_bytes() for name in files(run) if name != "run.lock"}


def test_what_gc_takes_is_what_the_dry_run_lists_and_the_run_goes_on_the_same(
    long: Run,
    tmp_path: Path,
    edit_config: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    untouched = Run.open(shutil.copytree(long.root, tmp_path / "untouched"))
    digest, curves = long.digest(), long.skill_matrix().to_json()
    (long.root / "media/.staging-0123").write_bytes(b"left over")
    edit_config(long, keep={"checkpoints": 1, "signals": 1})
    before = tree(long)
    assert invoke(["gc", str(long.root), "--dry-run", "--json"]) == 0
    listed = {line["path"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert tree(long) == before
    assert invoke(["gc", str(long.root)]) == 0
    assert "kept" not in capsys.readouterr().out
    gone = {name for name in before if name not in files(long)}
    assert {
        name for name in gone if not any(name == path or name.startswith(f"{path}/") for path in listed)
    } == set()
    assert all(not (long.root / path).exists() for path in listed)
    assert {path.split("/")[0] for path in listed} == {"checkpoints", "shards", "media"}
    adapters = sorted(path.split("/")[1][:4] for path in listed if path.startswith("checkpoints/"))
    assert adapters == ["0001", "0002", "0003"]
    kept = {name: data for name, data in tree(long).items() if name.startswith(("timesteps", "checkpoints"))}
    assert all(before[name] == data for name, data in kept.items())
    assert (long.digest(), long.skill_matrix().to_json()) == (digest, curves)
    assert [problem for problem in examine(long.root) if problem.kind != "edited"] == []
    assert invoke(["gc", str(long.root), "--json"]) == 0
    assert capsys.readouterr().out == ""
    with long.reading() as stores, pytest.raises(Exception, match="adapter of timestep 1 was let go"):
        stores.ledger.file(1, "adapter")
    for run in (long, untouched):
        feed(run, tmp_path / "data", 5)
    assert long.digest() == untouched.digest()


def test_gc_waits_for_an_unfinished_timestep(
    copied: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lifelong import loop

    def stop(context: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(loop.PHASES, "train", stop)
    daquar = entry("daquar")
    assert invoke(["feed", str(copied.root), daquar["train"], "--images", daquar["images"], "--quiet"]) == 130
    capsys.readouterr()
    assert invoke(["gc", str(copied.root)]) == 3
    assert "finish it with `lifelong resume" in capsys.readouterr().err


IMAGES = [bytes([number]) * (10 + 7 * number) for number in range(12)]
HASHES = [hashlib.sha256(data).hexdigest() for data in IMAGES]


@checked(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.lists(st.lists(st.integers(0, 11), max_size=3), min_size=1, max_size=10),
    evals=st.lists(st.integers(0, 11), max_size=2),
    pruned=st.sets(st.integers(0, 9)),
    pack_bytes=st.integers(1, 300),
)
def test_no_image_that_a_live_row_needs_is_ever_removed(
    samples: list[list[int]],
    evals: list[int],
    pruned: set[int],
    pack_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("packs")
    db = open_database(root / "run.db")
    try:
        media, pool = Media(root, db), Pool(db)
        fill(media, pool, samples, evals, pack_bytes)
        gone = sorted(ordinal for ordinal in pruned if ordinal < len(samples))
        with transaction(db):
            pool.bury(1, gone, ["near copy"] * len(gone))
        needed = {image for ordinal, images in enumerate(samples) if ordinal not in gone for image in images}
        needed |= set(evals)
        listed = dead_packs(media)
        assert repack(media, pack_bytes=pack_bytes) == listed
        sweep(root, Ledger(db, root).known_paths(), FOLDERS)
        for image in needed:
            assert media.read(HASHES[image]) == IMAGES[image]
        assert check_files(db, root) == []
        assert dead_packs(media) == []
        # What is left holds at least as much that lives as that is dead.
        alive = sum(len(IMAGES[image]) for image in needed)
        size = sum(path.stat().st_size for path in (root / "media").glob("*.bin"))
        assert size <= alive / DEAD_SHARE
        assert not (alive == 0 and size)
    finally:
        db.close()


def fill(media: Media, pool: Pool, samples: list[list[int]], evals: list[int], pack_bytes: int) -> None:
    with media.writer(1, pack_bytes=pack_bytes) as writer:
        for image in [image for images in (*samples, evals) for image in images]:
            writer.add(IMAGES[image], HASHES[image], 4, 4)
    arrivals = [
        Arrival(f"{number:032x}", None, "a.json", number, [], [HASHES[image] for image in images], 0)
        for number, images in enumerate(samples)
    ]
    with transaction(pool.db):
        media.record(writer.rows)
        pool.add(1, "a", "a", arrivals)
        items = [EvalItem("e", [], [HASHES[image]], "x") for image in evals]
        Evals(pool.db).add("a", "a", "exact_match", items)


def test_a_damaged_pack_is_not_rewritten(tmp_path: Path) -> None:
    db = open_database(tmp_path / "run.db")
    media, pool = Media(tmp_path, db), Pool(db)
    fill(media, pool, [[0], [10]], [], 10_000)
    with transaction(db):
        pool.bury(1, [1], ["near copy"])
    (pack,) = (tmp_path / "media").iterdir()
    whole = pack.read_bytes()
    pack.write_bytes(b"?" + whole[1:])
    with pytest.raises(DamagedError, match="has been altered"):
        repack(media)
    assert len(list(media.rows())) == 2
    pack.write_bytes(whole)
    assert [each.dead for each in repack(media)] == [len(IMAGES[10])]
    assert media.read(HASHES[0]) == IMAGES[0]
    db.close()
