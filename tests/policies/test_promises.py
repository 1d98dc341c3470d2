"""What a word of another package may not return passes for no choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policies import promises
from policies.allocators import All, Even
from policies.candidates import Group
from policies.clusterers import Clusters
from policies.errors import PolicyError
from policies.pruners import NoPruning, Pruned, RandomPruning
from policies.routers import Routing

SIZES = np.array([3, 1, 4])
LABELS = np.array([0, 1, 0])


def partition(labels: Any, centroids: Any = None) -> Clusters:
    return promises.clusters(Clusters(np.asarray(labels), centroids, 0.0), 3)


def kept(mask: Any, neighbour: Any = (-1, -1, -1), keep: int = 2) -> Pruned:
    similarity = np.full(3, np.nan, np.float32)
    return promises.pruned(
        Pruned(np.asarray(mask), np.asarray(neighbour), similarity), 3, keep, RandomPruning()
    )


def grouped(*groups: tuple[Any, int]) -> list[Group]:
    return promises.groups([Group("old", np.asarray(mask), budget) for mask, budget in groups], 3, 2)


def routed(choice: dict[int, str]) -> Routing:
    return promises.routing(Routing(choice, {}), LABELS, ["el2n"])


def quotas(found: Any, budget: int = 4) -> list[int]:
    return promises.quotas(found, SIZES, budget, Even())


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: promises.scores(np.zeros(2), 3), r"returned \(2,\) float64; want 3 scores"),
        (lambda: promises.scores(np.zeros((3, 1)), 3), r"returned \(3, 1\) float64"),
        (lambda: promises.scores(np.zeros(3, complex), 3), "complex128"),
        (lambda: promises.scores(["a", "b", "c"], 3), "3 values in a list"),
        (lambda: promises.scores(None, 3), "returned None"),
        (lambda: promises.clusters(LABELS, 3), r"want policies.clusterers.Clusters"),
        (lambda: partition([0, 1]), r"labels \(2,\) int64; want 3 integers"),
        (lambda: partition([0.0, 1.0, 0.0]), "float64; want 3 integers"),
        (lambda: partition([-1, 0, 1]), "labels -1, 0, 1; want 0 to k - 1"),
        (lambda: partition([0, 5, 0]), "labels 0, 5; want 0 to k - 1 with none left out"),
        (
            lambda: partition([0, 1, 0], np.zeros((3, 2))),
            r"centroids \(3, 2\) float64; want one for each of 2",
        ),
        (lambda: promises.routing({0: "el2n"}, LABELS, ["el2n"]), "want policies.routers.Routing"),
        (lambda: routed({0: "el2n"}), "chose None for cluster 1; want one of el2n, random"),
        (lambda: routed({0: "el2n", 1: "nosuch"}), "chose 'nosuch' for cluster 1"),
        (lambda: grouped(([0, 1, 2], 2)), r"mask \(3,\) int64; want \(3,\) bool"),
        (lambda: grouped(([True, True], 2)), r"mask \(2,\) bool"),
        (lambda: grouped(([True] * 3, 1), ([True, False, False], 1)), "1 samples in more than one group"),
        (lambda: grouped(([True] * 3, 20)), "gives its groups 20 samples of the budget; want 2"),
        (lambda: quotas([1, 1]), "want 3 whole numbers"),
        (lambda: quotas(4), "returned 4; want 3 whole numbers"),
        (lambda: quotas([4 / 3] * 3), "want 3 whole numbers"),
        (lambda: quotas(np.array([np.nan, 1, 1])), "want 3 whole numbers"),
        (lambda: quotas([2, 2, 0]), "3, 1, 4 samples 2, 2, 0; want 0 to the size of each"),
        (lambda: quotas([-1, 1, 4]), "-1, 1, 4; want 0 to the size"),
        (lambda: quotas([3, 1, 4]), "gives the clusters 8 samples in all; the budget is 4"),
        (lambda: quotas([0, 0, 0]), "gives the clusters 0 samples in all; the budget is 4"),
        (lambda: promises.picks(np.arange(3), 3, 2), "picked 3 of 3 samples; want 2"),
        (lambda: promises.picks(np.arange(1), 3, 2), "picked 1 of 3 samples; want 2"),
        (lambda: promises.picks([1, 1], 3, 2), "1, 1, some of them twice"),
        (lambda: promises.picks([2, 3], 3, 2), "picked the samples 2, 3; there are 0 to 2"),
        (lambda: promises.picks([0, -1], 3, 2), "picked the samples 0, -1"),
        (lambda: promises.picks(np.array([True, True]), 3, 2), "bool; want the indices"),
        (lambda: promises.picks(np.array([0.0, 1.0]), 3, 2), "float64; want the indices"),
        (lambda: promises.strata(np.zeros(2, int), 3), r"strata \(2,\) int64; want 3 integers"),
        (lambda: promises.pruned(np.ones(3, bool), 3, 3, NoPruning()), "want policies.pruners.Pruned"),
        (lambda: kept([0, 1, 2]), r"returned as kept \(3,\) int64; want \(3,\) bool"),
        (lambda: kept([False] * 3), "keeps none of 3 samples, and what is pruned is gone for good"),
        (lambda: kept([True] * 3), "keeps 3 samples; there is room for 2"),
        (lambda: kept([True, True, False], (-1, -1, 7)), "neighbours -1 to 7; rows are 0 to 2"),
        (lambda: kept([True, True, False], (-1, -1)), r"neighbours \(2,\) int64"),
        (lambda: promises.weights(()), "one or more in"),
        (lambda: promises.weights((2.0,)), r"weights \(2.0,\); want one or more in \[0, 1\]"),
        (lambda: promises.weights((float("nan"),)), r"weights \(nan,\)"),
        (lambda: promises.weights((1.0, 0.5)), "ascending"),
    ],
)
def test_what_a_word_must_not_return_is_told_with_what_is_wanted(ask: Callable[[], Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        ask()


def test_an_answer_is_taken_in_its_plain_form() -> None:
    scores = promises.scores([1, float("nan"), 3], 3)
    assert scores.dtype == np.float64
    assert np.isnan(scores[1])
    assert partition(LABELS.astype(np.uint8)).labels.dtype == np.int32
    assert promises.picks([2, 0], 3, 2).tolist() == [2, 0]
    assert promises.picks([], 3, 0).dtype == np.int64
    assert promises.picks(np.arange(3), 3, 9).tolist() == [0, 1, 2]
    assert quotas(np.array([1.0, 1.0, 2.0])) == [1, 1, 2]
    assert promises.quotas(SIZES, SIZES, 4, All()) == [3, 1, 4]
    compared = Routing({np.int32(0): "el2n", np.int64(1): "random"}, {np.int64(0): {"el2n": np.float32(1)}})
    told = promises.routing(compared, LABELS, ["el2n"])
    assert (type(told.values[0]["el2n"]), list(map(type, told.choice))) == (float, [int, int])
    assert promises.pruned(
        NoPruning().prune(None, LABELS, 1, np.random.default_rng(0)), 3, 1, NoPruning()
    ).kept.all()
    assert promises.groups([], 3, 2) == []
    assert promises.weights((0.5, 1)) == (0.5, 1.0)
