"""Routers: which expert scores which cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from policies.arrays import members
from policies.errors import PolicyError

Mode = Literal["paper", "reference"]

_SIDE = 4.0  # the histogram spans ±4 standard deviations
_EDGE = 1e-6  # of a bin: a score this near to an edge is on it, whatever rounding its rescaling brought


def score_entropy(
    scores: np.ndarray, bins: int = 50, mode: Mode = "paper", resolution: float = 1e-9
) -> float:
    """Shannon entropy in bits of the histogram of a cluster's scores: the higher, the more they tell apart.

    scores: (n,). They are standardised, then binned into `bins` equal widths over ±4 (what lies outside falls
    into the end bins). The result does not change under any affine rescaling, negative scale included: a
    score on an edge goes to the bin above, the histogram is taken both ways round, and the lower counts.

    Returns −inf, which never wins, when the scores cannot rank the cluster: fewer than two are finite; more
    than half are not; or they are constant, their spread being at most `resolution` × the largest magnitude.

    `mode="reference"` gives what the released code does: missing scores as 0, edges at ±4 × the RAW standard
    deviation (`bins` of them), scores outside dropped, NaN for a constant or when all lie outside.
    Source: Adapt-∞ (arXiv 2410.10636), multi-way pruning; `data_selection/adapt-inf.py`, get_dist_entropy.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if mode == "reference":
        return _reference_entropy(scores, bins)
    finite = scores[np.isfinite(scores)]
    if len(finite) < 2 or 2 * len(finite) < len(scores):
        return -np.inf
    low, high = finite.min(), finite.max()
    centre, half_spread = low / 2 + high / 2, high / 2 - low / 2
    if half_spread <= resolution / 2 * max(abs(low), abs(high)):
        return -np.inf
    unit = (finite - centre) / half_spread  # in [-1, 1]: squares of huge scores would overflow
    standard = (unit - unit.mean()) / unit.std()
    return min(_histogram_entropy(standard, bins), _histogram_entropy(-standard, bins))


def _histogram_entropy(standard: np.ndarray, bins: int) -> float:
    position = (standard + _SIDE) * (bins / (2 * _SIDE))
    edge = np.rint(position)
    position = np.where(np.abs(position - edge) < _EDGE, edge, position)
    bin_of = np.clip(np.floor(position), 0, bins - 1).astype(np.int64)
    return _entropy(np.bincount(bin_of, minlength=bins))


def _reference_entropy(scores: np.ndarray, bins: int) -> float:
    scores = np.nan_to_num(scores)
    deviation = scores.std()
    if deviation == 0:
        return np.nan
    standard = np.sort((scores - scores.mean()) / deviation)
    edges = np.linspace(-_SIDE * deviation, _SIDE * deviation, bins)
    counts = np.diff(np.searchsorted(standard, edges, side="right"))
    return _entropy(counts) if counts.any() else np.nan


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-np.sum(share * np.log2(share))) + 0.0  # + 0.0: no negative zero


@dataclass(frozen=True, slots=True)
class Routing:
    """Which expert scores each cluster, and why."""

    choice: dict[int, str]  # cluster → name of its scorer
    values: dict[int, dict[str, float]]  # cluster → scorer → what the router compared
    notes: tuple[str, ...] = ()  # clusters that no scorer could rank; their choice is "random"


class Router(ABC):
    """What fills the slot `router`."""

    __slots__ = ()

    name: ClassVar[str]
    scorers: tuple[str, ...]  # names of the scorers whose scores `route` reads

    @abstractmethod
    def route(
        self, scores: Mapping[str, np.ndarray], labels: np.ndarray, rng: np.random.Generator
    ) -> Routing:
        """scores: scorer → (n,) float64, NaN where it cannot judge; labels: (n,) clusters."""


@dataclass(frozen=True, slots=True)
class ByEntropy(Router):
    """In each cluster, the scorer whose scores have the highest entropy; of equals, the first named."""

    name: ClassVar[str] = "entropy"

    scorers: tuple[str, ...]  # the experts to choose between
    bins: int = 50  # of the histogram
    mode: Mode = "paper"  # reference: as the released code does, defects included
    resolution: float = 1e-6  # spread, relative to magnitude, that is rounding: signals are float32

    def __post_init__(self) -> None:
        if not self.scorers:
            raise PolicyError("names no scorer; write e.g. entropy[el2n perplexity]")
        if len(set(self.scorers)) < len(self.scorers):
            raise PolicyError("names a scorer twice")
        if self.bins < 2 or not 0 <= self.resolution < 1:
            raise PolicyError("bins must be 2 or more, resolution at least 0 and under 1")

    def route(
        self, scores: Mapping[str, np.ndarray], labels: np.ndarray, rng: np.random.Generator
    ) -> Routing:
        choice: dict[int, str] = {}
        values: dict[int, dict[str, float]] = {}
        notes = []
        for cluster, rows in members(labels):
            found = {
                name: score_entropy(scores[name][rows], self.bins, self.mode, self.resolution)
                for name in self.scorers
            }
            values[cluster] = found
            if self.mode == "reference":
                choice[cluster] = self.scorers[int(np.argmax(list(found.values())))]
            elif max(found.values()) == -np.inf:
                choice[cluster] = "random"
                notes.append(_note(cluster, len(rows), self.scorers))
            else:
                choice[cluster] = max(self.scorers, key=found.__getitem__)
        return Routing(choice, values, tuple(notes))


@dataclass(frozen=True, slots=True)
class Always(Router):
    """The same scorer in every cluster."""

    name: ClassVar[str] = "always"

    scorer: str  # the expert
    scorers: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorers", (self.scorer,))

    def route(
        self, scores: Mapping[str, np.ndarray], labels: np.ndarray, rng: np.random.Generator
    ) -> Routing:
        return _among(self.scorers, scores, labels, lambda able: able[0])


@dataclass(frozen=True, slots=True)
class ByChance(Router):
    """In each cluster any of the scorers that can judge it: what a router has to beat."""

    name: ClassVar[str] = "random"

    scorers: tuple[str, ...]  # the experts to draw from

    def __post_init__(self) -> None:
        if not self.scorers:
            raise PolicyError("names no scorer; write e.g. random[el2n perplexity]")

    def route(
        self, scores: Mapping[str, np.ndarray], labels: np.ndarray, rng: np.random.Generator
    ) -> Routing:
        return _among(self.scorers, scores, labels, lambda able: able[int(rng.integers(len(able)))])


def _among(
    scorers: tuple[str, ...],
    scores: Mapping[str, np.ndarray],
    labels: np.ndarray,
    pick: Callable[[list[str]], str],
) -> Routing:
    """In each cluster what `pick` takes of the scorers that can judge any of it; chance where none can."""
    choice: dict[int, str] = {}
    notes = []
    for cluster, rows in members(labels):
        able = [name for name in scorers if np.isfinite(scores[name][rows]).any()]
        choice[cluster] = pick(able) if able else "random"
        if not able:
            notes.append(_note(cluster, len(rows), scorers))
    return Routing(choice, {cluster: {} for cluster in choice}, tuple(notes))


def _note(cluster: int, size: int, scorers: tuple[str, ...]) -> str:
    return (
        f"cluster {cluster} ({size} samples): none of {', '.join(scorers)} can rank it "
        "(scores constant or missing); it is scored at random"
    )
