from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from policies import neighbours
from policies.neighbours import BLOCK, EXACT, NONE, exact, nearest_earlier, projected
from policies.pruners import semdedup

NEAR = 0.95


def planted(n: int, modes: int, d: int = 256, share: float = 0.1) -> np.ndarray:
    """(n, d) float16: unit vectors around `modes` directions; a share are near an earlier one, cosine .95 to .999."""
    rng = np.random.default_rng(modes)
    centres = rng.normal(size=(modes, d))
    vectors = centres[rng.integers(modes, size=n)] + rng.normal(size=(n, d))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in np.sort(rng.choice(np.arange(1, n), int(share * n), replace=False)):
        original, away = vectors[rng.integers(row)], rng.normal(size=d)
        away -= (away @ original) * original
        cosine = rng.uniform(0.952, 0.999)
        vectors[row] = cosine * original + np.sqrt(1 - cosine**2) * away / np.linalg.norm(away)
    return vectors.astype(np.float16)


@pytest.mark.parametrize("modes", [1, 40])
def test_near_duplicates_are_found(modes: int) -> None:
    """One mode is the hardest: noise in all directions, which no cells can tell apart."""
    vectors, rows = planted(8000, modes), np.arange(8000)
    _, largest = exact(vectors, rows, 1024)
    neighbour, similarity = projected(vectors, rows)
    near = largest >= NEAR
    assert near.sum() > 700
    assert (similarity[near] >= largest[near] - 2e-6).mean() >= 0.98
    assert (similarity <= largest + 2e-6).all()
    assert neighbour[0] == NONE
    assert (neighbour[1:] != NONE).all()
    assert (neighbour < rows).all()


def test_a_similarity_is_the_cosine_of_the_pair_that_is_named() -> None:
    vectors = planted(3000, 5)
    order = np.random.default_rng(1).permutation(3000)[:2500]
    neighbour, similarity = projected(vectors, order)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = neighbour != NONE
    cosines = np.einsum("nd,nd->n", unit[order[found]], unit[neighbour[found]])
    np.testing.assert_allclose(similarity[found], cosines, atol=1e-6)
    place = np.full(3000, -1)
    place[order] = np.arange(2500)
    assert (place[neighbour[found]] < place[order[found]]).all()
    assert (place[neighbour[found]] >= 0).all()


def test_few_samples_are_compared_in_all_pairs() -> None:
    vectors = planted(EXACT + 1, 3)
    few = np.arange(EXACT)
    for ours, all_pairs in zip(nearest_earlier(vectors, few, 4096), exact(vectors, few, 100), strict=True):
        np.testing.assert_array_equal(ours, all_pairs)
    many = np.arange(EXACT + 1)
    for ours, found in zip(nearest_earlier(vectors, many, 4096), projected(vectors, many), strict=True):
        np.testing.assert_array_equal(ours, found)
    assert (projected(vectors, few)[1] < exact(vectors, few, 100)[1] - 1e-5).any()


def test_the_first_of_many_duplicates_is_their_neighbour() -> None:
    rng = np.random.default_rng(2)
    originals = rng.normal(size=(30, 64)).astype(np.float32)
    which = np.concatenate([np.arange(30), rng.integers(30, size=3000)])
    vectors = originals[which] * rng.choice([0.1, 1, 3], size=(3030, 1)).astype(np.float32)
    neighbour, similarity = projected(vectors, np.arange(3030))
    np.testing.assert_array_equal(neighbour[30:], which[30:])
    np.testing.assert_array_equal(similarity[30:], 1)
    assert (similarity[:30] < 0.9).all()
    pruned = semdedup(vectors, np.zeros(3030, int), 30)
    assert pruned.kept[:30].all()


def test_zero_vectors_are_like_nothing_and_hide_nobody() -> None:
    vectors = planted(3000, 4)
    _, before = projected(vectors, np.arange(3000))
    mixed = np.zeros((6000, 256), np.float16)
    mixed[::2] = vectors
    neighbour, similarity = projected(mixed, np.arange(6000))
    np.testing.assert_array_equal(similarity[1::2], 0)
    assert (neighbour[1::2] != NONE).all()
    near = before >= NEAR
    assert (similarity[::2][near] >= NEAR).mean() >= 0.98


def test_a_sample_far_from_all_before_it_has_a_neighbour_too() -> None:
    rng = np.random.default_rng(5)
    centres = np.eye(64)[np.r_[np.zeros(BLOCK, int), np.full(6000 - BLOCK, 1)]]
    vectors = (centres + 0.05 * rng.normal(size=(6000, 64))).astype(np.float32)
    neighbour, similarity = projected(vectors, np.arange(6000))
    assert (neighbour[1:] != NONE).all()
    assert similarity[BLOCK] < 0.5 < similarity[BLOCK + 1 :].min()


@pytest.mark.parametrize("d", [3, 7, 48])
def test_short_vectors_are_searched_too(d: int) -> None:
    vectors = np.random.default_rng(3).normal(size=(2000, d)).astype(np.float32)
    vectors[1500:] = vectors[:500] * 2
    neighbour, similarity = projected(vectors, np.arange(2000))
    np.testing.assert_allclose(similarity[1500:], 1, atol=2e-6)
    assert (neighbour[1500:] == np.arange(500)).mean() >= 0.98


def test_memory_grows_with_the_samples_and_not_with_their_pairs() -> None:
    vectors = np.random.default_rng(4).standard_normal((20_000, 64), dtype=np.float32)
    tracemalloc.start()
    try:
        projected(vectors, np.arange(20_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    pairs = 20_000**2 * 4
    assert peak < 20_000 * 4 * neighbours.PROJECTED * 4 < pairs / 50


def test_one_thread_is_at_work_while_samples_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def watched(*arguments: object) -> object:
        threads.extend(pool["num_threads"] for pool in threadpool_info())
        return nearest_earlier(*arguments)

    monkeypatch.setattr("policies.pruners.nearest_earlier", watched)
    with threadpool_limits(2):
        semdedup(np.eye(5), np.zeros(5, int), 3)
        assert {pool["num_threads"] for pool in threadpool_info()} == {2}
    assert set(threads) == {1}


PROGRAM = """
import sys, numpy as np
from policies.pruners import semdedup
rng = np.random.default_rng(0)
vectors = rng.normal(size=(3000, 700)).astype(np.float32)
vectors[2500:] = vectors[:500] + 0.2 * rng.normal(size=(500, 700))
found = semdedup(vectors, np.arange(3000) % 7 // 6, 2000)
sys.stdout.buffer.write(found.kept.tobytes() + found.neighbour.tobytes() + found.similarity.tobytes())
"""


def test_the_number_of_threads_changes_nothing() -> None:
    def digest(threads: int) -> str:
        environment = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=root, env=environment, capture_output=True, check=True
        )
        return hashlib.sha256(done.stdout).hexdigest()

    assert digest(1) == digest(2) == digest(4)
