"""Feeding one dataset after another: skills that come late, copies, bad input, images in place."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lifelong import Callback, Run
from lifelong.cli import invoke
from lifelong.errors import InputError, LifelongError, RunError, UsageError
from lifelong.evaluate.metrics import METRICS
from lifelong.phases.ingest import NothingNewError
from lifelong.progress import Silent
from lifelong.steer.rollback import rollback
from tests.runs.small import (
    NAMES,
    RECIPE,
    SETTINGS,
    answers,
    database,
    decisions,
    entry,
    feed_entry,
    files,
    rows_of,
    settings,
    small_entry,
    write_rows,
    write_stream,
)
from tests.streams import outcomes_of_hostile, stream_path

NewRun = Callable[..., Run]


@pytest.fixture(scope="module")
def fed(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two datasets of two skills, fed one by one; each skill becomes known with its data."""
    folder = tmp_path_factory.mktemp("fed")
    run = Run.create(folder / "run", model=llava, recipe="el2n", config=SETTINGS)
    for name in NAMES[:2]:
        feed_entry(run, small_entry(folder, name))
    return run


def test_a_skill_that_becomes_known_late_is_tested_as_it_was_before(fed: Run) -> None:
    curves = fed.skill_matrix()
    found = json.loads(curves.to_json())
    assert (found["skills"], found["timesteps"]) == (["vqa", "captioning"], [0, 1, 2])
    assert all(None not in row for row in found["R"])
    with fed.reading() as stores:
        after = {record.phase: record.result for record in stores.ledger.phases(2)}["evaluate"]["skills"]
    assert set(after) == {"captioning after 0", "captioning after 1", "vqa after 2", "captioning after 2"}


def test_feeding_one_by_one_is_the_same_run_as_the_stream(fed: Run, new_run: NewRun, tmp_path: Path) -> None:
    together = new_run()
    together.run_stream(write_stream(tmp_path, NAMES[:2]))
    assert answers(fed) == answers(together)
    assert fed.digest() == together.digest()
    # The comparison says something only if each adapter answers in its own way.
    by_timestep = {tuple(answers(fed)[t, "captioning", i] for i in range(4)) for t in (0, 1, 2)}
    assert len(by_timestep) == 3


