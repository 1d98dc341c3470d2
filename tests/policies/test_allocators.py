from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allocators import (
    All,
    ClusterFacts,
    Density,
    Even,
    Mean,
    Proportional,
    Spread,
    Whole,
    even,
    proportional,
    weighted,
)
from policies.errors import PolicyError

size_rows = st.lists(st.integers(0, 1000), max_size=12).map(lambda row: np.array(row, dtype=np.int64))
budgets = st.integers(0, 5000)


def check_exact(quotas: np.ndarray, sizes: np.ndarray, budget: int) -> None:
    assert quotas.dtype == np.int64
    assert quotas.sum() == min(budget, sizes.sum())
    assert (quotas >= 0).all()
    assert (quotas <= sizes).all()


@pytest.mark.parametrize("share", [even, proportional])
@given(sizes=size_rows, budget=budgets)
def test_shares_are_exact(share: Callable, sizes: np.ndarray, budget: int) -> None:
    check_exact(share(sizes, budget), sizes, budget)


@given(st.data(), size_rows, budgets)
def test_weighted_shares_are_exact(data: st.DataObject, sizes: np.ndarray, budget: int) -> None:
    weight = st.floats(0, 1e300) | st.just(0.0) | st.just(np.nan) | st.integers(0, 5).map(float)
    weights = np.array(data.draw(st.lists(weight, min_size=len(sizes), max_size=len(sizes))))
    check_exact(weighted(sizes, budget, weights), sizes, budget)


@given(size_rows, budgets)
def test_even_is_a_water_level(sizes: np.ndarray, budget: int) -> None:
    """No cluster has two fewer than another unless it has given all it has."""
    quotas = even(sizes, budget)
    short = quotas < sizes
    if short.any():
        assert quotas.max() - quotas[short].min() <= 1


@given(size_rows, budgets, st.randoms(use_true_random=False))
def test_even_does_not_depend_on_the_order_of_clusters(sizes: np.ndarray, budget: int, random) -> None:
    order = random.sample(range(len(sizes)), len(sizes))
    ours, theirs = even(sizes, budget), even(sizes[order], budget)
    assert sorted(zip(sizes, ours, strict=True)) == sorted(zip(sizes[order], theirs, strict=True))


@given(size_rows, budgets)
def test_proportional_is_within_one_of_the_true_share(sizes: np.ndarray, budget: int) -> None:
    total = max(1, sizes.sum())
    quotas = proportional(sizes, budget)
    assert (np.abs(quotas * total - min(budget, sizes.sum()) * sizes) < total).all()


def test_even_spreads_the_shortfall_over_the_larger() -> None:
    assert even([2, 100, 50, 10], 60).tolist() == [2, 24, 24, 10]
    assert even([5, 5, 5], 10).tolist() == [3, 3, 4]


def test_the_larger_remainder_is_served_first() -> None:
    assert proportional([10, 30], 5).tolist() == [1, 4]
    assert proportional([30, 10], 5).tolist() == [4, 1]


def test_weighted_gives_what_one_cannot_hold_to_the_others() -> None:
    assert weighted([3, 100, 100], 63, [10, 1, 2]).tolist() == [3, 20, 40]
    assert weighted([100, 5, 5], 30, [0, 1, 1]).tolist() == [20, 5, 5]
    assert weighted([9, 9], 6, [0, 0]).tolist() == [3, 3]
    assert weighted([9, 9], 6, [np.nan, 2]).tolist() == [0, 6]


def test_words() -> None:
    sizes = np.array([10, 30])
    facts = ClusterFacts(np.array([3.0, 1.0]), np.array([1.0, 1.0]), np.array([1.0, 3.0]))
    assert Even().allocate(sizes, 8).tolist() == [4, 4]
    assert Proportional().allocate(sizes, 8).tolist() == [2, 6]
    assert Whole().allocate(np.array([30]), 8).tolist() == [8]
    assert Whole().allocate(sizes, 8).tolist() == [2, 6]
    assert All().allocate(sizes, 8).tolist() == [10, 30]
    assert Spread().allocate(sizes, 8, facts).tolist() == [6, 2]
    assert Density().allocate(sizes, 8, facts).tolist() == [2, 6]


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(PolicyError, match="budget is -1"):
        even([3], -1)
    with pytest.raises(PolicyError, match="integers ≥ 0"):
        even([-3], 1)
    for weights in ([1.0], [1.0, -1.0], [1.0, np.inf]):
        with pytest.raises(PolicyError, match="one finite weight ≥ 0 for each of 2"):
            weighted([3, 3], 1, weights)
    with pytest.raises(PolicyError, match="clusters kmeans"):
        Density().allocate(np.array([3]), 1)
    with pytest.raises(PolicyError, match="needs the scores"):
        Spread().allocate(np.array([3]), 1)


def test_mean_gives_more_where_scores_are_higher_whatever_the_size() -> None:
    sizes = np.array([100, 20, 50, 10])
    scores = [np.full(100, 0.1), np.full(20, 0.3), np.array([0.2, np.nan] * 25), np.full(10, np.nan)]
    zeros = np.zeros(4)
    facts = ClusterFacts(zeros, zeros, zeros, scores=scores)
    assert Mean().allocate(sizes, 30, facts).tolist() == [5, 15, 10, 0]
    assert Mean(power=0).allocate(sizes, 30, facts).tolist() == [8, 8, 7, 7]
    assert Mean().allocate(sizes, 175, facts).sum() == 175
    with pytest.raises(PolicyError, match="needs the scores"):
        Mean().allocate(sizes, 1)
    with pytest.raises(PolicyError, match="power is -1"):
        Mean(power=-1)
