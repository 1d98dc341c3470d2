"""Rolling back and forking: the run of then, bit for bit, whatever is killed on the way."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from lifelong import Run, loop
from lifelong.cli import invoke
from lifelong.errors import RunError, UsageError
from lifelong.upkeep.fsck import examine
from stores.undo import Undo
from tests.durability.scenario import rows
from tests.runs.small import decisions
from tests.steer.conftest import Steps, killed

STEERED = ("undone", "events", "media", "meta", "forecasts", "sqlite_sequence")
"""Tables that a rollback may leave other than they were: what was done, images that stay until `gc`, notes."""
Captured = pytest.CaptureFixture[str]


def state(run: Run) -> dict[str, Any]:
    """Everything of a run that a reader can see."""
    tables = {name: found for name, found in rows(run).items() if name not in STEERED}
    aliases = {str(path.relative_to(run.root)) for path in run.root.glob("timesteps/*/decisions.parquet")}
    with run.reading() as stores:
        configs = {key for (key,) in stores.db.execute("SELECT key FROM meta WHERE key LIKE 'config/%'")}
        last = stores.ledger.last_timestep() or 0
    status = {name: run.status()[name] for name in ("timestep", "phase", "pool")}
    table = decisions(run, last) if last else []
    return {
        "digest": run.digest(),
        "tables": tables,
        "aliases": aliases,
        "configs": configs,
        "status": status,
        "curves": run.skill_matrix().to_json(),
        "decisions": table,
    }


def test_every_table_is_known_to_a_rollback(steps: Steps) -> None:
    """A table that a migration adds is taken back with its timesteps, or is named here with why not."""
    taken_back = set(re.findall(r'"([a-z_]+)"', inspect.getsource(Undo.after)))
    stay = {"media", "migrations", "seals", "undone", "events", "retired"}
    with Run.open(steps.states[3]).reading() as stores:
        tables = set(stores.db.table_names())
    assert tables - stay - taken_back == set(), "see stores/undo.py"


@pytest.mark.parametrize("to", [1, 2])
def test_a_rollback_is_the_run_of_then(steps: Steps, to: int, tmp_path: Path) -> None:
    run = steps.copy(3, tmp_path / "run")
    then, now = state(Run.open(steps.states[to])), state(run)
    assert (done := run.rollback(to)).before == 3
    assert done.datasets == tuple(f"set{number}" for number in range(to + 1, 4))
    assert state(run) == then
    assert examine(run.root) == []
    kept = {path for path in (steps.states[3] / "checkpoints").rglob("*") if path.is_file()}
    assert all((run.root / path.relative_to(steps.states[3])).exists() for path in kept), "nothing is deleted"
    run.bring_back()
    assert state(run) == now
    assert examine(run.root) == []


def test_what_is_fed_after_a_rollback_comes_out_as_if_nothing_had_been(steps: Steps, tmp_path: Path) -> None:
    run = steps.copy(3, tmp_path / "run")
    run.rollback(1)
    run.gc()
    for number in (2, 3):
        steps.feed(run, number)
        assert state(run) == state(Run.open(steps.states[number]))
    with pytest.raises(UsageError, match="no rollback to undo"):
        run.bring_back()


def test_gc_lets_go_of_what_was_taken_back(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = steps.copy(3, tmp_path / "run")
    run.rollback(1)
    freed = {each.path for each in run.gc() if each.why == "of a timestep that was taken back"}
    assert any(path.startswith("checkpoints/0003-") for path in freed)
    assert not any(run.root.joinpath(path).exists() for path in freed)
    assert run.digest() == Run.open(steps.states[1]).digest()
    assert examine(run.root) == []
    assert invoke(["rollback", str(run.root), "--undo"]) == 2
    assert "no rollback to undo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "3"], "there is nothing to take back"),
        (["--to", "7"], "timestep 7 has not finished; there are: 0, 1, 2, 3"),
        ([], "say where to"),
        (["--undo"], "no rollback to undo"),
    ],
)
def test_a_rollback_that_cannot_be_says_why(
    arguments: list[str], words: str, steps: Steps, capsys: Captured
) -> None:
    before = state(Run.open(steps.states[3]))
    assert invoke(["rollback", str(steps.states[3]), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert state(Run.open(steps.states[3])) == before


def test_a_timestep_whose_adapter_was_let_go_cannot_be_gone_back_to(steps: Steps, tmp_path: Path) -> None:
    run = steps.copy(3, tmp_path / "run")
    text = (run.root / "config.yaml").read_text()
    (run.root / "config.yaml").unlink()
    (run.root / "config.yaml").write_text(text.replace("checkpoints: 0", "checkpoints: 1"))
    run.gc()
    with pytest.raises(UsageError, match="adapter of timestep 2 was let go"):
        run.rollback(2)
    with pytest.raises(UsageError, match="adapter of timestep 2 was let go"):
        run.fork(tmp_path / "fork", 2)
    run.rollback(0)
    assert run.status()["timestep"] == 0


def test_an_unfinished_timestep_is_taken_back(steps: Steps, tmp_path: Path) -> None:
    run = steps.copy(2, tmp_path / "run")

    def feed() -> None:
        loop.PHASES["train"] = lambda context: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        steps.feed(run, 3)

    assert killed(feed, 10**9) == -9
    assert run.status()["phase"] == "train"
    with pytest.raises(RunError, match="unfinished"):
        steps.feed(run, 3)
    run.rollback(2)
    assert state(run) == state(Run.open(steps.states[2]))
    steps.feed(run, 3)
    assert state(run) == state(Run.open(steps.states[3]))


def test_a_first_timestep_that_cannot_start_is_taken_back(steps: Steps, tmp_path: Path) -> None:
    run = steps.copy(0, tmp_path / "run")

    def feed() -> None:
        loop.start = lambda context: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        steps.feed(run, 1)

    assert killed(feed, 10**9) == -9
    with run.reading() as stores:
        assert stores.ledger.phase(0, "start") is None
        assert stores.ledger.phase(1, "ingest") is not None
    run.rollback(0)
    assert run.status()["pool"]["arrived"] == 0
    assert examine(run.root) == []
    with pytest.raises(UsageError, match="nothing to take back"):
        run.rollback(0)
    steps.feed(run, 1)
    assert state(run) == state(Run.open(steps.states[1]))


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rollback_killed_at_any_instant_leaves_before_or_after(
    steps: Steps, every: int, tmp_path: Path
) -> None:
    before, after = (state(Run.open(steps.states[timestep])) for timestep in (3, 1))
    seen, instant, code = [], 0, -9
    while code != 0:
        run = steps.copy(3, tmp_path / "run")
        code = killed(lambda run=run: run.rollback(1), instant)
        assert code in (0, -9)
        with run.writing():  # whatever writes next puts things in order
            pass
        seen.append(state(run))
        assert seen[-1] in (before, after)
        assert examine(run.root) == []
        shutil.rmtree(run.root)
        instant += every
    assert before in seen
    assert seen.count(after) > 1, "none was killed after the instant that counts"


def blocks(root: Path) -> int:
    """Bytes of files that no other name has."""
    return sum(
        path.stat().st_size for path in root.rglob("*") if path.is_file() and path.stat().st_nlink == 1
    )


@pytest.mark.parametrize("at", [1, 2])
def test_a_fork_is_a_rollback_elsewhere(steps: Steps, at: int, tmp_path: Path, capsys: Captured) -> None:
    run = steps.copy(3, tmp_path / "run")
    now = state(run)
    assert invoke(["fork", str(run.root), str(tmp_path / "fork"), "--at", str(at), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    fork = Run.open(tmp_path / "fork")
    assert state(fork) == state(Run.open(steps.states[at]))
    assert state(run) == now
    assert (told["at"], told["copied"]) == (at, 0)
    assert blocks(fork.root) <= told["bytes"] + os.path.getsize(fork.root / "backup/database.sqlite") + 65536
    assert fork.status()["run_id"] != run.status()["run_id"]
    with fork.reading() as stores:
        origin = stores.ledger.get_meta("origin")
    assert (origin["run_id"], origin["timestep"]) == (run.status()["run_id"], at)
    for number in range(at + 1, 4):
        steps.feed(fork, number)
    assert fork.digest() == run.digest()
    assert examine(fork.root) == [] == examine(run.root)


def test_neither_harms_the_other(steps: Steps, tmp_path: Path) -> None:
    run = steps.copy(3, tmp_path / "run")
    fork = Run.open(run.fork(tmp_path / "fork", 2) and tmp_path / "fork")
    before = state(fork)
    run.rollback(0)
    run.gc()
    (run.root / "config.yaml").write_text("seed: 1\n")  # as an editor does, in place
    shutil.rmtree(run.root)
    assert state(fork) == before
    assert examine(fork.root) == []
    steps.feed(fork, 3)
    assert fork.digest() == Run.open(steps.states[3]).digest()


def test_a_fork_takes_another_recipe(steps: Steps, tmp_path: Path) -> None:
    run = Run.open(steps.states[3])
    run.fork(tmp_path / "fork", 2, recipe="random")
    fork = Run.open(tmp_path / "fork")
    assert (fork.config.recipe, run.config.recipe) == ("random", {"recipe": "el2n", "prune": "random"})
    steps.feed(fork, 3)
    assert {row["scorer"] for row in decisions(fork, 3)} == {"random"}
    with pytest.raises(UsageError, match="is there already"):
        run.fork(tmp_path / "fork", 2)


@pytest.mark.parametrize("every", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_a_fork_killed_at_any_instant_is_whole_or_not_there(steps: Steps, every: int, tmp_path: Path) -> None:
    run, expected = Run.open(steps.states[3]), state(Run.open(steps.states[2]))
    instant, code, absent = 0, -9, 0
    while code != 0:
        new = tmp_path / f"fork-{instant}"
        code = killed(lambda new=new: run.fork(new, 2), instant)
        assert code in (0, -9)
        if new.exists():
            with Run.open(new).writing():
                pass
            assert state(Run.open(new)) == expected
            assert examine(new) == []
        else:
            absent += 1
        instant += every
    assert absent > 1
    assert examine(run.root) == []


def test_diff_tells_two_timesteps_and_two_runs_apart(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = Run.open(steps.states[3])
    run.fork(tmp_path / "fork", 2, recipe="random")
    fork = Run.open(tmp_path / "fork")
    steps.feed(fork, 3)
    assert invoke(["diff", str(run.root), str(fork.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"]["timestep"], found["b"]["timestep"]) == (3, 3)
    assert found["config"] == {}
    assert found["recipe"]["router"] == ["always[el2n]", "always[random]"]
    chosen = [{row["sample_id"] for row in decisions(each, 3) if row["selected"]} for each in (run, fork)]
    assert found["samples"]["both"] == len(chosen[0] & chosen[1])
    assert found["samples"]["only_a"] == len(chosen[0] - chosen[1])
    assert {each.split()[0] for each in found["samples"]["examples_b"]} == chosen[1] - chosen[0]
    assert found["routing"] == {"el2n": [4, 0], "random": [0, 4]}
    assert [skill["skill"] for skill in found["skills"]] == ["colours", "others"]
    assert all(skill["paired"] and 0 <= skill["p"] <= skill["p_adjusted"] <= 1 for skill in found["skills"])
    assert invoke(["diff", f"{run.root}@1", "@3"]) == 0
    text = capsys.readouterr().out
    assert "CONFIGURATION\n  the same" in text
    assert "item by item" in text
    assert invoke(["diff", f"{run.root}@1", "@4"]) == 2
