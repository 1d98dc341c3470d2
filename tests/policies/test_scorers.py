from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.errors import PolicyError
from policies.scorers.el2n import EL2N, el2n
from policies.scorers.entropy import Entropy
from policies.scorers.gradient_norm import GraNd
from policies.scorers.grounding import Grounding
from policies.scorers.ifd import IFD
from policies.scorers.perplexity import Perplexity
from policies.scorers.progress import Progress
from policies.scorers.random import Random

logit_rows = arrays(np.float32, (5, 7), elements=st.floats(-50, 50, width=32))


def one_hot_el2n(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.linalg.norm(odds / odds.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[labels], axis=1)


@given(logit_rows, arrays(np.int64, 5, elements=st.integers(0, 6)))
def test_el2n_is_the_distance_to_the_one_hot_answer(logits: np.ndarray, labels: np.ndarray) -> None:
    np.testing.assert_allclose(el2n(logits, labels), one_hot_el2n(logits, labels), rtol=1e-9, atol=1e-12)


@given(logit_rows, arrays(np.int64, 5, elements=st.integers(0, 6)), st.integers(-1000, 1000))
def test_el2n_does_not_change_when_all_logits_shift(
    logits: np.ndarray, labels: np.ndarray, shift: int
) -> None:
    logits = np.round(logits)  # integers shift without rounding
    np.testing.assert_array_equal(el2n(logits, labels), el2n(logits + np.float32(shift), labels))


def test_el2n_keeps_its_digits_when_the_answer_is_nearly_certain() -> None:
    logits, labels = np.array([[40.0, 0.0, 0.0]]), np.array([0])
    # the other two have probability p = e⁻⁴⁰ each, so the distance is √((2p)² + 2p²) = √6 p
    np.testing.assert_allclose(el2n(logits, labels), np.sqrt(6) * np.exp(-40), rtol=1e-12)


def test_el2n_bears_extreme_and_half_precision_logits() -> None:
    logits = np.array([[60000, -60000], [60000, -60000]], dtype=np.float16)
    np.testing.assert_allclose(el2n(logits, np.array([0, 1])), [0, np.sqrt(2)])
    assert el2n(np.zeros((0, 3)), np.zeros(0, int)).shape == (0,)


def test_el2n_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(PolicyError, match=r"outside 0\.\.2; leave masked tokens out"):
        el2n(np.zeros((1, 3)), np.array([-100]))
    with pytest.raises(PolicyError, match=r"want \(tokens, vocabulary\)"):
        el2n(np.zeros((2, 3)), np.array([1]))


def test_each_expert_reads_its_signal(rng: np.random.Generator) -> None:
    signals = {name: rng.random(9).astype(np.float32) for name in ("nll", "el2n", "entropy", "gradient_norm")}
    for scorer, signal in ((Perplexity(), "nll"), (EL2N(), "el2n"), (Entropy(), "entropy")):
        np.testing.assert_array_equal(scorer.score(signals, rng), signals[signal].astype(np.float64))
    np.testing.assert_array_equal(GraNd().score(signals, rng), signals["gradient_norm"].astype(np.float64))


def test_grounding_is_the_ratio_of_perplexities_and_missing_without_an_image(
    rng: np.random.Generator,
) -> None:
    nll = np.array([1.0, 2.0, 0.5, 0.0], np.float32)
    blind = np.array([2.0, 1.0, np.nan, 5000.0], np.float32)
    scores = Grounding().score({"nll": nll, "nll_blind": blind}, rng)
    np.testing.assert_allclose(scores[:2], np.exp(blind[:2]) / np.exp(nll[:2]), rtol=1e-6)
    assert np.isnan(scores[2])
    assert np.isfinite(scores[3])


def test_ifd_is_the_ratio_of_losses_and_missing_where_the_question_misleads(rng: np.random.Generator) -> None:
    signals = {
        "nll": np.array([1.0, 2.0, 0.0, 3.0, 0.0], np.float32),
        "nll_alone": np.array([2.0, 2.0, 1.0, 2.0, 0.0], np.float32),
    }
    np.testing.assert_array_equal(IFD().score(signals, rng), [0.5, 1.0, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(IFD(limit=0).score(signals, rng), [0.5, 1.0, 0.0, 1.5, np.nan])
    with pytest.raises(PolicyError, match="must be 0"):
        IFD(limit=-1)


def test_random_scores_repeat_with_the_seed_and_need_no_pass() -> None:
    signals = {"ordinal": np.arange(50)}
    first, again, other = (Random().score(signals, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first)) == 50


def test_progress_is_what_the_answer_became_likelier_by_and_unknown_for_what_is_new() -> None:
    signals = {"nll": np.array([1.0, 3.0, 2.0]), "nll_before": np.array([1.5, 2.0, np.nan])}
    scores = Progress().score(signals, np.random.default_rng(0))
    np.testing.assert_array_equal(scores, [0.5, -1.0, np.nan])
