from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.errors import PolicyError
from policies.routers import Always, ByChance, ByEntropy, score_entropy

GAUSSIAN = np.random.default_rng(0).normal(size=100_000)

continuous = arrays(np.float64, st.integers(2, 60), elements=st.floats(-100, 100, width=32))
whole_numbers = arrays(np.int64, st.integers(2, 200), elements=st.integers(-20, 20))
factors = st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)


@given(continuous | whole_numbers, factors, st.floats(-3, 3), st.randoms(use_true_random=False))
def test_entropy_is_invariant_to_affine_rescaling_and_to_order(scores, factor, shift, random) -> None:
    spread = np.ptp(scores)
    assume(spread > 1e-3)
    rescaled = scores * factor + shift * spread * factor
    np.testing.assert_allclose(score_entropy(rescaled), score_entropy(scores), rtol=1e-12)
    shuffled = scores[random.sample(range(len(scores)), len(scores))]
    np.testing.assert_allclose(score_entropy(shuffled), score_entropy(scores), rtol=1e-12)


@pytest.mark.parametrize("factor", [1, -1, 0.1, -0.3, 1e5])
@pytest.mark.parametrize("shift", [0, 0.7, -40])
def test_scores_on_an_edge_fall_the_same_way_in_every_unit(factor: float, shift: float) -> None:
    # The mean, 0, is an edge of the middle bins; 1 is less than a bin above it, and nothing is just below.
    scores = np.repeat([0.0, 1.0, -60.0], [10, 60, 1])
    share = np.array([70, 1]) / 71
    expected = -(share * np.log2(share)).sum()
    assert score_entropy(scores * factor + shift) == pytest.approx(expected, abs=1e-12)


def test_entropy_of_a_gaussian_is_the_same_in_every_unit() -> None:
    # differential entropy ½ log₂(2πe), less log₂ of the bin width 8/50
    expected = 0.5 * np.log2(2 * np.pi * np.e) - np.log2(8 / 50)
    for unit in (0.1, 1, 100, -1):
        assert score_entropy(GAUSSIAN * unit) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("unit", "bits"), [(0.1, 5.61), (1, 4.67), (100, 0.0)])
def test_reference_mode_depends_on_the_unit_as_the_released_code_does(unit: float, bits: float) -> None:
    assert score_entropy(GAUSSIAN * unit, mode="reference") == pytest.approx(bits, abs=0.01)


def released_entropy(x: np.ndarray, nbins: int = 50) -> float:
    """The published steps, one by one."""
    x = np.nan_to_num(x)
    deviation = np.std(x)
    x = (x - np.mean(x)) / deviation
    bins = np.linspace(-4 * deviation, 4 * deviation, nbins)
    counts = [np.sum((x > low) & (x <= high)) for low, high in pairwise(bins)]
    share = np.array(counts) / np.sum(counts)
    return float(-np.sum(share[share > 0] * np.log2(share[share > 0])))


@given(arrays(np.float64, st.integers(5, 80), elements=st.floats(0, 5) | st.just(np.nan)))
def test_reference_mode_takes_the_published_steps(scores: np.ndarray) -> None:
    assume(np.std(np.nan_to_num(scores)) > 0.5)
    assert score_entropy(scores, mode="reference") == pytest.approx(released_entropy(scores), abs=1e-12)


def test_reference_bins_are_closed_above_as_the_published_ones() -> None:
    assert score_entropy(np.array([-2.0, 0, 1, 1]), bins=3, mode="reference") == 1.0  # 0 is the middle edge


def test_uniform_bins_give_the_entropy_of_their_counts() -> None:
    assert score_entropy(np.array([0.0, 0, 0, 0, 1, 1, 1, 1])) == pytest.approx(1.0)
    assert score_entropy(np.array([0.0, 0, 0, 1])) == pytest.approx(0.25 * 2 + 0.75 * np.log2(4 / 3))


@pytest.mark.parametrize(
    "scores",
    [
        np.full(9, 0.3),
        np.full(9, np.nan),
        np.zeros(9),
        np.array([]),
        np.array([1.0]),
        np.array([1.0, np.nan]),
        np.array([1.0, 2.0, np.nan, np.nan, np.inf]),
        0.1 * np.arange(1, 9) / np.arange(1, 9),
        1.0 + 1e-12 * np.arange(9),
    ],
    ids=["constant", "nan", "zero", "none", "one", "one-finite", "mostly-missing", "rounded", "near"],
)
def test_scores_that_cannot_rank_never_win(scores: np.ndarray) -> None:
    assert score_entropy(scores) == -np.inf


