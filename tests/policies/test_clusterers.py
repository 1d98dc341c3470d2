from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.clusterers import BySource, KMeans, One
from policies.errors import PolicyError


def blobs(groups: int, n: int, d: int = 32, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around well-separated directions: (n, d) float32, and the group of each."""
    rng = np.random.default_rng(groups)
    centres = np.linalg.qr(rng.normal(size=(d, groups)))[0].T
    group = rng.permutation(np.arange(n) % groups)
    vectors = centres[group] + noise * rng.normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), group


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def test_one_puts_all_together(rng: np.random.Generator) -> None:
    clusters = One().cluster(None, 4, rng)
    assert clusters.labels.tolist() == [0, 0, 0, 0]
    assert clusters.centroids is None


def test_kmeans_finds_separate_groups(rng: np.random.Generator) -> None:
    vectors, group = blobs(6, 600)
    clusters = KMeans(k=6).cluster(vectors, 600, rng)
    assert same_partition(clusters.labels, group)
    assert clusters.labels.dtype == np.int32
    np.testing.assert_allclose(np.linalg.norm(clusters.centroids, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_seeds_are_spread_so_that_no_group_of_many_is_missed(seed: int) -> None:
    """Seeds drawn one by one, without the best of several, miss some of the 30."""
    vectors, group = blobs(30, 3000)
    clusters = KMeans(k=30).cluster(vectors, 3000, np.random.default_rng(seed))
    assert same_partition(clusters.labels, group)


def test_training_ends_when_the_objective_has_settled_or_at_the_limit() -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 6)).astype(np.float32)
    objectives = [
        KMeans(k=20, iterations=limit).cluster(vectors, 3000, np.random.default_rng(1)).objective
        for limit in (1, 2, 20, 10_000)
    ]
    assert objectives[0] > objectives[1] > objectives[2] == pytest.approx(objectives[3], rel=0.02)


@pytest.mark.parametrize("spherical", [True, False])
def test_the_objective_is_the_within_cluster_sum_of_squares(
    rng: np.random.Generator, spherical: bool
) -> None:
    vectors = rng.normal(size=(300, 8)).astype(np.float32)
    clusters = KMeans(k=5, spherical=spherical).cluster(vectors, 300, rng)
    if spherical:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = ((vectors[:, None] - clusters.centroids[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(clusters.labels, distances.argmin(axis=1))
    np.testing.assert_allclose(clusters.objective, distances.min(axis=1).sum(), rtol=1e-4)
    assert clusters.tried == {5: clusters.objective}


@pytest.mark.parametrize("groups", [4, 8])
def test_k_is_found_at_the_elbow(rng: np.random.Generator, groups: int) -> None:
    vectors, group = blobs(groups, 900)
    clusters = KMeans(k="auto").cluster(vectors, 900, rng)
    assert same_partition(clusters.labels, group)
    assert list(clusters.tried) == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert clusters.tried[1] > clusters.tried[groups] > clusters.tried[24]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 12), st.integers(1, 3), st.integers(0, 9))
def test_no_cluster_is_empty_however_few_and_alike_the_samples(n: int, k: int, d: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.integers(1, 3, size=(n, d)).astype(np.float16)  # many exact duplicates
    clusters = KMeans(k=k).cluster(vectors, n, generator)
    found = len(clusters.centroids)
    assert np.unique(clusters.labels).tolist() == list(range(found))
    assert 1 <= found <= min(n, k or n)


def test_no_samples_make_no_clusters(rng: np.random.Generator) -> None:
    clusters = KMeans().cluster(np.zeros((0, 4), np.float32), 0, rng)
    assert clusters.labels.shape == (0,)
    assert clusters.centroids.shape == (0, 4)


def test_a_memory_mapped_array_gives_the_same_clusters(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(500, 16)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    ours, theirs = (KMeans(k=7).cluster(v, 500, np.random.default_rng(3)) for v in (vectors, mapped))
    np.testing.assert_array_equal(ours.labels, theirs.labels)


PROGRAM = """
import sys, numpy as np
from policies.clusterers import KMeans
vectors = np.random.default_rng(0).normal(size=(6000, 96)).astype(np.float32)
clusters = KMeans(k=12, points=300).cluster(vectors, 6000, np.random.default_rng(5))
sys.stdout.buffer.write(clusters.labels.tobytes() + clusters.centroids.tobytes())
"""


def test_the_number_of_threads_changes_nothing() -> None:
    root = Path(__file__).parents[2]

    def digest(threads: int) -> str:
        environment = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=root, env=environment, capture_output=True, check=True
        )
        return hashlib.sha256(done.stdout).hexdigest()

    assert digest(1) == digest(2) == digest(4)


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")])
def test_a_vector_without_direction_is_named(rng: np.random.Generator, value: float, fault: str) -> None:
    vectors = np.ones((50, 3), np.float32)
    vectors[[31, 17]] = value
    with pytest.raises(PolicyError, match=f"row 17 .*{fault}"):
        KMeans().cluster(vectors, 50, rng)


def test_a_zero_vector_is_a_place_when_clusters_are_not_by_angle(rng: np.random.Generator) -> None:
    vectors = np.array([[0, 0], [0, 0], [5, 5], [5, 5]], np.float32)
    clusters = KMeans(k=2, spherical=False).cluster(vectors, 4, rng)
    assert same_partition(clusters.labels, np.array([0, 0, 1, 1]))


def test_kmeans_without_vectors_says_which_word_to_change(rng: np.random.Generator) -> None:
    with pytest.raises(PolicyError, match=r"write e\.g\. vectors gradient"):
        KMeans().cluster(None, 3, rng)
    with pytest.raises(PolicyError, match="1 or more, or auto"):
        KMeans(k=-1)


def test_k_rises_with_the_pool_where_clusters_are_to_keep_their_size(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(600, 3)).astype(np.float32)
    for word, k in ((KMeans(k=4, size=50), 12), (KMeans(k=4, size=1000), 4), (KMeans(k=4), 4)):
        assert word.cluster(vectors, 600, np.random.default_rng(0)).labels.max() + 1 == k


def test_source_makes_a_cluster_of_each_dataset_and_their_means_its_centroids() -> None:
    sources = np.array([7, 3, 7, 3, 9])
    vectors = np.array([[1, 0], [0, 1], [3, 0], [0, np.nan], [5, 5]], dtype=np.float32)
    found = BySource().of(sources, vectors)
    assert found.labels.tolist() == [1, 0, 1, 0, 2]
    assert found.centroids is not None
    assert found.centroids.tolist() == [[0, 0.5], [2, 0], [5, 5]]
    assert BySource().of(sources, None).centroids is None
    with pytest.raises(PolicyError, match="dataset of every sample"):
        BySource().cluster(vectors, 5, np.random.default_rng(0))
