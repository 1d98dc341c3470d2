"""The stream of the study that repeats itself and errs: of real rows, as many as there were, each of its kind."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.spoiled import AGAIN, KEPT, KINDS, WRONG, samples, spoil, spoilt
from lifelong.samples import Sample
from lifelong.stream import read_stream
from tests.raters.rule import known
from tests.streams import stream_path


@pytest.fixture(scope="module", params=["easyvqa", "nlvr", "bbh_lang"])
def clean(request: pytest.FixtureRequest) -> list[Sample]:
    return [each.sample for each in known([request.param], rows=60)]


def question(sample: Sample) -> str:
    return str(sample.messages[0]["content"][-1]["text"])


def answer(sample: Sample) -> str:
    return str(sample.messages[-1]["content"][-1]["text"])


def test_kept_rows_are_as_they_were_and_repeats_ask_the_same_in_other_words(clean: list[Sample]) -> None:
    found = list(spoilt(clean, np.random.default_rng(0)))
    by_id = {sample.sample_id: sample for sample in clean}
    kept = [sample for sample, kind in found if kind == KEPT]
    assert all(sample == by_id[sample.sample_id] for sample in kept)
    for sample, kind in found:
        if kind == AGAIN:
            (first,) = (
                each
                for each in kept
                if question(each).strip() in question(sample)
                and answer(each) == answer(sample)
                and each.images == sample.images
            )
            assert question(first) != question(sample)
    assert len({sample.sample_id for sample, _ in found}) == len(found)


def test_a_wrong_answer_is_one_that_another_row_has(clean: list[Sample]) -> None:
    answers = {answer(sample) for sample in clean}
    right = {(question(sample), sample.images): answer(sample) for sample in clean}
    wrong = [sample for sample, kind in spoilt(clean, np.random.default_rng(1)) if kind == WRONG]
    assert wrong
    for sample in wrong:
        assert answer(sample) in answers
        assert answer(sample) != right[question(sample), sample.images]


def test_the_spoiled_stream_has_the_shares_and_the_eval_sets_of_the_clean_one(tmp_path: Path) -> None:
    source = stream_path("real10-mini") / "stream.yaml"
    written = spoil(source, tmp_path)
    kinds = json.loads((tmp_path / KINDS).read_text(encoding="utf-8"))
    total = sum(map(len, written.values()))
    assert Counter(kinds.values())[WRONG] == pytest.approx(0.2 * total, rel=0.1)
    assert Counter(kinds.values())[AGAIN] == pytest.approx(0.3 * total, rel=0.1)
    before, after = (
        yaml.safe_load(path.read_text())["datasets"] for path in (source, tmp_path / "stream.yaml")
    )
    for old, new in zip(before, after, strict=True):
        ids = [[each.sample_id for each in samples(path, entry, "eval")] for path, entry in
               ((source, old), (tmp_path / "stream.yaml", new))]  # fmt: skip
        assert ids[0] == ids[1]
        assert {each.sample_id for each in samples(tmp_path / "stream.yaml", new, "train")} <= kinds.keys()
    assert len(read_stream(tmp_path / "stream.yaml").datasets) == len(before)
