"""What a scorer is. A new one is a file like its neighbours, and one entry-point line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

# Signals that cost no pass of their own: the sample's position in order of arrival, its cluster (n,) int32, the
# recipe's vectors (n, d), possibly memory-mapped, and its dataset as a number (n,) int64.
FREE_SIGNALS = ("ordinal", "cluster", "vectors", "source")


class Scorer(ABC):
    """An expert on importance: the higher its score, the more useful the sample is to train on.

    Signals, one (n,) array each: `nll` mean negative log-likelihood of the answer tokens (nats); `nll_before` the
    same at the last timestep (NaN for what has arrived since); `nll_blind` the same with the images removed (NaN
    for text-only samples); `nll_alone` the same of the answer alone; `el2n` and `entropy` (nats), means over the
    answer tokens; `gradient_norm`, L2 norm of the sample's gradient; `answer_tokens`, their count; `ordinal`.
    """

    __slots__ = ()

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]  # names of the signals that `score` reads
    paper: ClassVar[str]
    passes: ClassVar[str]  # what measuring those signals costs, in words

    @property
    def keeps_share(self) -> bool:
        """Whether samples that it cannot judge keep their share of a cluster's budget; else they come last."""
        return False

    @property
    def stand_in(self) -> str:
        """The expert that ranks the samples that this one cannot judge; "": chance."""
        return ""

    @abstractmethod
    def score(self, signals: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """Scores: (n,) float64; NaN marks a sample that this expert cannot judge."""


class FittedScorer(Scorer):
    """An expert that is fitted once, and then scores any samples of any pool without being fitted again."""

    __slots__ = ()

    @abstractmethod
    def fit(self, signals: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What fitting leaves: named arrays, all that `score_fitted` needs."""

    @abstractmethod
    def score_fitted(
        self, fitted: Mapping[str, np.ndarray], signals: Mapping[str, np.ndarray], rng: np.random.Generator
    ) -> np.ndarray:
        """Scores: (n,) float64; NaN marks a sample that this expert cannot judge."""

    def describe(self, fitted: Mapping[str, np.ndarray]) -> str:
        """What fitting came to, in a line for the user."""
        return "once, for all that comes"

    def score(self, signals: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """Fit and score the same samples."""
        return self.score_fitted(self.fit(signals, rng), signals, rng)
