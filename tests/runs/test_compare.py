"""`lifelong compare`: what it runs, what it says is noise, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t

from lifelong import Run
from lifelong.account.curves import Curves
from lifelong.cli import invoke
from lifelong.compare.cells import Cell, Plan, _ended, named, ordered, run_cell
from lifelong.compare.page import write_page
from lifelong.compare.results import Result, Results
from lifelong.compare.statistics import estimate
from lifelong.compare.summary import summarise
from lifelong.compare.table import table
from lifelong.errors import UsageError
from lifelong.stream import read_stream
from tests.runs.small import write_stream

DRAWS = 400


def crossed(rng: np.random.Generator, effect: float, units: int = 5, items: int = 60) -> np.ndarray:
    """Differences with noise of runs, of questions, and of their own."""
    runs = rng.normal(0, 0.05, (units, 1))
    questions = rng.normal(0, 0.2, (1, items))
    return effect + runs + questions + rng.normal(0, 0.3, (units, items))


@pytest.mark.parametrize(("effect", "least", "most"), [(0.0, 0.0, 0.10), (0.15, 0.9, 1.0)])
def test_an_interval_leaves_zero_out_where_there_is_something_and_seldom_else(
    effect: float, least: float, most: float
) -> None:
    rng = np.random.default_rng(0)
    clear = [estimate([crossed(rng, effect), crossed(rng, effect)], rng, DRAWS).clear for _ in range(200)]
    assert least <= np.mean(clear) <= most


def test_skills_count_equally_however_many_questions_they_have() -> None:
    found = estimate([np.ones((2, 10)), np.zeros((2, 1000))], np.random.default_rng(0), DRAWS)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_skills_of_unequal_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="one number is needed"):
        estimate([np.ones((2, 3)), np.ones((1, 3))], np.random.default_rng(0))


def test_orders_are_drawn_and_stay(stream: Path) -> None:
    whole = read_stream(stream)
    assert ordered(whole, 0) == whole
    drawn = [[feed.name for feed in ordered(whole, order).datasets] for order in range(1, 6)]
    assert drawn == [[feed.name for feed in ordered(whole, order).datasets] for order in range(1, 6)]
    assert len({tuple(names) for names in drawn}) > 1
    assert all(sorted(names) == sorted(feed.name for feed in whole.datasets) for names in drawn)


def test_no_order_is_drawn_twice_and_no_more_than_there_are(stream: Path) -> None:
    whole = read_stream(stream)
    three = replace(whole, datasets=whole.datasets[:3])
    found = [tuple(feed.name for feed in ordered(three, order).datasets) for order in range(6)]
    assert len(set(found)) == 6
    with pytest.raises(UsageError, match="--orders asks for more than 3 datasets have: 6 at most"):
        ordered(three, 6)
    with pytest.raises(UsageError, match="1 datasets have: 1 at most"):
        ordered(replace(whole, datasets=whole.datasets[:1]), 1)


def result(scores: dict[str, list[float]], before: list[list[float]], questions: str = "") -> Result:
    """A run of two timesteps over the skills `a`, which came first, and `b`."""
    matrix = np.array([*before, [np.mean(each) for each in scores.values()]])
    n = np.full(matrix.shape, 4)
    curves = Curves(
        tuple(scores), dict.fromkeys(scores, "exact_match"), matrix, matrix * 0, n, np.array([1.0, 2.0])
    )
    known = dict.fromkeys(scores, questions) if questions else {}
    arrays = {skill: np.array(values) for skill, values in scores.items()}
    return Result(curves, arrays, {"train": 1.5}, 8, 32, "digest", known)


def results() -> Results:
    """Two seeds of `random` and `mine` at 25 %, one of `multitask`."""
    found = Results(whole=frozenset({"multitask"}))
    found.add(
        Cell("random", "25%", 0, 0), result({"a": [1, 0, 0, 0], "b": [1, 1, 0, 0]}, [[0.0, 0.2], [0.5, 0.3]])
    )
    found.add(
        Cell("random", "25%", 0, 1), result({"a": [1, 1, 0, 0], "b": [1, 1, 1, 0]}, [[0.0, 0.2], [0.4, 0.1]])
    )
    found.add(
        Cell("mine", "25%", 0, 0), result({"a": [1, 1, 1, 0], "b": [1, 1, 0, 0]}, [[0.0, 0.2], [0.9, 0.3]])
    )
    found.add(
        Cell("mine", "25%", 0, 1), result({"a": [1, 1, 0, 0], "b": [0, 0, 0, 0]}, [[0.0, 0.2], [0.7, 0.2]])
    )
    found.add(
        Cell("multitask", "100%", 0, 0), result({"a": [1, 1, 1, 1], "b": [1, 1, 0, 0]}, [[0, 0], [1, 0]])
    )
    return found


def test_every_figure_follows_from_the_scores() -> None:
    lines = {line.recipe: line for line in summarise(results(), "random").lines}
    mine = lines["mine"]
    assert mine.accuracy.mean == pytest.approx(np.mean([0.75, 0.5, 0.5, 0.0]))
    assert mine.difference.mean == pytest.approx(np.mean([0.5, 0.0, 0.0, -0.75]))
    assert mine.difference_by_skill["b"].mean == pytest.approx(-0.375)
    assert mine.relative_gain == pytest.approx(100 * np.mean([0.75 / 1, 0.5 / 0.5, 0.5 / 1, 0.0 / 0.5]))
    lost = [np.mean([0.9 - 0.75, 0.3 - 0.5]), np.mean([0.7 - 0.5, 0.2 - 0.0])]
    assert mine.forgetting == pytest.approx(
        (np.mean(lost), t.ppf(0.975, 1) * np.std(lost, ddof=1) / np.sqrt(2))
    )
    assert mine.backward_transfer[0] == pytest.approx(np.mean([0.75 - 0.9, 0.5 - 0.7]))
    assert mine.forward_transfer[0] == pytest.approx(np.mean([0.3 - 0.2, 0.2 - 0.2]))
    assert lines["multitask"].difference is None
    assert np.isnan(lines["multitask"].forgetting[1])


def test_what_takes_all_samples_can_be_compared_with_at_every_budget() -> None:
    lines = {line.recipe: line for line in summarise(results(), "multitask").lines}
    assert lines["mine"].difference.mean == pytest.approx(np.mean([0.75 - 1, 0.5 - 0.5]))
    assert lines["mine"].difference.units == 1
    found = results()
    found = Results({("random", "100%"): found.found.pop(("random", "25%"))} | found.found)
    lines = {line.recipe: line for line in summarise(found, "random").lines}
    assert lines["mine"].difference is None  # at another budget `random` is another thing


def test_a_gain_over_nothing_is_undefined(tmp_path: Path) -> None:
    found = results()
    found.add(
        Cell("multitask", "100%", 0, 0), result({"a": [1, 1, 1, 1], "b": [0, 0, 0, 0]}, [[0, 0], [1, 0]])
    )
    summary = summarise(found, "random")
    assert all(np.isnan(line.relative_gain) for line in summary.lines)
    assert {line["relative_gain"] for line in summary.to_dict()["lines"]} == {None}
    write_page(summary, "none", tmp_path / "page.html")
    for text in (table(summary).split("accuracy: mean over")[0], (tmp_path / "page.html").read_text()):
        assert not re.search(r"\b(nan|inf)\b", text)


def test_runs_that_answered_other_questions_are_told_apart() -> None:
    found = Results()
    found.add(Cell("random", "25%", 0, 0), result({"a": [1, 0], "b": [1, 0]}, [[0, 0], [0, 0]], "then"))
    fewer = result({"a": [1], "b": [1, 0]}, [[0, 0], [0, 0]], "then")
    others = result({"a": [1, 0], "b": [1, 0]}, [[0, 0], [0, 0]], "now")
    assert found.other_questions(fewer) == "it answered 1 questions of a, and random-25pc-order0-seed0 2"
    assert re.match("it answered other questions of [ab] than random-25pc", found.other_questions(others))
    for same in ("then", ""):  # a file of before has no hashes
        assert not found.other_questions(result({"a": [1, 0], "b": [1, 0]}, [[0, 0], [0, 0]], same))


def test_a_killed_process_is_told_as_what_it_is() -> None:
    run: Future[str] = Future()
    run.set_exception(BrokenProcessPool("terminated abruptly"))
    assert _ended(run).startswith("a process was killed, as happens where memory is short")


@pytest.mark.parametrize("name", ["../mine", "a/b", "''", ".mine"])
def test_a_recipe_whose_name_no_folder_can_have_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"name: {name}\nrecipe: random\n", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be one; give it a `name:`"):
        named(["random", str(tmp_path / "mine.yaml")])


def command(stream: Path, out: Path, model: str, *more: str) -> list[str]:
    settings = ["lora.rank=4", "train.batch_size=4", "train.learning_rate=5e-4", "evaluate.limit=4"]
    sets = [part for setting in settings for part in ("--set", setting)]
    given = ["--recipes", "random,sequential", "--seeds", "2", "--budget", "25%", "--model", model]
    return ["compare", str(stream), "--out", str(out), *given, *sets, "--quiet", *more]


def test_recipes_are_compared_and_a_second_call_runs_nothing(
    tmp_path: Path, llava: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = write_stream(tmp_path / "stream", names=("easyvqa", "tux_caption"), rows=12, evals=4)
    out = tmp_path / "out"
    assert invoke(command(stream, out, llava, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    lines = {line["recipe"]: line for line in told["lines"]}
    assert lines.keys() == {"random", "sequential"}
    assert lines["random"]["difference"] is None
    assert [line["runs"] for line in told["lines"]] == [2, 2]
    accuracy = {name: [] for name in lines}
    for run in json.loads((out / "results.json").read_text())["runs"]:
        root = out / "runs" / f"{run['recipe']}-25pc-order0-seed{run['seed']}"
        assert run["R"] == Run.open(root).skill_matrix().to_dict()["R"]
        accuracy[run["recipe"]].append(np.mean(run["R"][-1]))
        assert Run.open(root).config.seed == run["seed"]
    for name, line in lines.items():
        assert line["accuracy"]["mean"] == pytest.approx(np.mean(accuracy[name]))
    expected = np.mean(accuracy["sequential"]) - np.mean(accuracy["random"])
    assert lines["sequential"]["difference"]["mean"] == pytest.approx(expected)
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert "minus random" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")

    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("timesteps/**/*"))
    assert invoke(command(stream, out, llava)) == 0
    assert "BUDGET 25%" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("timesteps/**/*")) == before

    assert invoke(command(stream, out, llava, "--set", "train.epochs=2")) == 2
    assert "begun with other settings" in capsys.readouterr().err

    # The file is enough: without the runs, on another machine, it is read, and gone on from.
    kept = (out / "results.json").read_text(encoding="utf-8")
    shutil.rmtree(out / "runs")
    assert invoke(command(stream, out, llava, "--read", "--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == told
    assert invoke(command(stream, out, llava, "--recipes", "random,sequential,multitask", "--json")) == 0
    more = json.loads(capsys.readouterr().out)
    assert {line["recipe"]: line["budget"] for line in more["lines"]}["multitask"] == "100%"
    assert {path.name.split("-")[0] for path in (out / "runs").iterdir()} == {"multitask"}
    assert set(kept.splitlines()[4:6]) <= set((out / "results.json").read_text(encoding="utf-8").splitlines())

    # A cell that is run anew gives the same digest.
    (out / "results.json").unlink()
    shutil.rmtree(out / "runs")
    assert invoke(command(stream, out, llava, "--recipes", "random,sequential", "--json")) == 0
    assert digests(out / "results.json") == digests_in(kept)
    capsys.readouterr()


def digests(path: Path) -> dict[tuple[str, int], str]:
    return digests_in(path.read_text(encoding="utf-8"))


def digests_in(text: str) -> dict[tuple[str, int], str]:
    return {(run["recipe"], run["seed"]): run["digest"] for run in json.loads(text)["runs"]}


def test_fewer_questions_before_the_last_timestep_change_no_answer_after_it(
    tmp_path: Path, llava: str
) -> None:
    stream = write_stream(tmp_path / "stream", names=("easyvqa", "tux_caption"), rows=12, evals=4)
    found = {}
    for between in (0, 2):
        out = tmp_path / f"between-{between}"
        assert invoke(command(stream, out, llava, "--seeds", "1", "--between", str(between))) == 0
        found[between] = json.loads((out / "results.json").read_text())["runs"]
        again = command(stream, out, llava, "--seeds", "1", "--between", "3", "--read")
        assert invoke(again) != 0  # other settings
    for whole, less in zip(found[0], found[2], strict=True):
        assert whole["scores"] == less["scores"]
    for between, early in ((0, 4), (2, 2)):
        root = tmp_path / f"between-{between}" / "runs" / "random-25pc-order0-seed0"
        asked = Run.open(root).skill_matrix().n
        assert asked.tolist() == [[early, early], [early, early], [4, 4]]


def test_a_run_that_has_no_memory_leaves_the_others_to_be_run_and_a_mistake_is_not_hidden(
    tmp_path: Path, llava: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = write_stream(tmp_path / "stream", names=("easyvqa",), rows=12, evals=4)
    plan = Plan(stream, tmp_path / "out", named(["random"]), seeds=1, settings={"model": {"path": llava}})
    (cell,) = plan.cells()

    def fails(error: Exception) -> None:
        def run_stream(self: Run, *given: object, **named: object) -> None:
            raise error

        monkeypatch.setattr(Run, "run_stream", run_stream)

    fails(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 MiB."))
    assert run_cell(plan, cell) == "CUDA out of memory."
    fails(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_cell(plan, cell)


def test_recipe_files_are_compared_by_their_names(
    tmp_path: Path, llava: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = write_stream(tmp_path / "stream", names=("easyvqa",), rows=12, evals=4)
    (tmp_path / "mine.yaml").write_text("name: mine\nrecipe: random\ncandidates: new\n", encoding="utf-8")
    recipes = f"random,{tmp_path / 'mine.yaml'}"
    given = command(stream, tmp_path / "out", llava, "--recipes", recipes, "--seeds", "1", "--jobs", "2")
    assert invoke(given) == 0
    assert "mine" in capsys.readouterr().out
    kept = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert kept["recipes"]["mine"].startswith("candidates new")
    (tmp_path / "mine.yaml").write_text("name: mine\nrecipe: random\nsample: top\n", encoding="utf-8")
    assert invoke(given) == 2
    assert "knows mine as another recipe" in capsys.readouterr().err
    assert invoke([*given, "--recipes", f"{recipes},{tmp_path / 'mine.yaml'}"]) == 2
    assert "names mine twice" in capsys.readouterr().err


def test_an_eval_set_that_changed_is_refused_and_nothing_is_lost(
    tmp_path: Path, llava: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream, out = write_stream(tmp_path / "stream", names=("easyvqa",), rows=12, evals=4), tmp_path / "out"
    given = [*command(stream, out, llava, "--seeds", "1"), "--recipes"]
    assert invoke([*given, "random"]) == 0
    kept = (out / "results.json").read_text(encoding="utf-8")
    questions = tmp_path / "stream" / "easyvqa-eval.json"
    questions.write_text(json.dumps(json.loads(questions.read_text())[::-1]), encoding="utf-8")
    assert invoke([*given, "random,sequential"]) == 1
    told = capsys.readouterr().err
    assert "sequential-25pc-order0-seed0: it answered other questions of vqa than random-25pc" in told
    assert (out / "results.json").read_text(encoding="utf-8") == kept
    for text in ("", "[]", '{"runs": []}'):
        (out / "results.json").write_text(text, encoding="utf-8")
        assert invoke([*given, "random", "--read"]) == 1
        assert "results.json is no file of results" in capsys.readouterr().err


def test_orders_that_would_change_what_a_skill_is_asked_are_refused(
    tmp_path: Path, llava: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = write_stream(tmp_path / "stream", names=("easyvqa", "tux_caption"), rows=12, evals=4)
    stream.write_text(stream.read_text().replace("captioning", "vqa"), encoding="utf-8")
    assert invoke(command(stream, tmp_path / "out", llava, "--orders", "2")) == 1
    assert "easyvqa and tux_caption bring eval sets of their own for skill 'vqa'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_said(
    tmp_path: Path, stream: Path, llava: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([*command(stream, tmp_path, llava), "--recipes", "random,nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert invoke([*command(stream, tmp_path, llava), "--against", "el2n"]) == 2
    assert "--against el2n is not among" in capsys.readouterr().err
    assert invoke(command(stream, tmp_path, llava, "--read")) == 1
    assert "random-25pc-order0-seed0: not finished" in capsys.readouterr().out
