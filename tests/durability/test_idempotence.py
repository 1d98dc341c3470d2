"""What has been done already is not done again: not one byte of the run changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from lifelong import Run, loop
from lifelong.cli import invoke
from lifelong.phases.start import start
from lifelong.progress import Silent
from lifelong.upkeep.past import models_of, past
from stores.ledger import PHASES, Ledger
from tests.runs.small import RECIPE, database, settings, write_stream

Tree = dict[str, tuple[bytes, int]]


def tree(root: Path) -> Tree:
    """Every file of a run with its inode, but for the lock and what SQLite keeps beside its file."""
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_ino)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "run.lock" and not path.name.endswith(("-wal", "-shm"))
    }


def test_the_stream_again_changes_no_byte_and_says_so(
    copied: Run,
    stream: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tree(copied.root)
    assert invoke(["run", str(copied.root), str(stream)]) == 0
    told = capsys.readouterr().err
    for timestep, name in enumerate(("easyvqa", "tux_caption", "ground_mix"), 1):
        assert f"{name}: fed at timestep {timestep}, nothing to do" in told
    assert tree(copied.root) == before


def test_a_known_name_for_another_file_is_told_and_changes_no_byte(
    copied: Run, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(copied.root)
    told = yaml.safe_load(stream.read_text())
    first = told["datasets"][0]
    was = stream.parent / first["train"]
    first["train"] = str(shutil.copyfile(was, tmp_path / "corrected.json"))
    for each in told["datasets"]:
        for field in ("images", "eval"):
            each |= {field: str(stream.parent / each[field])} if field in each else {}
    other = tmp_path / "stream.yaml"
    other.write_text(yaml.safe_dump(told))
    assert invoke(["run", str(copied.root), str(other), "--until", "1"]) == 0
    said = (
        f"{first['name']}: fed at timestep 1 from {was}, not from {tmp_path / 'corrected.json'}; to feed that"
    )
    assert said in capsys.readouterr().err
    assert tree(copied.root) == before


def test_the_same_dataset_again_changes_no_byte_and_says_so(
    copied: Run,
    stream: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tree(copied.root)
    with copied.reading() as stores:
        fed = {dataset.name: dataset for dataset in stores.pool.datasets()}
        asked = {name: stores.ledger.phase(each.timestep, "ingest") for name, each in fed.items()}
    for name, dataset in fed.items():
        images = asked[name].result["feed"]["images"]
        assert (
            invoke(["feed", str(copied.root), dataset.source, *(["--images", images] if images else [])]) == 1
        )
        told = capsys.readouterr().err
        assert "nothing new" in told
        assert f"fed at timestep {dataset.timestep} as {name}" in told
        assert "the run is as it was" in told
        assert tree(copied.root) == before


def test_the_same_rows_from_elsewhere_change_no_row_and_no_file(
    copied: Run,
    stream: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contents, before = database(copied), tree(copied.root)
    with copied.reading() as stores:
        images = stores.ledger.phase(1, "ingest").result["feed"]["images"]
    elsewhere = shutil.copy(stream.parent / "easyvqa.json", tmp_path / "elsewhere.json")
    assert invoke(["feed", str(copied.root), str(elsewhere), "--images", images]) == 1
    assert "nothing new: of 24 rows 24 have come before" in capsys.readouterr().err
    assert database(copied) == contents
    after = tree(copied.root)
    for each in (before, after):
        del each["lifelong.sqlite"]
    assert after == before


@pytest.mark.parametrize(
    "command",
    [
        ["resume"],
        ["status"],
        ["curves"],
        ["routes"],
        ["digest"],
        ["fsck"],
        ["fsck", "--repair"],
        ["gc", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_command_with_nothing_to_do_changes_no_byte(command: list[str], copied: Run) -> None:
    before = tree(copied.root)
    assert invoke([command[0], str(copied.root), *command[1:]]) == 0
    assert tree(copied.root) == before


def test_gc_again_changes_no_byte(copied: Run) -> None:
    assert invoke(["gc", str(copied.root)]) == 0
    before = tree(copied.root)
    assert invoke(["gc", str(copied.root)]) == 0
    assert tree(copied.root) == before


@pytest.mark.parametrize("timestep", [1, 2, 3])
def test_each_phase_run_again_changes_no_byte(timestep: int, copied: Run) -> None:
    """Ingest and train change what is outside files, so they are run again by the test below."""
    before = tree(copied.root)
    with copied.reading() as stores:
        models = models_of(stores, timestep)
        for phase in ("measure", "cluster", "route", "select", "evaluate", "prune"):
            shards = {shard.path for shard in stores.ledger.shards(timestep)} if phase == "measure" else set()
            outcome = loop.PHASES[phase](past(stores, timestep, phase, shards, models, Silent()))
            assert not shards, "a shard did not come out again"
            on_record = {
                record.committed for record in stores.ledger.files(timestep) if record.phase == phase
            }
            assert {committed for _, committed in outcome.files} == on_record
            assert tree(copied.root) == before, phase
        start(past(stores, 0, "start", set(), models_of(stores, 0), Silent()))
    assert tree(copied.root) == before


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream of one dataset."""
    return write_stream(tmp_path_factory.mktemp("one"), names=("ground_mix",), rows=8, evals=1)


@pytest.fixture(scope="module")
def once(llava: str, one: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one timestep. For reading only."""
    config = settings(pool={"keep": 6})
    run = Run.create(tmp_path_factory.mktemp("once") / "run", model=llava, recipe=RECIPE, config=config)
    run.run_stream(one)
    return run


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_stopped_before_its_commit_leaves_the_same_bytes_when_run_again(
    phase: str, once: Run, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path / "run", config=once.config)
    commit, stopped = Ledger.commit, []

    def stopping(self: Ledger, timestep: int, name: str, **rest: object) -> None:
        if name == phase and not stopped:
            stopped.append(timestep)
            raise KeyboardInterrupt
        commit(self, timestep, name, **rest)

    monkeypatch.setattr(Ledger, "commit", stopping)
    assert invoke(["run", str(run.root), str(one), "--quiet"]) == 130
    assert stopped == [1]
    assert invoke(["run", str(run.root), str(one), "--quiet"]) == 0
    trees = [
        {
            name: data
            for name, (data, _) in tree(each.root).items()
            if "sqlite" not in name and "config" not in name
        }
        for each in (run, once)
    ]
    assert trees[0] == trees[1]
    assert run.digest() == once.digest()
