"""lmms-eval as an external evaluator; the command is a script that obeys its output format (lmms_eval_stub.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifelong import Run
from lifelong.config import LmmsEvalConfig
from lifelong.errors import InputError
from lifelong.evaluate.lmms import Score, read_score
from tests.runs import lmms_eval_stub
from tests.runs.small import feed_entry, small_entry

STUB = f"{sys.executable} {lmms_eval_stub.__file__}"
NewRun = Callable[..., Run]


def test_its_scores_are_those_of_each_timestep_s_model(new_run: NewRun, tmp_path: Path) -> None:
    external = {"command": STUB, "full_marks": {"mme": 2000}}
    training = {"budget": "100%", "batch_size": 2}
    run = new_run(recipe="random", lmms_eval=external, evaluate={"limit": 3}, train=training)
    feed_entry(run, small_entry(tmp_path, "easyvqa", rows=8, evals=4))
    text = small_entry(tmp_path, "tux_caption", rows=8, evals=0)
    feed_entry(run, text, skill="perception", metric="lmms_eval:mme")
    with run.reading() as stores:
        cells = {(c.timestep, c.skill): c for c in stores.ledger.evaluations()}
    assert set(cells) == {(t, skill) for t in range(3) for skill in ("vqa", "perception")}
    for timestep in range(3):
        run.merge(tmp_path / f"merged-{timestep}", timestep)
        cell = cells[timestep, "perception"]
        assert cell.value == pytest.approx(lmms_eval_stub.accuracy(tmp_path / f"merged-{timestep}", "mme"))
        assert (cell.metric, cell.stderr, cell.n) == ("lmms_eval:mme", 0.01, 3)
    assert len({cells[t, "perception"].value for t in range(3)}) == 3
    assert run.skill_matrix().metrics == {"vqa": "exact_match", "perception": "lmms_eval:mme"}
    assert not (run.root / "external").exists()
    assert [each for each in run.fsck() if each.kind == "damaged"] == []
    answers = next(iter((run.root / "timesteps" / "0002").glob("answers*")))
    answers.write_bytes(b"")
    assert [each.done for each in run.repair()] == [True]  # without lmms-eval, which leaves no answers


def test_what_goes_wrong_is_said_and_mended(
    new_run: NewRun, edit_config: Callable[..., None], tmp_path: Path
) -> None:
    run = new_run(recipe="random", lmms_eval={"command": "no-such-lmms-eval"})
    found = small_entry(tmp_path, "easyvqa", rows=8, evals=0)
    with pytest.raises(InputError, match=r"lmms-eval is not installed.*lmms_eval\.command"):
        feed_entry(run, found, metric="lmms_eval:mme")
    assert run.status()["timestep"] == 0
    edit_config(run, lmms_eval={"command": STUB})
    with pytest.raises(InputError, match="has its own eval set"):
        feed_entry(run, small_entry(tmp_path, "easyvqa", rows=8, evals=2), metric="lmms_eval:mme")
    with pytest.raises(InputError, match=r"is [\d.]+, no share of 1; set lmms_eval.full_marks"):
        feed_entry(run, found, metric="lmms_eval:mme")
    edit_config(run, lmms_eval={"full_marks": {"mme": 2000}})
    assert run.resume()
    assert list(run.curves().columns) == ["vqa"]
    other = small_entry(tmp_path, "tux_caption", rows=8, evals=0)
    with pytest.raises(InputError, match=r"(?s)left no results \(exit code 0\).*ValueError: no such split"):
        feed_entry(run, other, skill="x", metric="lmms_eval:broken")


RESULTS: dict[str, Any] = {
    "results": {
        "mmmu": {"alias": "mmmu", "acc,none": 0.5, "acc_stderr,none": "N/A"},
        "a": {"acc,none": 1, "acc_stderr,none": 0.1, "wer,none": 0.2, "note,none": "text"},
        "b": {"gpt_eval_score,flexible": 62.5, "gpt_eval_score_stderr,flexible": 1.5, "samples": 7},
        "none": {"alias": "none", "submission,none": "written to a file"},
    },
    "n-samples": {"a": {"original": 9, "effective": 4}, "c": {"original": 6, "effective": 6}},
    "group_subtasks": {"mmmu": ["a", "c"], "a": []},
    "higher_is_better": {"a": {"acc": True, "wer": False}},
}


@pytest.mark.parametrize(
    ("task", "settings", "expected"),
    [
        ("a", {}, Score(1.0, 0.1, 4)),
        ("mmmu", {}, Score(0.5, float("nan"), 10)),
        ("b", {"full_marks": {"b": 100}}, Score(0.625, 0.015, 7)),
        ("a", {"metric": {"a": "wer"}}, "better the lower it is"),
        ("a", {"metric": {"a": "f1"}}, "no metric 'f1' of task a; .* acc,none, wer,none"),
        ("none", {}, "set lmms_eval.metric in config.yaml to one of none"),
        ("b", {}, r"is 62.5, no share of 1; .*\{b: 100\}"),
        ("z", {}, "no result of task 'z'; it has mmmu, a, b, none"),
    ],
)
def test_a_score_is_read_or_refused_with_what_there_is(
    task: str, settings: dict[str, Any], expected: Score | str
) -> None:
    config = LmmsEvalConfig(**settings)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            read_score(RESULTS, task, config)
    else:
        found = read_score(RESULTS, task, config)
        assert (found.value, found.n) == (expected.value, expected.n)
        assert found.stderr == pytest.approx(expected.stderr, nan_ok=True)
