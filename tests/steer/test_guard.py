"""The guard: it holds on noise, trips on harm, and does what it was told to do about it, killed on the way or not."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lifelong import Run
from lifelong.cli import invoke
from lifelong.errors import GuardError, UsageError
from lifelong.steer.retry import replay_mask
from lifelong.upkeep.fsck import examine
from policies.guards import Comparison, below, harm, harm_by_z, paired, two_sided, unpaired
from tests.runs.conftest import llava  # noqa: F401
from tests.steer.conftest import Steps, killed
from tests.steer.taste import EVALS, SETTINGS, rows, write
from tests.steer.test_rollback import state

Captured = pytest.CaptureFixture[str]
RNG = np.random.default_rng


def correlated(rng: np.random.Generator, times: int, n: int, share: float) -> list[np.ndarray]:
    """Answers to the same n items again and again; each time a share of them is answered anew, no better, no worse."""
    chance = rng.beta(2, 2, n)
    now = rng.random(n) < chance
    found = []
    for _ in range(times):
        now = np.where(rng.random(n) < share, rng.random(n) < chance, now)
        found.append(now.astype(float))
    return found


@pytest.mark.parametrize("n", [20, 100])
def test_a_family_of_comparisons_trips_no_more_often_than_its_level(n: int) -> None:
    """At the hardest: no margin, nothing lost, eight earlier timesteps of two skills."""
    tripped = 0
    for seed in range(120):
        rng = RNG(seed)
        skills = [correlated(rng, 9, n, 0.3) for _ in range(2)]
        family = [paired(was, times[-1], str(s)) for s, times in enumerate(skills) for was in times[:-1]]
        tripped += harm(family, 0.0, rng, 400)[0] < 0.05
    assert tripped <= 12, "5 % of 120 is 6; more than 12 has a chance of 0.8 %"


def test_harm_is_found_and_its_place_told() -> None:
    rng = RNG(0)
    times = correlated(rng, 6, 80, 0.1)
    lost = times[-1] * (rng.random(80) < 0.75)
    family = [paired(was, lost, "a") for was in times] + [paired(times[0], times[0], "b")]
    p, worst = harm(family, 0.03, rng)
    assert p < 0.01
    assert worst < len(times)
    assert harm_by_z(family, 0.03)[0] < 0.05
    assert harm([family[-1]], 0.0, rng)[0] == pytest.approx(0.5)


def test_a_few_items_are_never_certain() -> None:
    """Three of three lost is 1 point of difference with no spread: a plain standard error would be 0."""
    few = paired(np.ones(3), np.zeros(3))
    assert few.stderr > 0.1
    assert harm([few], 0.0, RNG(0))[0] > 0.001
    assert harm([unpaired(1.0, 0.0, 0.0, 0.0)], 0.0, RNG(0))[0] > 0.1
    assert two_sided(Comparison(0.0, 0.1)) == 1.0


def test_the_average_is_judged_by_its_own_error() -> None:
    assert below([0.5, 0.5], [0.05, 0.05], 0.5) == (0.5, pytest.approx(0.5))
    assert below([0.5, 0.5], [0.05, 0.05], 0.6)[1] == pytest.approx(0.0023, abs=1e-3)
    assert below([0.0], [0.0], 0.5)[1] == 0.0


def test_a_cluster_is_replayed_if_half_of_it_is_the_skill_s() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    skills = np.array(["a", "a", "b", "b", "b", "a", "b"])
    new = np.array([False] * 6 + [True])
    assert replay_mask(labels, skills, new, ["a"]).tolist() == [True, True, True, False, False, False, False]
    assert replay_mask(labels, skills, new, ["b"]).tolist() == [True, True, True, True, True, True, False]
    alone = np.zeros(7, dtype=int)
    rare = np.array(["a", "b", "b", "b", "b", "b", "b"])
    assert replay_mask(alone, rare, new, ["a"]).tolist() == [True] + [False] * 6


def with_guard(run: Run, **guard: Any) -> Run:
    values = yaml.safe_load((run.root / "config.yaml").read_text())
    (run.root / "config.yaml").unlink()
    (run.root / "config.yaml").write_text(yaml.safe_dump({**values, "guard": guard}))
    return run


IMPOSSIBLE = {"min_average": 0.9}
"""The random model answers nothing rightly: this trips for certain."""


def test_a_guard_that_holds_leaves_a_verdict(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = with_guard(steps.copy(2, tmp_path / "run"), max_forgetting=0.05)
    steps.feed(run, 3)
    assert run.digest() == Run.open(steps.states[3]).digest()
    verdict = run.status()["guard"]
    assert (verdict["tripped"], verdict["action"]) == (False, "")
    assert invoke(["status", str(run.root)]) == 0
    assert "guard: holds, nothing was harmed" in capsys.readouterr().out


def test_stop_feeds_nothing_more_until_it_is_accepted(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = with_guard(steps.copy(1, tmp_path / "run"), **IMPOSSIBLE)
    feed = ["feed", str(run.root), str(steps.data / "set2.json"), "--images", str(steps.data / "images")]
    assert invoke(feed) == 4
    error = capsys.readouterr().err
    assert "the guard tripped at timestep 2 (set2): the average accuracy is 0.0 %" in error
    assert f"lifelong rollback {run.root} --to 1" in error
    assert (run.status()["timestep"], run.status()["phase"]) == (2, None)
    assert run.status()["guard"]["action"] == "stopped"
    feed[2] = str(steps.data / "set3.json")
    assert invoke(feed) == 4
    assert run.status()["timestep"] == 2
    assert invoke(["resume", str(run.root)]) == 0
    assert invoke(["accept", str(run.root)]) == 0
    assert invoke(["accept", str(run.root)]) == 2
    with_guard(run)
    assert invoke(feed) == 0
    assert examine(run.root) == []


def test_rollback_restores_the_timestep_before(steps: Steps, tmp_path: Path, capsys: Captured) -> None:
    run = with_guard(steps.copy(1, tmp_path / "run"), **IMPOSSIBLE, action="rollback")
    with pytest.raises(GuardError, match="has been taken back"):
        steps.feed(run, 2)
    assert state(run) == state(Run.open(steps.states[1]))
    with run.reading() as stores:
        kinds = [(event.kind, event.timestep) for event in stores.ledger.events()]
        assert all(event.at.endswith("Z") for event in stores.ledger.events())
        verdict = stores.ledger.events("guard")[0].told
    assert kinds == [("guard", 2), ("rollback", 1)]
    assert (verdict["dataset"], verdict["action"]) == ("set2", "rolled back")
    steps.feed(with_guard(run), 2)
    assert run.digest() == Run.open(steps.states[2]).digest()


@pytest.mark.parametrize("action", ["stop", "rollback"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_verdict_that_a_kill_forestalled_is_given_by_resume(
    action: str, when: str, steps: Steps, tmp_path: Path
) -> None:
    run = with_guard(steps.copy(1, tmp_path / "run"), **IMPOSSIBLE, action=action)

    def feed() -> None:
        from lifelong.steer import guard

        place = {"before": "judge", "after": "settle_down"}[when]
        setattr(guard, place, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        steps.feed(run, 2)

    assert killed(feed, 10**9) == -9
    if when == "before":
        with pytest.raises(GuardError):
            run.resume()
    else:
        assert run.resume() is False
    if action == "rollback":
        assert state(run) == state(Run.open(steps.states[1]))
    else:
        assert run.digest() == Run.open(steps.states[2]).digest()
        with pytest.raises(GuardError):
            steps.feed(run, 3)
    with run.reading() as stores:
        assert len(stores.ledger.events("guard")) == 1
    assert [problem for problem in examine(run.root) if problem.kind != "edited"] == []


def test_harm_by_real_training_is_seen_and_more_replay_mends_it(llava: str, tmp_path: Path) -> None:  # noqa: F811
    """Learning sizes alone, the model forgets tastes wholly; with tastes in the selection it does not."""
    guard = {"protect": "taste", "max_forgetting": 0.2, "action": "retry", "retries": 2, "replay": 0.5}
    run = Run.create(tmp_path / "run", model=llava, recipe="sequential", config={**SETTINGS, "guard": guard})
    files = [write(tmp_path / f"{skill}.json", rows(skill, 1, 64)) for skill in ("taste", "size")]
    evals = write(tmp_path / "eval.json", rows("taste", 99, EVALS))
    run.feed(files[0], skill="taste", eval=evals)
    run.feed(files[1], skill="size")
    with run.reading() as stores:
        told = [event.told for event in stores.ledger.events("guard")]
        pool = stores.pool.arrays()
        trained = np.isin(pool["ordinal"], stores.ledger.selection(2))
    assert [each["action"] for each in told][:2] == ["", "retried"]
    assert told[1]["harmed"][0]["skill"] == "taste"
    assert told[1]["p"] < 0.05
    assert (told[-1]["tripped"], told[-1]["action"]) == (False, "")
    retries = sum(each["action"] == "retried" for each in told)
    assert int((trained & (pool["arrived"] == 1)).sum()) == min(64, 32 * retries)
    assert run.status()["guard"]["retried"] == retries
    assert examine(run.root) == []
    assert json.loads(json.dumps(run.status()))["phase"] is None


def test_a_guard_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"guard\.action"):
        Run.create(tmp_path / "run", config={"guard": {"action": "explode"}})


def test_a_fork_is_judged_anew(steps: Steps, tmp_path: Path) -> None:
    """What a guard said of the timestep that the fork leaves behind is not said of the fork's own."""
    run = with_guard(steps.copy(1, tmp_path / "run"), **IMPOSSIBLE)
    with pytest.raises(GuardError):
        steps.feed(run, 2)
    run.fork(tmp_path / "fork", 1)
    fork = Run.open(tmp_path / "fork")
    with pytest.raises(GuardError):
        steps.feed(fork, 2)
    run.rollback(1)
    with pytest.raises(GuardError):
        steps.feed(run, 2)
    fork.rollback(1)
    fork.bring_back()
    with pytest.raises(GuardError, match="nothing is fed until"):
        steps.feed(fork, 3)
