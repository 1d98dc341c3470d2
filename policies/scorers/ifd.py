"""Instruction-Following Difficulty: how little the question helps the model to its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.errors import PolicyError
from policies.scorers.base import Scorer


@dataclass(frozen=True, slots=True)
class IFD(Scorer):
    """Loss of the answer over its loss without question and image.

    limit: above it the question makes the answer less likely, and the sample is taken for one whose answer belongs to
    another question, that cannot be judged (NaN); 0: none. An answer that is sure by itself cannot be judged either.

    Source: Li et al., arXiv 2308.12032, and its released code, which drops what is above 1
    (https://github.com/tianyi-lab/Cherry_LLM). "Superfiltering" (arXiv 2402.00530) takes the ratio of perplexities.
    """

    limit: float = 1.0

    name: ClassVar[str] = "ifd"
    needs: ClassVar[tuple[str, ...]] = ("nll", "nll_alone")
    paper: ClassVar[str] = "arXiv 2308.12032"
    passes: ClassVar[str] = "one forward, and one more of the answers alone"

    def __post_init__(self) -> None:
        if not self.limit >= 0:
            raise PolicyError(f"ifd[limit={self.limit}]: must be 0 (no limit) or more")

    def score(self, signals: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        loss, alone = (signals[name].astype(np.float64) for name in ("nll", "nll_alone"))
        scores = np.divide(loss, alone, where=alone > 0, out=np.full(len(loss), np.nan))
        return np.where(scores <= self.limit, scores, np.nan) if self.limit else scores
