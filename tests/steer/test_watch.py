"""Watching a folder: whole datasets only, in order of arrival, once each, with a report and an event for each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.steer.inbox import Inbox, signature
from lifelong.steer.watch import Watch
from tests.durability.growth import write_dataset
from tests.steer.conftest import Steps, killed
from tests.steer.test_guard import IMPOSSIBLE, with_guard

Captured = pytest.CaptureFixture[str]


def drop(steps: Steps, inbox: Path, number: int, **details: str) -> Path:
    """Drop dataset `number` as a folder: rows, pictures, and what goes with them."""
    staged = inbox.parent / f"staged-{number}"
    write_dataset(staged, number)
    (staged / f"set{number}.json").rename(staged / "train.json")
    if details:
        (staged / "dataset.yaml").write_text(
            json.dumps({"train": "train.json", "images": "images", **details})
        )
    inbox.mkdir(exist_ok=True)
    return staged.rename(inbox / f"set{number}")


def reports(inbox: Path) -> dict[str, dict[str, Any]]:
    found = Inbox(inbox).reports()
    return {
        path.parent.name if path.name == "report.json" else path.name: json.loads(path.read_text())
        for path in found
    }


def watch(run: Run, inbox: Path, hook: str = "") -> int:
    return Watch(run, Inbox(inbox, settle=0.0), hook, every=0.05).go(once=True)


def test_datasets_are_fed_in_order_of_arrival_and_events_told(
    steps: Steps, tmp_path: Path, capsys: Captured
) -> None:
    run, inbox = steps.copy(0, tmp_path / "run"), tmp_path / "inbox"
    evals = write_dataset(tmp_path / "evals", 0)
    shutil.copytree(tmp_path / "evals" / "images", tmp_path / "images")
    for number in (2, 1):  # dropped in this order, which is not that of their names
        drop(steps, inbox, number, skill="colours")
        time.sleep(0.02)
    (inbox / "broken.json").write_text('[{"id": "1", "conversations": [')
    (inbox / "half.json.part").write_text("[")
    (inbox / "notes.txt").write_text("not a dataset")
    time.sleep(0.02)
    (inbox / "odd.yaml").write_text("skil: colours\n")
    log = tmp_path / "log"
    hook = f'cat >> {log}; echo "|$LIFELONG_EVENT|$LIFELONG_TIMESTEP|$LIFELONG_DATASET" >> {log}; exit 3'
    arguments = [
        "watch",
        str(run.root),
        str(inbox),
        "--settle",
        "0",
        "--every",
        "0.05",
        "--once",
        "--on-event",
        hook,
    ]
    assert invoke(arguments) == 0
    said = capsys.readouterr().err
    assert "4 datasets taken" in said
    assert "the command on done ended with code 3" in said
    with run.reading() as stores:
        assert [(each.name, each.skill) for each in stores.pool.datasets()] == [
            ("set2", "colours"),
            ("set1", "colours"),
        ]
    found = reports(inbox)
    assert [(name, each["event"], each["told"]) for name, each in found.items()] == [
        ("000001-set2", "done", True),
        ("000002-set1", "done", True),
        ("000003-broken.report.json", "refused", True),
        ("000004-odd.report.json", "refused", True),
    ]
    assert found["000001-set2"]["rows"] == {"rows": 8, "accepted": 8, "rejected": 0, "duplicates": 0}
    assert "broken.json" in found["000003-broken.report.json"]["error"]
    assert "skil: no such field" in found["000004-odd.report.json"]["error"]
    assert (inbox / "refused" / "000003-broken" / "broken.json").exists()
    assert sorted(os.listdir(inbox)) == ["half.json.part", "notes.txt", "refused", "taken"]
    events = [line for line in log.read_text().splitlines() if line.startswith("|") or "}|" in line]
    assert [line.rpartition("}")[2] for line in events] == [
        "|done|1|set2",
        "|done|2|set1",
        "|refused||",
        "|refused||",
    ]
    assert (run.status()["timestep"], run.status()["phase"]) == (2, None)
    assert evals.exists()


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, settle=5.0)
    path = tmp_path / "a.json"
    path.write_text("[1")
    os.utime(path, (100, 100))
    assert inbox.ready(0.0, 200.0) is None, "seen for the first time"
    assert inbox.ready(4.0, 204.0) is None
    path.write_text("[1, 2")
    os.utime(path, (204, 204))
    assert inbox.ready(5.0, 205.0) is None, "it has grown"
    assert inbox.ready(9.0, 208.0) is None
    assert inbox.ready(10.1, 210.0).name == "a.json"
    os.utime(path, (211, 211))  # the same size, written again
    assert inbox.ready(11.0, 216.5) is None
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.json").write_text("[]")
    (entry,) = [each for each in inbox.entries() if each.name == "set"]
    before = signature(tmp_path, entry)
    (folder / "images").mkdir()
    (folder / "images" / "1.png").write_text("x")
    assert signature(tmp_path, entry) != before, "a folder is all that is in it"


def test_with_markers_only_what_is_marked_is_taken(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, settle=0.0, marked=True)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "b.json.ready").touch()
    assert inbox.ready(0.0, time.time() + 1).name == "b.json"
    folder = inbox.take(inbox.ready(0.0, time.time() + 1))
    assert sorted(path.name for path in folder.iterdir()) == ["b.json", "entry.json"]
    assert not (tmp_path / "b.json.ready").exists()
    assert inbox.ready(0.0, time.time() + 1) is None


def test_what_is_named_together_moves_together(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("rows.json", "rows-eval.json", "other.json", "pictures/1.png"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "rows.yaml").write_text("skill: colours\nimages: pictures\neval: rows-eval.json\n")
    entries = {entry.name: entry for entry in Inbox(tmp_path).entries()}
    assert set(entries) == {"rows.json", "other.json"}
    assert set(entries["rows.json"].parts) == {"rows.yaml", "rows.json", "rows-eval.json", "pictures"}


@pytest.mark.parametrize("place", ["take", "train", "done", "tell"])
def test_a_watch_that_was_killed_goes_on(place: str, steps: Steps, tmp_path: Path) -> None:
    run, inbox, log = steps.copy(1, tmp_path / "run"), tmp_path / "inbox", tmp_path / "log"
    drop(steps, inbox, 2, skill="others")
    hook = f"echo $LIFELONG_EVENT $LIFELONG_TIMESTEP >> {log}"

    def killed_at_place() -> None:
        from lifelong import loop
        from lifelong.steer import inbox as module

        def die(*_: object, **__: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        if place == "train":
            loop.PHASES["train"] = die  # type: ignore[assignment]
        elif place == "take":
            module._move = die  # type: ignore[assignment]
        elif place == "done":
            Inbox.done = die  # type: ignore[assignment,method-assign]
        else:
            Watch._tell = die  # type: ignore[assignment,method-assign]
        watch(run, inbox, hook)

    assert killed(killed_at_place, 10**9) == -9
    assert not log.exists()
    watch(run, inbox, hook)
    assert log.read_text() == "done 2\n"
    assert [each["event"] for each in reports(inbox).values()] == ["done"]
    with run.reading() as stores:
        assert [each.name for each in stores.pool.datasets()] == ["set1", "set2"]
    assert run.status()["phase"] is None


def test_a_guard_that_trips_is_an_event(steps: Steps, tmp_path: Path) -> None:
    run, inbox, log = steps.copy(1, tmp_path / "run"), tmp_path / "inbox", tmp_path / "log"
    with_guard(run, **IMPOSSIBLE, action="rollback")
    drop(steps, inbox, 2)
    watch(run, inbox, f"echo $LIFELONG_EVENT $LIFELONG_TIMESTEP >> {log}")
    assert log.read_text() == "guard 2\n"
    ((name, report),) = reports(inbox).items()
    assert name == "000001-set2.report.json"
    assert report["verdict"]["action"] == "rolled back"
    assert run.digest() == Run.open(steps.states[1]).digest()


@pytest.mark.parametrize("background", [False, True])
def test_a_service_that_is_told_to_end_ends_and_goes_on_later(
    background: bool, steps: Steps, tmp_path: Path
) -> None:
    """background: Ctrl-C is ignored, as in a job in the background of a script."""
    run, inbox = steps.copy(1, tmp_path / "run"), tmp_path / "inbox"
    inbox.mkdir()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.default_int_handler)
        os._exit(invoke(["watch", str(run.root), str(inbox), "--settle", "0", "--every", "0.05", "-q"]))
    time.sleep(1.0)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    drop(steps, inbox, 2)
    assert watch(run, inbox) == 1
