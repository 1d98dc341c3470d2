"""Metrics against values known by hand, and the options of real multiple-choice questions."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.evaluate import vqa
from lifelong.evaluate.metrics import METRICS, mean_and_stderr, normalise, parse_box, words
from lifelong.evaluate.options import options_of
from lifelong.evaluate.references import fields_of

STREAMS = Path(os.environ.get("LIFELONG_STREAMS", Path(__file__).parents[3] / "shared" / "streams"))


def score(metric: str, prediction: str, reference: str) -> float:
    return METRICS[metric].score(prediction, reference)


def test_registry_names_its_metrics_and_their_sources() -> None:
    assert sorted(METRICS) == ["anls", "choice", "exact_match", "iou50", "rouge_l", "vqa_accuracy"]
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.source
        assert (metric.kind == "choice") == (metric.max_new_tokens == 0) == (name == "choice")


@pytest.mark.parametrize(
    ("metric", "prediction", "reference", "expected"),
    [
        ("exact_match", "  YES. ", "yes", 1.0),
        ("exact_match", "the  teal\nbox", "The teal box.", 1.0),
        ("exact_match", "STRASSE", "Straße", 1.0),
        ("exact_match", "the yes", "yes", 0.0),
        ("exact_match", "3.5", "35", 0.0),
        ("choice", " B", "B ", 1.0),
        ("choice", "u", "U", 0.0),
        ("anls", "Hello  World", "hello world", 1.0),
        ("anls", "helo", "hello", 1 - 1 / 5),
        ("anls", "abcd", "abxy", 0.0),  # distance 2 of 4 = the threshold: not below it
        ("anls", "abcde", "abcxy", 1 - 2 / 5),
        ("anls", "", "", 1.0),
        ("anls", "", "hello", 0.0),
        ("iou50", "at [0, 0, 1, 1].", "[0, 0, 1, 0.5]", 1.0),  # IoU = 0.5 exactly
        ("iou50", "[0, 0, 1, 1]", "[0, 0, 1, 0.49]", 0.0),
        ("iou50", "[1, .5, 0, 0]", "[0.0, 0.0, 1.0, 0.5]", 1.0),  # corners reversed
        ("iou50", "[0, 0, 1, 1]", "[2, 2, 3, 3]", 0.0),
        ("iou50", "0, 0, 1, 1", "[0, 0, 1, 1]", 0.0),  # no box in brackets
        ("iou50", "[0, 0, 1]", "[0, 0, 1, 1]", 0.0),
        ("rouge_l", "the cat sat", "the cat sat on the mat", 2 * (3 / 3) * (3 / 6) / (3 / 3 + 3 / 6)),
        ("rouge_l", "mat the on", "on the mat", 1 / 3),
        ("rouge_l", "A daffodil!", "a DAFFODIL.", 1.0),
        ("rouge_l", "यह एक नाक है", "यह एक नाक था", 3 / 4),
        ("rouge_l", "ноль один", "два три", 0.0),
        ("rouge_l", "四点", "四点半", 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("rouge_l", "🍎", "🍎", 1.0),
        ("rouge_l", "🍎", "🍐", 0.0),
    ],
)
def test_scores_known_by_hand(metric: str, prediction: str, reference: str, expected: float) -> None:
    assert score(metric, prediction, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "prediction", "references", "expected"),
    [
        ("exact_match", "two", ["2", "Two."], 1.0),
        ("exact_match", "three", ["2", "Two."], 0.0),
        ("anls", "helo", ["goodbye", "hello", "help me"], 1 - 1 / 5),
        ("iou50", "[0, 0, 1, 1]", ["[5, 5, 6, 6]", "[0, 0, 1, 0.6]"], 1.0),
        ("rouge_l", "the cat sat", ["a dog", "the cat sat"], 1.0),
    ],
)
def test_the_best_of_several_references_counts(
    metric: str, prediction: str, references: list[str], expected: float
) -> None:
    assert METRICS[metric].against(prediction, references) == pytest.approx(expected, abs=1e-12)
    assert METRICS[metric].against(prediction, references[::-1]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Two dogs, dont.", "2 dogs don't"),
        ("an apple\n", "apple"),
        ("none", "0"),
        ("yes/no", "yes no"),
        ("yes / no", "yes no"),
        ("1,000 people!", "1000 people"),
        ("3.5", "3.5"),
        ("U.S.", "us"),
        ("10:30", "10:30"),
        ("couldntve", "couldntve"),  # with both apostrophes left out the official list does not know it
        ("couldn'tve", "couldn't've"),
        ("eleven", "eleven"),
        ("a", ""),
    ],
)
def test_answers_are_normalised_as_vqa_does(text: str, expected: str) -> None:
    assert vqa.normalise(text) == expected


@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_accuracy_counts_who_agrees(agreeing: int, expected: float) -> None:
    """Ten annotators: leaving out one who agrees costs a third where three agree."""
    annotators = ["the cat"] * agreeing + [f"dog {number}" for number in range(10 - agreeing)]
    assert METRICS["vqa_accuracy"].against("Cat.", annotators) == pytest.approx(expected, abs=1e-12)


def test_vqa_accuracy_needs_annotators() -> None:
    assert METRICS["vqa_accuracy"].against("2", ["two"] * 4) == 1.0
    with pytest.raises(ValueError, match=r"3 accepted answers, where VQA has ten .*exact_match"):
        METRICS["vqa_accuracy"].against("2", ["two"] * 3)


def test_normalise_drops_one_final_period_only() -> None:
    assert normalise(" Wait.. ") == "wait."
    assert normalise("e.g. this .") == "e.g. this"


def test_words_keep_combining_marks_and_split_chinese_characters() -> None:
    assert words("बाउलिंग, Café_2!") == ["बाउलिंग", "café", "2"]
    assert words("バス停 stop") == ["バ", "ス", "停", "stop"]


@pytest.mark.parametrize("reference", ["the left one", "[0.1, 0.1, 0.1, 0.9]"])
def test_a_reference_that_is_no_box_is_an_error_that_quotes_it(reference: str) -> None:
    with pytest.raises(ValueError, match="iou50") as caught:
        score("iou50", "[0, 0, 1, 1]", reference)
    assert repr(reference) in str(caught.value)


coordinate = st.floats(-10, 10).map(lambda x: round(x, 2))
boxes = (
    st.tuples(coordinate, coordinate, coordinate, coordinate)
    .filter(lambda box: box[0] != box[2] and box[1] != box[3])
    .map(lambda box: f"[{box[0]:.2f}, {box[1]:.2f}, {box[2]:.2f}, {box[3]:.2f}]")
)


@given(st.sampled_from(["exact_match", "choice", "anls", "rouge_l"]), st.text(), st.text())
def test_scores_are_bounded_and_a_perfect_answer_scores_one(
    metric: str, prediction: str, reference: str
) -> None:
    assert 0.0 <= score(metric, prediction, reference) <= 1.0
    assert score(metric, reference, reference) == 1.0


@given(boxes, boxes)
def test_iou_is_symmetric_and_a_perfect_box_scores_one(one: str, other: str) -> None:
    assert score("iou50", one, one) == 1.0
    assert score("iou50", one, other) == score("iou50", other, one)
    x1, y1, x2, y2 = parse_box(one) or (0, 0, 0, 0)
    assert x1 < x2
    assert y1 < y2


@given(st.text())
def test_a_predicted_text_never_breaks_the_box_metric(prediction: str) -> None:
    assert score("iou50", prediction, "[0, 0, 1, 1]") in (0.0, 1.0)


def test_mean_and_standard_error() -> None:
    mean, stderr = mean_and_stderr([0.0, 1.0, 1.0, 0.0])
    assert (mean, stderr) == (0.5, pytest.approx(math.sqrt(1 / 3) / 2))
    mean, stderr = mean_and_stderr(np.array([0.7]))
    assert mean == 0.7
    assert math.isnan(stderr)
    with pytest.raises(ValueError, match="without samples"):
        mean_and_stderr([])


@pytest.mark.parametrize(
    ("question", "reference", "expected"),
    [
        ("Which?\nA. red\nB. dark blue\nC. A.\nAnswer with the letter.", "B", ["A", "B", "C"]),
        ("Which?\nA: red\nB: dark blue", "dark blue", ["red", "dark blue"]),
        ("Which?\nOptions:\n(A) red\n(B) blue", "(A)", ["(A)", "(B)"]),
        ("Which?\n(A) red\n(B) blue", "(B) blue", ["(A) red", "(B) blue"]),
        ("Which?\nA. red\nB. blue", " B\n", ["A", "B"]),
        ("Notes:\n- one\n- two\nWhich?\n- red\n- 3:00 Uhr", "3:00 Uhr", ["red", "3:00 Uhr"]),
        ("Which? Options: 1, 2, dark red.", "dark red", ["1", "2", "dark red"]),
        ("Which? Options: red, red, blue", "blue", ["red", "blue"]),
        ("Which?\nOptions: (A) dark red (B) blue", "B", ["A", "B"]),
        ("Which? (A) dark red (B) blue", "dark red", ["dark red", "blue"]),
        ("Which?\na) red\nb) blue", "b", ["a", "b"]),
        ("Which?\nOptions:\nA. red\n\nB. blue", "B", ["A", "B"]),
        ("Which?\nA. red\nB. blue", "Answer: B", ["Answer: A", "Answer: B"]),
        ("Which?\nA. red\nB. blue\n\nC. green", "B", ["A", "B", "C"]),
        ("Which?\n1. cat\n2. dog", "2", ["1", "2"]),
        ("Which?\n1) cat\n2) dog", "dog", ["cat", "dog"]),
        ("Which?\n(1) cat\n\n(2) dog", "(2)", ["(1)", "(2)"]),
        ("What is it?\n1. cat\n2. dog", "2. dog", ["1. cat", "2. dog"]),
        ("Pick one.\n0. cat\n1. dog\n2. fox", "1", ["0", "1", "2"]),
        ("1. Which animal is it?\n1. cat\n2. dog", "Answer: 1", ["Answer: 1", "Answer: 2"]),
        ("Options: (1) cat, black (2) dog", "2", ["1", "2"]),
        ("Which? (1) cat (2) dog", "cat", ["cat", "dog"]),
        ("Which?\n" + "\n".join(f"{i}. no {i}" for i in range(1, 12)), "11", [str(i) for i in range(1, 12)]),
        ("How many legs?\nOptions:\n1. 4\n2. 6\n3. 8", "2", ["1", "2", "3"]),
        ("How many?\n1. 3\n2. 5", "5", ["3", "5"]),
        ("How many?\n1. 1\n2. 2", "2", ["1", "2"]),
        ("Claims:\n1. it flies\n2. it swims\nWhich is true?\nA. 1\nB. 2", "2", ["1", "2"]),
        ("Claims:\n1. it flies\n2. it swims\nWhich is true?\nA. 1\nB. 2", "B", ["A", "B"]),
    ],
)
def test_options_are_written_as_the_reference_is(question: str, reference: str, expected: list[str]) -> None:
    assert options_of(question, reference) == expected


@pytest.mark.parametrize(
    ("question", "reference", "fault"),
    [
        (
            "How many are animals?\n1. cat\n2. dog\n3. car",
            "2",
            "may be a number in the question's list, or a quantity",
        ),
        ("What is x?\n1. x + y = 3\n2. y = 1", "2", 'write it as "2. y = 1" .*or "Options:" above the list'),
        ("Which number?\n1. 23\n2. 7", "2", "or a quantity"),
        (
            "Which?\nOptions:\n1. 2\n2. 1",
            "1",
            'both the number of an option and the text of one; write it as "1. 2"',
        ),
        ("Which?\nOptions:\n1. 1\n2. 5", "1", "both the number of an option"),
        ("Is it so?\n1. it flies\n2. it swims", "yes", "not one of the options"),
        ("Claims:\n1. a\n2. b\nWhich?\nA. 1 only\nB. 2 only", "1", "not one of the options"),
        ("Which?\n2. cat\n3. dog", "2", "no options found"),
        ("Which?\n1. cat\n2. dog\nor perhaps\n3. fox", "1", "no options found"),
        ("Which?\nA. cat\nB. dog\nor perhaps\nC. fox", "A", "no options found"),
    ],
)
def test_numbers_that_may_mean_something_else_are_refused(question: str, reference: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        options_of(question, reference)


def test_a_list_by_number_of_the_rows_own_options() -> None:
    assert options_of("What is it?\n1. cat\n2. dog", "2", ["dog", "cat"]) == ["1", "2"]
    assert options_of("What is it?\n1. cat\n2. dog", "dog", ["cat", "dog"]) == ["cat", "dog"]
    assert options_of("Steps:\n1. 3\n2. 4", "1", ["1", "2", "3"]) == ["1", "2", "3"]
    with pytest.raises(ValueError, match="both the number of an option and the text of one"):
        options_of("How many?\n1. 3\n2. 1", "1", ["3", "1"])
    with pytest.raises(ValueError, match="not one of the options"):
        options_of("Steps:\n1. wash\n2. cut", "2", ["cat", "dog"])


def test_the_rows_own_options_win_over_the_text() -> None:
    assert options_of("Options: a, b", "c, d", ["c, d", "e"]) == ["c, d", "e"]
    with pytest.raises(ValueError, match="not one of the options"):
        options_of("Options: a, b", "a", ["c", "d"])
    assert options_of("Which?\nA. cat\nB. dog", "B", ["cat", "dog"]) == ["A", "B"]
    with pytest.raises(ValueError, match="not one of the options"):
        options_of("Which?", "B", ["cat", "dog"])  # nobody has shown the model a letter


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("['1', '2']", ["1", "2"]),
        ('["1", "2"]', ["1", "2"]),
        ([1, 2.5, "2"], ["1", "2.5", "2"]),
        ({"1": "cat", "2": "dog"}, ["1", "2"]),
        ({"A": "1", "B": "2", "C": None}, ["1", "2"]),
    ],
)
def test_the_rows_own_options_are_read_as_they_are_spelled(field: object, expected: list[str]) -> None:
    assert options_of("How many?", "2", field) == expected


@pytest.mark.parametrize(
    "field", ["A) 1 B) 2", "2", "", 5, [], ["2", None], [["2"]], [True, "2"], "{'2': 1}"]
)
def test_other_options_of_a_row_are_refused(field: object) -> None:
    with pytest.raises(ValueError, match=r"its `options` are .*write a list of texts"):
        options_of("How many?", "2", field)


def test_a_webdataset_s_fields_are_those_of_its_json() -> None:
    assert fields_of({"0.png": b"", "0.json": b'{"options": ["a", "b"]}'}) == {"options": ["a", "b"]}
    assert fields_of({"0.png": b"", "0.json": b"{}"}) == {}
    assert fields_of({"options": "x"}) == {"options": "x"}
    assert fields_of(None) == {}


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("What colour is it?", "no options found"),
        ("Colour?\nA. red\nC. blue", "no options found"),
        ("Colour?\nA. red\nB. blue", "not one of the options"),
    ],
)
def test_an_unusable_question_is_named_in_the_error(question: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        options_of(question, "green")
    assert repr(question) in str(caught.value)


def eval_rows(dataset: str) -> Iterator[tuple[str, str]]:
    """(question, reference) of every eval row of one of real10's datasets, read without `lifelong`."""
    folder = STREAMS / "real10" / dataset
    if not folder.is_dir():
        pytest.skip(f"real10/{dataset} not found under {STREAMS}; set LIFELONG_STREAMS")
    if dataset == "emoji_multilingual":
        from pyarrow import parquet

        table = parquet.read_table(folder / "eval-00000-of-00001.parquet", columns=["messages"])
        rows = table.to_pylist()
    elif dataset == "bbh_lang":
        rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text("utf-8").splitlines()]
    else:
        rows = json.loads((folder / "eval.json").read_text("utf-8"))
    for row in rows:
        turns = row.get("conversations") or row["messages"]
        question, reference = (turn.get("value") or turn["content"] for turn in turns)
        yield question, reference


@pytest.mark.parametrize(
    ("dataset", "marker", "rows", "sizes"),
    [
        ("puzzlevqa", "", 400, {3, 4}),
        ("emoji_multilingual", "", 500, {4}),
        ("flags_knowledge", "\nA. ", 250, {4}),
        ("tux_caption", "\nA: ", 150, {4}),
        ("bbh_lang", "Options:", 200, {2, 3, 5, 6, 7, 17, 18}),
    ],
)
def test_every_real_question_has_its_options(dataset: str, marker: str, rows: int, sizes: set[int]) -> None:
    found = [
        (options_of(question, reference), reference)
        for question, reference in eval_rows(dataset)
        if marker in question
    ]
    assert len(found) == rows
    assert all(options.count(reference) == 1 for options, reference in found)
    assert {len(options) for options, _ in found} == sizes
