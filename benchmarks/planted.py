"""A pool as selection meets it, made from a seed: modes of unequal weight, near-duplicates, skewed scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHARE = 0.07  # of the samples are near-duplicates of an earlier one
COSINES = (0.95, 0.999)  # to it, evenly spread


@dataclass(frozen=True, slots=True)
class Pool:
    """n samples, in order of arrival."""

    vectors: np.ndarray  # (n, d) float16, rows of length 1
    duplicates: np.ndarray  # (m,) rows of the planted near-duplicates
    scores: dict[str, np.ndarray]  # (n,) float64 each: ties, long tails, gaps


def pool(n: int, d: int, seed: int, modes: int = 60, block: int = 8192) -> Pool:
    """Gaussians around `modes` directions that have one direction in common, as gradients of one model have."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(modes, 0.5))
    centres = rng.normal(size=(modes, d)) + 0.6 * rng.normal(size=d)
    centres = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
    vectors = np.empty((n, d), dtype=np.float16)
    for start in range(0, n, block):
        part = vectors[start : start + block]
        noise = rng.standard_normal(part.shape, dtype=np.float32) / np.float32(np.sqrt(d))
        spread = rng.uniform(0.7, 1.5, size=(len(part), 1)).astype(np.float32)
        part[:] = unit(centres[rng.choice(modes, len(part), p=weights)] + spread * noise)
    duplicates = np.sort(rng.choice(np.arange(1, n), int(SHARE * n), replace=False))
    for row in duplicates.tolist():
        vectors[row] = near(vectors[rng.integers(row)].astype(np.float32), rng.uniform(*COSINES), rng)
    return Pool(vectors, duplicates, skewed_scores(n, rng))


def near(vector: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """A unit vector, (d,), at the given cosine to `vector`, in a random direction."""
    vector = vector / np.linalg.norm(vector)
    away = rng.standard_normal(len(vector), dtype=np.float32)
    away -= (away @ vector) * vector
    return cosine * vector + np.sqrt(1 - cosine**2) * away / np.linalg.norm(away)


def skewed_scores(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rounded scores with many ties, a long tail, and one that cannot judge a tenth of the samples."""
    grounding = np.exp(rng.normal(scale=0.5, size=n))
    grounding[rng.random(n) < 0.1] = np.nan
    return {
        "el2n": np.round(rng.beta(2, 5, size=n), 2),
        "perplexity": np.exp(rng.normal(size=n) * 1.5),
        "grounding": grounding,
        "grand": rng.pareto(2.0, size=n),
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of (n, d) scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
