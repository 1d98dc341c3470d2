from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.candidates import Fresh, New, Pool, Replay
from policies.errors import PolicyError

arrivals = arrays(np.bool_, st.integers(0, 60))
budgets = st.integers(0, 80)


@given(arrivals, budgets, st.floats(0, 1))
def test_budgets_are_exact_and_groups_disjoint(is_new: np.ndarray, budget: int, share: float) -> None:
    for word, eligible in ((Pool(), len(is_new)), (New(), is_new.sum()), (Replay(share), len(is_new))):
        groups = word.groups(is_new, budget)
        assert sum(group.budget for group in groups) == min(budget, eligible)
        assert sum(group.mask.astype(int) for group in groups).max(initial=0) <= 1 if groups else True
        assert all(0 <= group.budget <= group.mask.sum() for group in groups)
        assert all(group.mask.any() for group in groups)


def test_replay_shares_between_old_and_new() -> None:
    is_new = np.array([False] * 10 + [True] * 10)
    old, new = Replay(share=0.3).groups(is_new, 10)
    assert (old.name, old.budget, new.name, new.budget) == ("old", 3, "new", 7)
    np.testing.assert_array_equal(old.mask, ~is_new)
    np.testing.assert_array_equal(new.mask, is_new)


def test_fresh_are_those_that_were_not_trained_on() -> None:
    is_new = np.array([False, False, False, True, True])
    trained = np.array([True, False, True, False, False])
    (fresh,) = Fresh().groups(is_new, 3, trained)
    assert (fresh.name, fresh.budget, fresh.mask.tolist()) == ("fresh", 3, (~trained).tolist())
    fresh, again = Fresh().groups(is_new, 4, trained)
    assert (fresh.budget, again.name, again.budget) == (3, "again", 1)
    assert again.mask.tolist() == trained.tolist()
    (fresh,) = Fresh().groups(is_new, 9)
    assert fresh.budget == 5
    (again,) = Fresh().groups(is_new, 2, np.ones(5, dtype=bool))
    assert (again.name, again.budget) == ("again", 2)


@given(arrivals, budgets, st.randoms(use_true_random=False))
def test_fresh_budgets_are_exact(is_new: np.ndarray, budget: int, random: Random) -> None:
    trained = np.array([random.random() < 0.5 for _ in is_new], dtype=bool)
    groups = Fresh().groups(is_new, budget, trained)
    assert sum(group.budget for group in groups) == min(budget, len(is_new))
    assert all(group.mask.any() and group.budget <= group.mask.sum() for group in groups)


@pytest.mark.parametrize(
    ("olds", "news", "quotas"), [(2, 50, (2, 18)), (50, 2, (18, 2)), (5, 5, (5, 5)), (50, 50, (10, 10))]
)
def test_what_one_group_lacks_goes_to_the_other(olds: int, news: int, quotas: tuple[int, int]) -> None:
    groups = Replay().groups(np.array([False] * olds + [True] * news), 20)
    assert tuple(group.budget for group in groups) == quotas


def test_at_the_first_timestep_all_is_new() -> None:
    (group,) = Replay().groups(np.ones(8, dtype=bool), 5)
    assert (group.name, group.budget) == ("new", 5)


def test_new_leaves_the_past_out() -> None:
    (group,) = New().groups(np.array([False, True, True]), 5)
    assert group.mask.tolist() == [False, True, True]
    assert group.budget == 2


def test_nonsense_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"share is 1\.5"):
        Replay(share=1.5)
    for word in (Pool(), New(), Replay(), Fresh()):
        with pytest.raises(PolicyError, match="budget is -1"):
            word.groups(np.ones(3, dtype=bool), -1)
