"""Killed anywhere, a run goes on as if nothing had happened."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.loop import PHASES
from stores.fsck import check_files
from tests.runs.child import Children, Point
from tests.runs.small import RECIPE, entry, files, settings, write_stream

TIMESTEPS = (1, 2)
SHARDS = {1: 2, 2: 4}  # 16 rows, then the 12 kept and 16 new ones, in shards of 8
KEEP = 12


def points(when: str) -> Iterator[Point]:
    """Before or after every commit of two timesteps, in the order in which they come."""
    for timestep in TIMESTEPS:
        for phase in PHASES:
            if phase == "measure":
                for shard in range(SHARDS[timestep]):
                    yield timestep, f"shard {shard}", when
            yield timestep, phase, when
            if (timestep, phase) == (1, "ingest"):
                yield 0, "start", when


@pytest.fixture(scope="module")
def two_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    return write_stream(folder, names=("easyvqa", "ground_mix"), rows=16, evals=2)


@pytest.fixture(scope="module")
def fresh(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has been fed nothing."""
    config = settings(pool={"keep": KEEP}, measure={"shard_size": 8})
    root = tmp_path_factory.mktemp("fresh") / "run"
    return Run.create(root, model=llava, recipe=RECIPE | {"start": "average"}, config=config).root


@pytest.fixture(scope="module")
def undisturbed(fresh: Path, two_datasets: Path, children: Children) -> Run:
    """The run that nobody killed."""
    root = shutil.copytree(fresh, fresh.parent / "undisturbed")
    ended = children.run("run", root, two_datasets)
    assert ended.code == 0, ended.stderr
    return Run.open(root)


@pytest.fixture
def run(fresh: Path, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(fresh, tmp_path / "run"))


def damaged(run: Run) -> list[str]:
    with run.reading() as stores:
        return [problem.message for problem in check_files(stores.db, run.root) if problem.kind == "damaged"]


def garbage(run: Run) -> list[str]:
    with run.reading() as stores:
        return [problem.path for problem in check_files(stores.db, run.root)]


def next_phase(point: Point) -> str | None:
    """The phase that a run killed at `point` has to run next, as `status` tells."""
    _, what, when = point
    if what == "start":
        return "measure"
    if what.startswith("shard"):
        return "measure"
    if when == "before":
        return what
    names = [*PHASES, None]
    return names[names.index(what) + 1]


def same_published_files(run: Run, undisturbed: Run) -> bool:
    def published(run: Run) -> dict[str, bytes]:
        return {
            path.parent.name: path.read_bytes() for path in run.root.glob("timesteps/*/decisions.parquet")
        }

    return published(run) == published(undisturbed)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit_in_turn(
    when: str, run: Run, undisturbed: Run, two_datasets: Path, children: Children
) -> None:
    for point in points(when):
        ended = children.run("run", run.root, two_datasets, at=point)
        assert ended.code == -signal.SIGKILL, (point, ended)
        assert run.status()["phase"] == next_phase(point), point
        assert damaged(run) == [], point
    assert children.run("run", run.root, two_datasets).code == 0
    assert run.digest() == undisturbed.digest()
    assert garbage(run) == []
    assert same_published_files(run, undisturbed)
    assert files(run) == files(undisturbed)


@pytest.mark.parametrize(
    "point",
    [
        (0, "start", "before"),
        (1, "prune", "after"),
        (2, "shard 0", "after"),
        (2, "train", "before"),
    ],
    ids=str,
)
def test_killed_once_resumed_and_finished(
    point: Point, run: Run, undisturbed: Run, two_datasets: Path, children: Children
) -> None:
    assert children.run("run", run.root, two_datasets, at=point).code == -signal.SIGKILL
    resumed = children.run("resume", run.root)
    assert resumed.code == 0, resumed.stderr
    assert run.status()["phase"] is None
    assert ("nothing to resume" in resumed.stderr) == (point == (1, "prune", "after"))
    assert children.run("run", run.root, two_datasets).code == 0
    assert run.digest() == undisturbed.digest()
    assert same_published_files(run, undisturbed)
    assert children.run("resume", run.root).stderr.startswith("nothing to resume")


def test_the_measured_shards_are_not_measured_again(run: Run, two_datasets: Path, children: Children) -> None:
    assert children.run("run", run.root, two_datasets, at=(1, "shard 0", "after")).code == -signal.SIGKILL
    (shard,) = (run.root / "shards").rglob("*.safetensors")
    before = shard.stat().st_mtime_ns
    assert children.run("resume", run.root).code == 0
    assert shard.stat().st_mtime_ns == before


def test_an_interrupt_exits_with_130_and_can_be_resumed(
    run: Run, undisturbed: Run, two_datasets: Path, children: Children
) -> None:
    ended = children.run("run", run.root, two_datasets, at=(1, "shard 1", "before"), do="interrupt")
    assert ended.code == 130
    assert "lifelong resume" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert run.status()["phase"] == "measure"
    assert children.run("resume", run.root).code == 0
    assert children.run("run", run.root, two_datasets).code == 0
    assert run.digest() == undisturbed.digest()


def test_nothing_is_fed_while_a_timestep_is_unfinished(
    run: Run, two_datasets: Path, children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    assert children.run("run", run.root, two_datasets, at=(1, "route", "before")).code == -signal.SIGKILL
    assert invoke(["feed", str(run.root), entry("daquar")["train"]]) == 3
    assert f"finish it with `lifelong resume {run.root}`" in capsys.readouterr().err
    assert run.status()["timestep"] == 1


@pytest.fixture
def writer(run: Run, two_datasets: Path, children: Children) -> Iterator[int]:
    """The process id of a writer that is held in its measure phase."""
    pid = children.start("run", run.root, two_datasets, at=(1, "shard 0", "after"), do="hold")
    held = run.root / "held"
    try:
        deadline = time.monotonic() + 60
        while not held.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held.exists()
        yield pid
    finally:
        held.unlink(missing_ok=True)
        ended = children.wait(pid)
    assert ended.code == 0, ended.stderr


def test_a_second_writer_fails_at_once_and_readers_go_on(
    run: Run, writer: int, capsys: pytest.CaptureFixture[str], children: Children
) -> None:
    for command in (["feed", str(run.root), entry("daquar")["train"]], ["resume", str(run.root)]):
        began = time.monotonic()
        assert invoke(command) == 3
        assert time.monotonic() - began < 2
        assert f"process {writer} on host" in capsys.readouterr().err
    assert children.run("resume", run.root).code == 3
    assert invoke(["status", str(run.root), "--json"]) == 0
    assert '"phase": "measure"' in capsys.readouterr().out
    assert invoke(["digest", str(run.root)]) == 0


def test_another_seed_gives_another_digest(
    run: Run, undisturbed: Run, two_datasets: Path, edit_config: Callable[..., None]
) -> None:
    edit_config(run, seed=1)
    run.run_stream(two_datasets)
    assert run.digest() != undisturbed.digest()