def test_the_same_dataset_again_changes_nothing_and_says_so(
    copied: Run, stream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = copied.digest(), database(copied), files(copied)
    again = stream.parent / "easyvqa.json"
    with pytest.raises(NothingNewError, match="nothing new: of 24 rows 24 have come before"):
        copied.feed(again, images=entry("easyvqa")["images"])
    assert (copied.digest(), database(copied), files(copied)) == before
    command = ["feed", str(copied.root), str(again), "--images", entry("easyvqa")["images"], "--quiet"]
    assert invoke(command) == 1
    assert "the run is as it was" in capsys.readouterr().err
    assert copied.status()["phase"] is None


def test_a_stream_again_feeds_nothing(copied: Run, stream: Path) -> None:
    before = copied.digest(), database(copied), files(copied)
    copied.run_stream(stream)
    assert (copied.digest(), database(copied), files(copied)) == before


def test_a_stream_stops_at_a_dataset_of_which_no_row_can_be_used(
    new_run: NewRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = write_stream(tmp_path, NAMES[:2], rows=8, evals=0)
    write_rows(tmp_path / f"{NAMES[0]}.json", [{**row, "image": "lost.png"} for row in rows_of(NAMES[0])[:8]])
    run = new_run()
    assert invoke(["run", str(run.root), str(stream), "--quiet"]) == 1
    told = capsys.readouterr().err
    assert f'none of its 8 rows can be used; {NAMES[0]}.json row 0: image "lost.png" not found' in told
    assert run.status()["pool"]["arrived"] == 0
    assert run.status()["phase"] is None


def test_a_known_skill_keeps_its_eval_set_and_says_so(
    copied: Run, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_rows(tmp_path / "more.json", rows_of("easyvqa")[24:32])
    options = ["--images", entry("easyvqa")["images"], "--skill", "vqa", "--eval", entry("easyvqa")["eval"]]
    assert invoke(["feed", str(copied.root), str(train), *options, "--metric", "anls"]) == 0
    told = capsys.readouterr().err
    assert "vqa is tested on the eval set that came with easyvqa, by exact_match; " in told
    assert f"{entry('easyvqa')['eval']} is not used, nor the metric anls" in told


def test_names_that_are_not_utf8_are_refused_before_anything_begins(
    new_run: NewRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = os.fsdecode(b"caf\xe9")
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]
    rows = [{"id": "a", "conversations": turns}]
    plain, file = (write_rows(tmp_path / f"{name}.json", rows) for name in ("plain", strange))
    run = new_run()
    for arguments in (
        ["check", str(file)],
        ["feed", str(run.root), str(file)],
        ["feed", str(run.root), str(plain), "--name", strange],
        ["feed", str(run.root), str(plain), "--skill", strange],
        ["init", str(tmp_path / strange)],
    ):
        assert invoke(arguments) == 1, arguments
        assert r"caf\udce9" in capsys.readouterr().err
    assert run.status()["phase"] is None
    assert not (tmp_path / strange).exists()


def test_new_rows_under_a_known_name_are_a_dataset_of_their_own(copied: Run, tmp_path: Path) -> None:
    release = write_rows(tmp_path / "easyvqa.json", rows_of("easyvqa")[12:32])
    copied.feed(release, images=entry("easyvqa")["images"], skill="vqa")
    with copied.reading() as stores:
        last = stores.pool.datasets()[-1]
        refused = list(stores.pool.refusals(dataset="easyvqa@4"))
    assert (last.name, last.timestep) == ("easyvqa@4", 4)
    assert (last.rows, last.accepted, last.duplicates) == (20, 8, 12)
    assert len(refused) == 12
    # What the pool let go for good does not come back, and says at which timestep it went.
    pruned = [refusal for refusal in refused if "sample pruned at timestep" in refusal.reason]
    assert 0 < len(pruned) < 12
    known = {refusal.of for refusal in pruned}
    assert not known & {row["sample_id"] for row in decisions(copied, 4)}


@pytest.fixture
def hostile() -> Path:
    return stream_path("hostile")


def test_of_a_hostile_dataset_the_good_rows_are_taken(new_run: NewRun, hostile: Path) -> None:
    run = new_run()
    status = run.feed(hostile / "hostile.json", images=hostile / "images")
    assert status["pool"] == {
        "arrived": 31,
        "live": 31,
        "pruned": 0,
        "quarantined": 0,
        "rejected": 28,
        "duplicates": 1,
        "selected": 8,
    }
    expected = outcomes_of_hostile()
    with run.reading() as stores:
        (dataset,) = stores.pool.datasets()
        refused = list(stores.pool.refusals())
        taken = {row.row for row in stores.pool.rows(range(31))}
    assert dataset.rows == dataset.accepted + dataset.rejected + dataset.duplicates == 60
    assert taken == {i for i in range(60) if expected[str(i)]["outcome"] == "accepted"}
    assert {refusal.row: refusal.outcome for refusal in refused} == {
        i: expected[str(i)]["outcome"] for i in range(60) if i not in taken
    }
    assert all(refusal.reason and refusal.fix for refusal in refused)
    assert len(decisions(run, 1)) == 31


@pytest.mark.parametrize(
    "name", ["truncated.json", "not_json.json", "latin1.json", "truncated.parquet", "corrupt.tar"]
)
def test_of_a_broken_file_nothing_is_taken(fed: Run, hostile: Path, name: str) -> None:
    before = fed.digest(), database(fed), files(fed)
    with pytest.raises(InputError, match=f"{name}: .*Nothing of the dataset was taken"):
        fed.feed(hostile / name, images=hostile / "images")
    assert (fed.digest(), database(fed), files(fed)) == before
    assert fed.resume() is False


def test_a_broken_first_dataset_leaves_a_run_that_can_be_fed(
    new_run: NewRun, hostile: Path, tmp_path: Path
) -> None:
    run = new_run()
    with pytest.raises(InputError):
        run.feed(hostile / "truncated.json", images=hostile / "images")
    assert run.status()["timestep"] == 0
    assert feed_entry(run, small_entry(tmp_path, "easyvqa"))["timestep"] == 1


def test_a_dataset_that_does_not_exist_is_the_input_s_fault(fed: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json does not exist"):
        fed.feed(tmp_path / "nowhere.json")
    assert fed.resume() is False


def with_own_images(folder: Path, name: str, rows: list[dict]) -> tuple[Path, Path]:
    """(dataset file, image folder): rows with copies of their images."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (images / row["image"]).write_bytes((Path(entry(name)["images"]) / row["image"]).read_bytes())
    return write_rows(folder / f"{name}.json", rows), images


def test_images_used_in_place_must_stay_where_they_are(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(pool={"media": "reference"})
    rows = rows_of("easyvqa")[:16]
    train, images = with_own_images(tmp_path / "first", "easyvqa", rows)
    run.feed(train, images=images)
    assert not (run.root / "media").exists()

    image = images / rows[5]["image"]
    image.rename(tmp_path / "away.png")
    second, _ = with_own_images(tmp_path / "second", "tux_caption", rows_of("tux_caption")[:16])
    with pytest.raises(RunError, match=f"{image} is missing: the run uses this image"):
        run.feed(second)
    assert run.status()["phase"] == "measure"

    (tmp_path / "away.png").rename(image)
    assert run.resume() is True
    assert run.status()["phase"] is None


def test_images_that_were_copied_are_not_needed_any_more(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    train, images = with_own_images(tmp_path / "first", "easyvqa", rows_of("easyvqa")[:16])
    run.feed(train, images=images)
    images.rename(tmp_path / "away")
    second, _ = with_own_images(tmp_path / "second", "tux_caption", rows_of("tux_caption")[:16])
    assert run.feed(second)["pool"]["live"] == 32


def test_an_eval_set_that_comes_after_its_skill_s_data_does_not_move_the_data_s_arrival(
    new_run: NewRun, tmp_path: Path
) -> None:
    run, whole = new_run(), new_run("whole")
    parts = [rows_of("easyvqa")[:16], rows_of("easyvqa")[16:32]]
    evals = write_rows(tmp_path / "eval.json", rows_of("easyvqa", "eval")[:4])
    told = {"images": entry("easyvqa")["images"], "skill": "vqa"}
    for number, rows in enumerate([parts[0], rows_of("tux_caption")[:16], parts[1]], 1):
        train = write_rows(tmp_path / f"{number}.json", rows)
        given = told if number != 2 else {"images": entry("tux_caption")["images"], "skill": "captioning"}
        run.feed(train, **given, **({"eval": evals} if number == 3 else {}))
        whole.feed(train, **given, **({"eval": evals} if number == 1 else {}))
    found, expected = run.skill_matrix().to_dict(), whole.skill_matrix().to_dict()
    assert found == expected
    assert (found["introduced"], found["forward_transfer"]) == ({"vqa": 1}, {"vqa": 0.0})
    run.rollback(2)
    assert run.skill_matrix().skills == ()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"model": {"path": "another-model"}}, "model"),
        ({"lora": {"rank": 8}}, "lora"),
    ],
    ids=["seed", "model", "lora"],
)
def test_what_the_run_is_made_of_may_not_change(
    copied: Run, edit_config: Callable[..., None], changed: dict, name: str, tmp_path: Path
) -> None:
    before = database(copied)
    edit_config(copied, **changed)
    with pytest.raises(UsageError, match=f"{name} changed since the run began"):
        feed_entry(copied, small_entry(tmp_path, "daquar", evals=0))
    assert database(copied) == before
    assert copied.resume() is False


def test_a_model_that_was_moved_is_the_same_one(
    llava: str, copied: Run, edit_config: Callable[..., None], tmp_path: Path
) -> None:
    there = Run.open(shutil.copytree(copied.root, tmp_path / "there"))
    moved = shutil.copytree(llava, tmp_path / "moved")
    edit_config(copied, model={"path": str(moved)})
    for run in (there, copied):
        feed_entry(run, small_entry(tmp_path, "daquar", evals=0))
    assert copied.digest() == there.digest()
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")
    edit_config(there, model={"path": str(moved)})
    with pytest.raises(UsageError, match="model changed since the run began"):
        feed_entry(there, small_entry(tmp_path, "puzzlevqa", evals=0))


class _Stop(Callback):
    """Stops the timestep when it has measured."""

    def on_phase_end(self, run: Run, timestep: int, record: Any) -> None:
        if record.phase == "measure":
            raise KeyboardInterrupt


def test_a_model_is_moved_while_a_timestep_is_under_way(
    llava: str, edit_config: Callable[..., None], tmp_path: Path
) -> None:
    model = shutil.copytree(llava, tmp_path / "model")
    fed = small_entry(tmp_path, "easyvqa", rows=12, evals=4)
    root, config = tmp_path / "run", settings()
    run = Run.create(root, model=str(model), recipe="el2n", config=config, callbacks=[_Stop()])
    with pytest.raises(KeyboardInterrupt):
        feed_entry(run, fed)
    model = model.rename(tmp_path / "elsewhere")
    run = Run.open(root)
    with pytest.raises(InputError, match=r"there is no such folder.*model\.path"):
        run.resume()
    edit_config(run, model={"path": str(model)})
    assert run.resume()
    whole = Run.create(tmp_path / "whole", model=llava, recipe="el2n", config=config)
    feed_entry(whole, fed)
    assert run.digest() == whole.digest()

    model = model.rename(tmp_path / "later")
    edit_config(run, model={"path": str(model)})
    assert run.merge(tmp_path / "merged") == 1
    assert (tmp_path / "merged" / "model.safetensors").stat().st_mode & 0o044  # others read the folder, too
    (answered,) = (root / "timesteps" / "0001").glob("answers-*")
    answered.unlink()
    assert all(each.done for each in run.repair())
    assert [problem.kind for problem in run.fsck()] == ["edited"]


def test_a_model_named_from_here_is_found_from_elsewhere(
    llava: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(llava).parent)
    run = Run.create(tmp_path / "run", model=Path(llava).name)
    assert run.config.model.path == llava


def test_how_it_trains_may_change(copied: Run, edit_config: Callable[..., None], tmp_path: Path) -> None:
    edit_config(copied, train={"budget": "50%"}, recipe="random")
    feed_entry(copied, small_entry(tmp_path, "daquar", evals=0))
    assert sum(row["selected"] for row in decisions(copied, 4)) == 12


@pytest.mark.parametrize("recipe", ["random", RECIPE], ids=["random", "adapt-inf"])
def test_a_sample_that_the_processor_refuses_is_quarantined(
    model_folders: dict[str, Path], tmp_path: Path, recipe: str | dict[str, str]
) -> None:
    rows = rows_of("easyvqa")[:12]
    rows[7]["conversations"][0]["value"] = "<image>\nWhat does <|image_pad|> stand for?"
    run = Run.create(
        tmp_path / "run", model=str(model_folders["qwen2_5_vl"]), recipe=recipe, config=settings()
    )
    status = run.feed(write_rows(tmp_path / "rows.json", rows), images=entry("easyvqa")["images"])
    assert (status["pool"]["live"], status["pool"]["quarantined"]) == (11, 1)
    table = decisions(run, 1)
    assert len(table) == 12
    (row,) = (row for row in table if row["reason"].startswith("quarantined"))
    assert "the token may not be written out in a message" in row["reason"]
    assert (row["cluster"], row["score"], row["selected"], row["pruned"]) == (None, None, False, False)
    with run.reading() as stores:
        (found,) = stores.pool.find(rows[7]["id"])
    assert (found.status, found.changed, found.sample_id) == ("quarantined", 1, row["sample_id"])
    assert found.reason in row["reason"]
    assert sum(each["selected"] for each in table) == 3


def test_an_eval_row_that_the_processor_refuses_is_on_record_and_the_others_are_tested(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of("easyvqa", "eval")[:4]
    rows[1]["conversations"][0]["value"] = "<image>\nWhat does <|image_pad|> stand for?"
    rows[2]["conversations"][0]["value"] = "<image>\n" + "long " * 5000
    run = Run.create(
        tmp_path / "run", model=str(model_folders["qwen2_5_vl"]), recipe="random", config=settings()
    )
    found = small_entry(tmp_path, "easyvqa", rows=8, evals=0) | {"skill": "vqa"}
    with pytest.raises(
        InputError, match=r"none\.json: no row of the eval set of skill 'vqa' .*none\.json row 0"
    ):
        feed_entry(run, found, eval=write_rows(tmp_path / "none.json", rows[1:3]))
    assert (run.resume(), run.status()["pool"]["arrived"]) == (False, 0)

    feed_entry(run, found, eval=write_rows(tmp_path / "eval.json", rows))
    feed_entry(run, small_entry(tmp_path, "tux_caption", rows=8, evals=0))
    with run.reading() as stores:
        assert [cell.n for cell in stores.ledger.evaluations()] == [2, 2, 2]
        refused = stores.ledger.get_meta("eval_refused/vqa")
    assert [(each["file"], each["row"], each["source_id"]) for each in refused] == [
        ("eval.json", number, rows[number]["id"]) for number in (1, 2)
    ]
    assert "the token may not be written out" in refused[0]["reason"]
    assert "is longer than the model's" in refused[1]["reason"]

    assert run.why(rows[1]["id"])["refused"] == run.why("eval.json:1")["refused"]
    capsys.readouterr()
    assert invoke(["why", str(run.root), "eval.json"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].rsplit(" ", 1)[0] for line in told] == [
        f"eval set of vqa, eval.json row {number}" for number in (1, 2)
    ]


def test_a_run_says_that_one_of_several_answers_is_learnt(new_run: NewRun, tmp_path: Path) -> None:
    said: list[str] = []

    class Told(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    rows = [{"question": f"what {i}?", "answers": ["no", "yes", "yes"][: 1 + i]} for i in range(8)]
    run = new_run(recipe="random", evaluate={"limit": 0})
    run.progress = Told()
    run.feed(write_rows(tmp_path / "rows.json", rows))
    assert "  7 rows have several answers; of each the one given most often is learnt" in said
    with run.reading() as stores:
        found = [row.messages[-1]["content"][0]["text"] for row in stores.pool.rows(range(8))]
    assert found == ["no", "no", *["yes"] * 6]


@pytest.mark.parametrize("metric", ["vqa_accuracy", "anls", "choice"])
def test_eval_rows_with_several_answers(new_run: NewRun, tmp_path: Path, metric: str) -> None:
    """What the rows accept is stored, is what the answers are scored against, and stands beside them."""
    rows: list[dict[str, Any]] = [
        {
            "question": "one",
            "answers": [{"answer": each, "answer_id": i} for i, each in enumerate("abbbcccccc")],
        },
        {"question": "two", "answers": ["yes"] * 10},
        {"question": "three\nA. red\nB. blue", "answer": "A"},
    ]
    refused = {"vqa_accuracy": [2], "anls": [], "choice": [0, 1]}[metric]
    run = new_run(recipe="random", evaluate={"limit": 0})
    text = [{"id": str(i), "conversations": _short(f"Say {i}", str(i))} for i in range(8)]
    evals = write_rows(tmp_path / "eval.json", rows)
    run.feed(write_rows(tmp_path / "rows.json", text), eval=evals, skill="vqa", metric=metric)
    kept = [row for number, row in enumerate(rows) if number not in refused]
    accepted = {"one": list("abbbcccccc") if metric == "vqa_accuracy" else list("abc")}
    accepted["two"] = ["yes"] * 10 if metric == "vqa_accuracy" else []
    with run.reading() as stores:
        items = list(stores.evals.items("vqa"))
        found = stores.ledger.get_meta("eval_refused/vqa") or []
        paths = [run.root / file.committed.path for file in stores.ledger.files() if file.kind == "answers"]
    assert [each["row"] for each in found] == refused
    assert all("accepted answers" in each["reason"] or "no options" in each["reason"] for each in found)
    assert [item.reference["answer"] for item in items] == [
        {"one": "c", "two": "yes"}.get(row["question"], "A") for row in kept
    ]
    assert [item.reference.get("accepted", []) for item in items] == [
        accepted.get(row["question"], []) for row in kept
    ]
    table = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert len(table) == 2 * len(kept)
    for row, item in zip(table, items * 2, strict=True):
        assert row["accepted"] == item.reference.get("accepted", [])
        assert row["reference"] == item.reference["answer"]
        expected = METRICS[metric].against(row["prediction"], row["accepted"] or [row["reference"]])
        assert row["score"] == pytest.approx(expected)


def test_an_eval_row_that_a_smaller_limit_refuses_later_is_named(
    new_run: NewRun, tmp_path: Path, edit_config: Callable[..., None]
) -> None:
    run = new_run(recipe="random")
    feed_entry(run, small_entry(tmp_path, "easyvqa", rows=8, evals=2))
    edit_config(run, model={"max_length": 40})
    text = [{"id": str(i), "conversations": _short(f"Say {i}", str(i))} for i in range(8)]
    with pytest.raises(InputError, match=r"eval sample \w{32}: .*put model\.max_length in config\.yaml back"):
        run.feed(write_rows(tmp_path / "text.json", text))
    with run.writing() as stores:
        rollback(stores, 1)
    edit_config(run, model={"max_length": 0})
    assert run.feed(tmp_path / "text.json")["phase"] is None


def _short(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def test_a_dataset_of_which_nothing_can_be_measured_can_be_given_up(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    rows = rows_of("easyvqa")[:4]
    for row in rows:
        row["conversations"][0]["value"] = f"<image>\nWhat does <|image_pad|> stand for in {row['id']}?"
    run = Run.create(
        tmp_path / "run", model=str(model_folders["qwen2_5_vl"]), recipe="random", config=settings()
    )
    way = f"`lifelong rollback {run.root} --to 0` gives timestep 1 up"
    faulty = write_rows(tmp_path / "faulty.json", rows)
    with pytest.raises(InputError, match="none of 4 samples can be measured") as caught:
        run.feed(faulty, images=entry("easyvqa")["images"])
    assert way in str(caught.value)
    found = small_entry(tmp_path, "easyvqa", rows=8, evals=0)
    with pytest.raises(RunError, match="is unfinished") as caught:
        feed_entry(run, found)
    assert way in str(caught.value)
    run.rollback(0)
    assert feed_entry(run, found)["pool"]["live"] == 8


def test_an_eval_set_may_have_images_and_a_format_of_its_own(new_run: NewRun, tmp_path: Path) -> None:
    rows = rows_of("easyvqa", "eval")[:2]
    found, images = with_own_images(tmp_path / "tested", "easyvqa", rows)
    lines = found.with_suffix(".jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, shown = with_own_images(tmp_path / "learned", "tux_caption", rows_of("tux_caption")[:8])
    pictures = ("--images", shown, "--format", "llava")
    tested = ("--eval", lines, "--eval-images", images.rename(tmp_path / "shown"), "--eval-format", "jsonl")
    run = new_run(recipe="random")
    for command in ("plan", "feed"):
        assert invoke([command, *map(str, (run.root, train, *pictures, *tested))]) == 0
    with run.reading() as stores:
        assert [cell.n for cell in stores.ledger.evaluations()] == [2, 2]


def test_a_model_that_cannot_be_loaded_shows_before_anything_is_fed(
    llava: str, tmp_path: Path, edit_config: Callable[..., None]
) -> None:
    run = Run.create(tmp_path / "run", recipe="random", config=settings())
    rows = small_entry(tmp_path, "easyvqa", rows=8, evals=0)
    with pytest.raises(InputError, match=r"no model is named; set model\.path"):
        feed_entry(run, rows)
    edit_config(run, model={"path": str(tmp_path / "typo")})
    with pytest.raises(InputError, match="typo' cannot be loaded"):
        feed_entry(run, rows)
    assert run.status()["pool"]["arrived"] == 0
    edit_config(run, model={"path": llava}, seed=3)
    assert feed_entry(run, rows)["pool"]["live"] == 8


def test_a_metric_that_does_not_exist_leaves_the_run_as_it_was(fed: Run, tmp_path: Path) -> None:
    before = database(fed), files(fed)
    with pytest.raises(LifelongError, match="bogus"):
        feed_entry(fed, small_entry(tmp_path, "daquar"), metric="bogus")
    assert fed.resume() is False  # which clears away the images that were written
    assert (database(fed), files(fed)) == before


def test_a_run_can_be_told_apart_from_any_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        Run.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not empty"):
        Run.create(tmp_path)
