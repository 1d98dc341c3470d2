from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.allocators import even
from policies.errors import PolicyError
from policies.samplers import CCS, CUT, Bottom, Ends, Middle, Random, Sampler, Top, ccs

SAMPLERS = (CCS(), CCS(strata=3, tails=0.2), Top(), Bottom(), Middle(), Random())

score = st.floats(-10, 10) | st.integers(0, 3).map(float) | st.sampled_from([np.nan, np.inf, -np.inf])
score_rows = arrays(np.float64, st.integers(0, 120), elements=score)
budgets = st.integers(0, 140)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@given(scores=score_rows, budget=budgets, seed=st.integers(0, 99))
def test_the_budget_is_exact_and_nothing_is_picked_twice(
    sampler: Sampler, scores: np.ndarray, budget: int, seed: int
) -> None:
    picked = sampler.pick(scores, budget, np.random.default_rng(seed))
    assert len(picked) == min(budget, len(scores))
    assert len(set(picked.tolist())) == len(picked)
    assert set(picked.tolist()) <= set(range(len(scores)))
    again = sampler.pick(scores, budget, np.random.default_rng(seed))
    np.testing.assert_array_equal(picked, again)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if not isinstance(s, Random)], ids=str)
@given(scores=score_rows, budget=budgets)
def test_missing_scores_come_last(sampler: Sampler, scores: np.ndarray, budget: int) -> None:
    picked = sampler.pick(scores, budget, np.random.default_rng(1))
    missing = ~np.isfinite(scores[picked])
    assert (np.diff(missing.astype(int)) >= 0).all()
    assert missing.sum() == max(0, len(picked) - np.isfinite(scores).sum())


@given(score_rows, budgets)
def test_top_and_bottom_are_sorted(scores: np.ndarray, budget: int) -> None:
    finite = np.sort(scores[np.isfinite(scores)])
    for sampler, ranked in ((Top(), finite[::-1]), (Bottom(), finite)):
        picked = scores[sampler.pick(scores, budget, np.random.default_rng(2))]
        np.testing.assert_array_equal(picked[np.isfinite(picked)], ranked[:budget])


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 9))
def test_middle_is_a_window_around_the_median(n: int, budget: int, seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(n).astype(float)
    budget = min(budget, n)
    picked = np.sort(scores[Middle().pick(scores, budget, np.random.default_rng(seed))])
    np.testing.assert_array_equal(np.diff(picked), 1)
    if budget:
        below, above = picked[0], n - 1 - picked[-1]
        assert abs(below - above) <= 1


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if not isinstance(s, Random)], ids=str)
def test_ties_are_broken_by_the_seed_and_not_by_position(sampler: Sampler) -> None:
    picks = [sampler.pick(np.zeros(100), 10, np.random.default_rng(seed)) for seed in range(200)]
    often = np.bincount(np.concatenate(picks), minlength=100)
    assert often.min() > 3  # 20 on average, standard deviation 4.2
    assert often.max() < 41


def naive_strata(scores: np.ndarray, strata: int, tails: float, ends: str) -> list[int]:
    finite = sorted(s for s in scores if np.isfinite(s))
    if not finite:
        return [CUT] * len(scores)
    cut = int(len(finite) * tails)
    low, high = finite[cut if ends == "both" else 0], finite[len(finite) - 1 - cut]
    return [
        (min(int((s - low) / ((high - low) or 1.0) * strata), strata - 1)) if low <= s <= high else CUT
        for s in scores
    ]


@given(
    score_rows,
    budgets,
    st.integers(1, 60),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from(["both", "high"]),
)
def test_ccs_takes_from_every_stratum_what_the_naive_reference_does(
    scores: np.ndarray, budget: int, strata: int, tails: float, ends: Ends
) -> None:
    expected = naive_strata(scores, strata, tails, ends)
    np.testing.assert_array_equal(CCS(strata, tails, ends).strata_of(scores), expected)
    picked = ccs(scores, budget, np.random.default_rng(3), strata, tails, ends)
    taken = np.array([expected[i] for i in picked], dtype=int)
    available = [expected.count(stratum) for stratum in range(strata)]
    got = np.bincount(taken[taken >= 0], minlength=strata)
    np.testing.assert_array_equal(got, even(np.array(available), budget))
    inside = int(got.sum())
    assert (np.diff(taken[:inside]) <= 0).all()  # highest stratum first
    assert (taken[inside:] == CUT).all()  # and what was cut only after all of them


def test_ccs_covers_a_skewed_distribution_evenly() -> None:
    scores = np.random.default_rng(4).exponential(size=20_000)
    stratum = CCS().strata_of(scores)
    assert (stratum == CUT).sum() == 2000  # 5 % at each end
    assert np.ptp(np.bincount(stratum[stratum >= 0])) > 1000
    picked = ccs(scores, 500, np.random.default_rng(5))
    assert np.bincount(stratum[picked], minlength=50).tolist() == [10] * 50


def test_ccs_may_cut_the_high_end_alone() -> None:
    scores = np.arange(100.0)
    picked = CCS(strata=1, tails=0.3, ends="high").pick(scores, 70, np.random.default_rng(6))
    assert sorted(picked) == list(range(70))


def test_ccs_is_random_inside_a_stratum() -> None:
    scores = np.linspace(0, 1, 200)
    first, second = (set(ccs(scores, 50, np.random.default_rng(seed)).tolist()) for seed in (1, 2))
    assert first != second


def test_only_ccs_has_strata() -> None:
    assert [type(s) for s in SAMPLERS if s.strata_of(np.arange(3.0)) is not None] == [CCS, CCS]


def test_options_and_shapes_are_checked() -> None:
    for options in ({"strata": 0}, {"tails": 0.5}, {"tails": -0.1}):
        with pytest.raises(PolicyError, match="strata must be 1 or more, tails"):
            CCS(**options)
    for sampler in SAMPLERS:
        with pytest.raises(PolicyError, match="budget is -1"):
            sampler.pick(np.zeros(3), -1, np.random.default_rng(0))
        with pytest.raises(PolicyError, match="one per sample"):
            sampler.pick(np.zeros((3, 1)), 1, np.random.default_rng(0))
