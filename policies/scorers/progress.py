"""Learning progress: what a sample's answer has become likelier by since the timestep before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.scorers.base import Scorer


@dataclass(frozen=True, slots=True)
class Progress(Scorer):
    """Fall of the answer's mean negative log-likelihood since the last timestep (nats); below 0: it is being forgotten.

    What has just arrived has no past, and no score. Source of the use of it: teacher-student curriculum learning
    (Matiisen et al. 2017, arXiv 1707.00183), which practises what changes fastest, in whichever direction: see
    `budget mean[absolute=true]`.
    """

    name: ClassVar[str] = "progress"
    needs: ClassVar[tuple[str, ...]] = ("nll", "nll_before")
    paper: ClassVar[str] = "arXiv 1707.00183"
    passes: ClassVar[str] = "one forward"

    def score(self, signals: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        return np.subtract(signals["nll_before"], signals["nll"], dtype=np.float64)