def test_half_missing_is_still_judged_by_the_rest() -> None:
    assert score_entropy(np.array([1.0, 2.0, np.nan, np.nan])) == 1.0


def test_huge_scores_do_not_overflow() -> None:
    assert score_entropy(np.array([-1.5e308, 1.5e308, 0.0, 1e308])) == 2.0


def test_each_cluster_gets_its_most_informative_expert(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1, 2], 400)
    flat, lively = np.where(rng.random(400) < 0.02, 1.0, 0.0), rng.normal(size=400)
    missing = np.full(400, np.nan)
    scores = {
        "a": np.concatenate([lively, 1e6 * flat, missing]),
        "b": np.concatenate([1e6 * flat, 1e-6 * lively, np.ones(400)]),
    }
    order = rng.permutation(1200)
    shuffled = {name: values[order] for name, values in scores.items()}
    routing = ByEntropy(("a", "b")).route(shuffled, labels[order], rng)
    assert routing.choice == {0: "a", 1: "b", 2: "random"}
    assert routing.values[2] == {"a": -np.inf, "b": -np.inf}
    assert routing.notes == (
        "cluster 2 (400 samples): none of a, b can rank it (scores constant or missing);"
        " it is scored at random",
    )


def test_of_equal_experts_the_first_named_wins(rng: np.random.Generator) -> None:
    values = rng.normal(size=300)
    scores = {"a": values, "b": -2.5 * values + 7}
    labels = np.zeros(300, np.int32)
    assert ByEntropy(("a", "b")).route(scores, labels, rng).choice == {0: "a"}
    assert ByEntropy(("b", "a")).route(scores, labels, rng).choice == {0: "b"}


def test_float32_rounding_of_a_constant_never_wins(rng: np.random.Generator) -> None:
    noise = rng.integers(-2, 3, size=500) * np.finfo(np.float32).eps
    scores = {"constant": 1.0 + noise, "real": rng.exponential(size=500) ** 4}
    routing = ByEntropy(("constant", "real")).route(scores, np.zeros(500, np.int32), rng)
    assert routing.choice == {0: "real"}


def test_reference_mode_lets_a_constant_win(rng: np.random.Generator) -> None:
    scores = {"good": rng.normal(size=100), "constant": np.ones(100)}
    routing = ByEntropy(("good", "constant"), mode="reference").route(scores, np.zeros(100, np.int32), rng)
    assert routing.choice == {0: "constant"}


def test_always_is_always_unless_nothing_was_scored(rng: np.random.Generator) -> None:
    router = Always("grounding")
    assert router.scorers == ("grounding",)
    scores = {"grounding": np.array([1.0, 1.0, np.nan, np.nan, np.nan])}
    routing = router.route(scores, np.array([3, 3, 3, 5, 5]), rng)
    assert routing.choice == {3: "grounding", 5: "random"}
    assert len(routing.notes) == 1
    assert "cluster 5 (2 samples)" in routing.notes[0]


def test_no_samples_no_choice(rng: np.random.Generator) -> None:
    assert Always("a").route({"a": np.zeros(0)}, np.zeros(0, np.int32), rng).choice == {}


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PolicyError, match="names no scorer"):
        ByEntropy(())
    with pytest.raises(PolicyError, match="a scorer twice"):
        ByEntropy(("a", "a"))
    with pytest.raises(PolicyError, match="bins must be 2"):
        ByEntropy(("a",), bins=1)


def test_by_chance_any_expert_that_can_judge_a_cluster_decides_it() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(300), 4)
    blind = np.where(labels < 200, rng.random(len(labels)), np.nan)
    scores = {"el2n": np.where(labels < 250, rng.random(len(labels)), np.nan), "grounding": blind}
    routing = ByChance(("el2n", "grounding")).route(scores, labels, rng)
    both = [routing.choice[cluster] for cluster in range(200)]
    assert 70 < both.count("el2n") < 130
    assert {routing.choice[cluster] for cluster in range(200, 250)} == {"el2n"}
    assert {routing.choice[cluster] for cluster in range(250, 300)} == {"random"}
    assert len(routing.notes) == 50
    with pytest.raises(PolicyError, match="names no scorer"):
        ByChance(())
