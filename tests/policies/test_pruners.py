from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.allocators import even
from policies.errors import PolicyError
from policies.pruners import NoPruning, Pruned, RandomPruning, SemDeDup, semdedup


def naive(vectors: np.ndarray, clusters: np.ndarray, keep: int) -> Pruned:
    """The whole n × n matrix, in float64, one sample after another."""
    vectors = vectors.astype(np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    cosines = np.round(unit @ unit.T, 6)
    n = len(vectors)
    neighbour, similarity = np.full(n, -1), np.full(n, -1.0)
    for i in range(n):
        earlier = [j for j in range(i) if clusters[j] == clusters[i]]
        if earlier:
            neighbour[i] = max(earlier, key=lambda j: (cosines[i, j], -j))
            similarity[i] = cosines[i, neighbour[i]]
    kept = np.zeros(n, dtype=bool)
    names, sizes = np.unique(clusters, return_counts=True)
    for name, quota in zip(names, even(sizes, keep), strict=True):
        members = sorted(np.flatnonzero(clusters == name), key=lambda i: (similarity[i], i))
        kept[members[:quota]] = True
    return Pruned(kept, neighbour, similarity)


small = st.integers(0, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.float32, (n, 3), elements=st.integers(-2, 2)),  # zeros, duplicates and opposites abound
        arrays(np.int32, n, elements=st.integers(0, 3)),
    )
)


@settings(deadline=None)
@given(small, st.integers(0, 45), st.integers(1, 9))
def test_semdedup_is_the_naive_algorithm_in_blocks(pool, keep: int, block: int) -> None:
    vectors, clusters = pool
    ours, expected = semdedup(vectors, clusters, keep, block=block), naive(vectors, clusters, keep)
    np.testing.assert_array_equal(ours.neighbour, expected.neighbour)
    np.testing.assert_allclose(ours.similarity, expected.similarity, atol=1e-6)
    np.testing.assert_array_equal(ours.kept, expected.kept)
    assert ours.kept.sum() == min(keep, len(vectors))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_the_block_size_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(150, 24)).astype(np.float16)
    vectors[100:] = vectors[:50] * rng.choice([1, 2, 4], size=(50, 1))  # exact duplicates in direction
    clusters = np.zeros(150, np.int32)
    whole = semdedup(vectors, clusters, 100)
    assert not whole.kept[100:].any()
    assert whole.neighbour[100:].tolist() == list(range(50))
    for block in (1, 7, 64, 150):
        parts = semdedup(vectors, clusters, 100, block=block)
        np.testing.assert_array_equal(parts.kept, whole.kept)
        np.testing.assert_array_equal(parts.neighbour[100:], whole.neighbour[100:])
        np.testing.assert_allclose(parts.similarity, whole.similarity, atol=2e-6)


def test_the_first_of_equal_samples_stays() -> None:
    vectors = np.array([[1, 0], [0, 1], [2, 0], [3, 0], [0, 5]], np.float32)
    pruned = semdedup(vectors, np.zeros(5, np.int32), 2)
    assert pruned.kept.tolist() == [True, True, False, False, False]
    assert pruned.neighbour.tolist() == [-1, 0, 0, 0, 1]
    np.testing.assert_allclose(pruned.similarity, [-1, 0, 1, 1, 1], atol=1e-6)


def test_opposites_are_not_redundant_and_zero_vectors_are_like_nothing() -> None:
    vectors = np.array([[1, 0], [-1, 0], [0, 0], [0, 0]], np.float32)
    pruned = semdedup(vectors, np.zeros(4, np.int32), 4)
    np.testing.assert_array_equal(pruned.similarity, [-1, -1, 0, 0])
    assert pruned.neighbour.tolist() == [-1, 0, 0, 0]


def test_keep_may_be_given_for_each_cluster() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    clusters = np.array([5, 9] * 6)
    kept = semdedup(vectors, clusters, np.array([1, 99])).kept
    assert kept[clusters == 5].tolist() == [True] + [False] * 5
    assert kept[clusters == 9].all()
    with pytest.raises(PolicyError, match="2 of them: one per cluster"):
        semdedup(vectors, clusters, np.array([1, 2, 3]))


def test_with_a_threshold_duplicates_go_though_there_is_room(rng: np.random.Generator) -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    kept = SemDeDup(threshold=0.95).prune(vectors, np.zeros(4, np.int32), 4, rng).kept
    assert kept.tolist() == [True, False, True, True]
    with pytest.raises(PolicyError, match="between -1 and 1"):
        SemDeDup(threshold=2.0)


def test_tiny_and_huge_vectors_have_a_direction() -> None:
    vectors = np.array([[1, 2], [1e-38, 2e-38], [1e38, 2e38]], np.float32)
    np.testing.assert_allclose(semdedup(vectors, np.zeros(3, int), 3).similarity, [-1, 1, 1], atol=1e-6)


def test_what_cannot_be_compared_is_refused(rng: np.random.Generator) -> None:
    vectors = np.ones((9, 2), np.float32)
    vectors[[7, 4]] = np.nan
    with pytest.raises(PolicyError, match="semdedup: the vector in row 4 has NaN"):
        semdedup(vectors, np.zeros(9, int), 3)
    with pytest.raises(PolicyError, match="vectors gradient"):
        SemDeDup().prune(None, np.zeros(9, int), 3, rng)
    with pytest.raises(PolicyError, match=r"clusters \(3,\)"):
        semdedup(vectors, np.zeros(3, int), 3)
    for prune in (SemDeDup(), RandomPruning()):
        with pytest.raises(PolicyError, match="must be 0 or more"):
            prune.prune(np.ones((9, 2), np.float32), np.zeros(9, int), -1, rng)


def test_while_there_is_room_nothing_is_measured(rng: np.random.Generator) -> None:
    vectors = np.ones((5, 2), np.float32)
    for pruned in (
        SemDeDup().prune(vectors, np.zeros(5, int), 5, rng),
        NoPruning().prune(vectors, np.zeros(5, int), 1, rng),
    ):
        assert pruned.kept.all()
        assert (pruned.neighbour == -1).all()
        assert np.isnan(pruned.similarity).all()


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 9))
def test_random_pruning_keeps_exactly_so_many(n: int, keep: int, seed: int) -> None:
    kept = RandomPruning().prune(None, np.zeros(n, int), keep, np.random.default_rng(seed)).kept
    assert kept.sum() == min(keep, n)


def test_random_pruning_within_groups_shares_the_room_evenly(rng: np.random.Generator) -> None:
    labels = np.repeat([3, 8, 5], [40, 2, 60])
    kept = RandomPruning(within="source").prune(None, labels, 30, rng).kept
    assert np.bincount(labels[kept], minlength=9)[[3, 8, 5]].tolist() == [14, 2, 14]
    again = RandomPruning(within="source").prune(None, labels, 30, np.random.default_rng(7)).kept
    assert (kept != again).any()
