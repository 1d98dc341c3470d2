"""How long samples are, for batches in which little is padded."""

from __future__ import annotations

import numpy as np

from stores.pool import Pool


def sample_lengths(pool: Pool, arrays: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """(n,) int64 lengths of some rows of `Pool.arrays`: tokens, where the model's processor has read them all.

    Where it has not, as in a selection that asks nothing of a model, the order of the numbers is all that they say:
    by images, then by characters.
    """
    tokens = pool.tokens(arrays["ordinal"][rows])
    if (tokens > 0).all():
        return tokens
    return arrays["n_images"][rows] * np.int64(100_000) + arrays["text_chars"][rows]
