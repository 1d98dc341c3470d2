"""How each expert's scores are distributed over the samples of a timestep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lifelong.report.decided import Decided

BINS = 30
FAR = 8
"""Scores spread over more than so many times the range of all but 2 % of them are drawn within that range."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Scores of one expert at one timestep.

    every, selected: counts in `BINS` equal bins from start to end; what lies beyond them is counted in the outer ones.
    """

    timestep: int
    expert: str
    judged: int
    unjudged: int
    low: float
    median: float
    high: float
    start: float
    end: float
    every: list[int]
    selected: list[int]


def distributions(found: Decided) -> list[Distribution]:
    """One for each expert that was asked, those that judged nothing included."""
    columns = [name for name in found.table.columns if name.startswith("score_")]
    return [_distribution(found, name) for name in columns]


def _distribution(found: Decided, column: str) -> Distribution:
    expert = column.removeprefix("score_")
    scores = found.table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    known = np.isfinite(scores)
    unjudged = int((~known).sum())
    if not known.any():
        return Distribution(found.timestep, expert, 0, unjudged, 0.0, 0.0, 0.0, 0.0, 0.0, [], [])
    low, median, high = (float(value) for value in np.quantile(scores[known], (0, 0.5, 1)))
    start, end = _span(scores[known])
    chosen = known & found.table["selected"].to_numpy(dtype=bool)
    every, picked = (
        np.histogram(scores[rows].clip(start, end), BINS, (start, end))[0].tolist()
        for rows in (known, chosen)
    )
    judged = int(known.sum())
    return Distribution(
        found.timestep, expert, judged, unjudged, low, median, high, start, end, every, picked
    )


def _span(scores: np.ndarray) -> tuple[float, float]:
    """From where to where scores are drawn: where a few lie far out, without them; never of no width."""
    low, near, far, high = (float(value) for value in np.quantile(scores, (0, 0.01, 0.99, 1)))
    if high - low > FAR * (far - near) > 0:
        low, high = near, far
    # Beside large scores a small width vanishes in rounding.
    largest = max(abs(low), abs(high))
    if high - low > max(1e-9 * largest, 1e-300):
        return low, high
    return low - max(0.5, 1e-6 * largest), low + max(0.5, 1e-6 * largest)
