"""Samples that an expert cannot judge: who stands in, and how a cluster's budget is parted."""

from __future__ import annotations

import numpy as np
import pytest

from lifelong.config import parse_config
from lifelong.errors import UsageError
from lifelong.measure.pool import Measured
from lifelong.phases.route import _with_stand_ins
from lifelong.phases.select import _parts
from lifelong.recipes.method import Method, method

NAN = np.nan


def built(router: str, **options: str) -> Method:
    recipe = {"recipe": "scalselect", "router": router}
    return method(recipe, parse_config({"recipe": recipe, "experts": {"scalselect": options}}))


def test_the_stand_in_is_measured_and_the_router_does_not_choose_it() -> None:
    words = built("entropy[scalselect el2n]", score_by="perplexity")
    assert list(words.scorers) == ["scalselect", "el2n", "perplexity"]
    assert words.router.scorers == ("scalselect", "el2n")
    assert {"attended", "el2n", "nll"} <= words.measures.signals
    assert list(built("entropy[scalselect perplexity]", score_by="perplexity").scorers) == [
        "scalselect",
        "perplexity",
    ]
    with pytest.raises(UsageError, match="unknown word in scorers 'nobody'"):
        built("always[scalselect]", score_by="nobody")


def test_the_stand_in_ranks_and_is_compared_only_where_there_is_nothing_else() -> None:
    words = built("always[scalselect]", score_by="perplexity")
    scores = {
        "scalselect": np.array([0.1, NAN, 0.3, NAN, NAN]),
        "perplexity": np.array([5.0, 4.0, 3.0, 2.0, 1.0]),
    }
    ranking, compared = _with_stand_ins(words, scores, np.array([0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(ranking["scalselect"], [0.1, 4.0, 0.3, 2.0, 1.0])
    np.testing.assert_array_equal(compared["scalselect"], [0.1, NAN, 0.3, 2.0, 1.0])
    np.testing.assert_array_equal(scores["scalselect"], [0.1, NAN, 0.3, NAN, NAN])
    assert ranking["perplexity"] is compared["perplexity"] is scores["perplexity"]


@pytest.mark.parametrize(
    ("apart", "quota", "expected"),
    [
        ([0, 0, 0, 0], 3, [([10, 11, 12, 13], 3)]),
        ([1, 1, 1, 1], 3, [([10, 11, 12, 13], 3)]),
        ([0, 1, 0, 0], 2, [([10, 12, 13], 2), ([11], 0)]),
        ([0, 1, 0, 1], 2, [([10, 12], 1), ([11, 13], 1)]),
        ([0, 1, 0, 0], 4, [([10, 12, 13], 3), ([11], 1)]),
    ],
)
def test_a_clusters_budget_is_parted_by_size(
    apart: list[int], quota: int, expected: list[tuple[list[int], int]]
) -> None:
    rows = np.arange(10, 14)
    mask = np.zeros(20, dtype=bool)
    mask[rows] = np.array(apart, dtype=bool)
    assert [(part.tolist(), share) for part, share in _parts(rows, mask, quota)] == expected


def test_hidden_states_of_any_size_are_kept_whole() -> None:
    arrays = {"attended": np.full((2, 3), 1e5, np.float32), "gradient": np.ones((2, 3), np.float32)}
    stored = Measured(np.arange(2), arrays).to_arrays("float16")
    assert stored["gradient"].dtype == np.float16
    np.testing.assert_array_equal(stored["attended"], arrays["attended"])
    assert stored["attended"].dtype == np.float32
