"""Tests of harm: whether a skill's accuracy has fallen by more than is allowed, beyond the noise of its eval set.

Scores lie in [0, 1]; a comparison is of the same eval items before and after. What is asked is one-sided: is the
fall larger than `margin`? The null hypothesis is that it is not, for any of the comparisons; a family of comparisons
(several skills, several earlier timesteps) is judged as one: looking at many trips no more often than looking at one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import PolicyError

DRAWS = 4000  # of the multiplier bootstrap; the p-value's own standard error at 0.05 is 0.0035
_BLOCK = 500  # draws in memory at a time
PSEUDO = 0.5  # pairs added for each of the four outcomes: Agresti & Min 2005, Statistics in Medicine 24, §4


@dataclass(frozen=True, slots=True)
class Comparison:
    """One skill after against one earlier timestep. difference: before − after; stderr: of it, > 0.

    items: (n,) differences of the same items in order, or None where the evaluations cannot be paired; comparisons of
    one group and as many items are of the same items.
    """

    difference: float
    stderr: float
    items: np.ndarray | None = None
    group: str = ""

    def statistic(self, margin: float) -> float:
        """How many standard errors the fall lies above what is allowed."""
        return (self.difference - margin) / self.stderr


def paired(before: np.ndarray, after: np.ndarray, group: str = "") -> Comparison:
    """The same n items before and after, (n,) scores each, smoothed so that a few items cannot be certain.

    As Agresti & Min (2005) for matched pairs, half a pair is added to each of: right both times, wrong both times,
    lost, won: n + 2 pairs, the same sum of differences. Raises: PolicyError if the items are not as many, or none.
    """
    difference = np.asarray(before, dtype=np.float64) - np.asarray(after, dtype=np.float64)
    if difference.ndim != 1 or not len(difference) or np.shape(before) != np.shape(after):
        raise PolicyError(f"want the same items twice, not {np.shape(before)} and {np.shape(after)}")
    n = len(difference) + 4 * PSEUDO
    mean = float(difference.sum() / n)
    variance = float((difference**2).sum() + 2 * PSEUDO) / n - mean**2
    return Comparison(mean, math.sqrt(variance / n), difference, group)


def unpaired(before: float, after: float, stderr_before: float, stderr_after: float) -> Comparison:
    """Two evaluations of which only mean and standard error are known, taken as independent.

    A standard error that is 0 or unknown is taken as that of one item: nothing is certain here.
    """
    variance = sum(value**2 for value in (stderr_before, stderr_after) if math.isfinite(value))
    return Comparison(before - after, math.sqrt(variance) or 1.0)


def harm(
    comparisons: Sequence[Comparison], margin: float, rng: np.random.Generator, draws: int = DRAWS
) -> tuple[float, int]:
    """p-value that no comparison falls by more than `margin`, against the one that does most; and which that is.

    The largest statistic is compared with its distribution under the null hypothesis at its edge, by a multiplier
    bootstrap of the items' differences (Chernozhukov, Chetverikov & Kato 2013, arXiv 1212.6906): comparisons that share
    items keep their correlation, so that ten earlier timesteps of nearly the same answers cost hardly more than one.
    Never less than the p-value of that comparison alone. Raises: PolicyError without a comparison.
    """
    if not comparisons:
        raise PolicyError("nothing to compare")
    statistics = np.array([each.statistic(margin) for each in comparisons])
    worst = int(statistics.argmax())
    alone = float(_tail(statistics[worst]))
    if len(comparisons) == 1:
        return alone, worst
    exceeded = 0
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        exceeded += int((_largest(comparisons, size, rng) >= statistics[worst]).sum())
    return max((exceeded + 1) / (draws + 1), alone), worst


def _largest(comparisons: Sequence[Comparison], size: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) draws of the largest statistic if there is no harm; comparisons of the same items share multipliers."""
    largest = np.full(size, -np.inf)
    shared: dict[tuple[str, int], np.ndarray] = {}
    for each in comparisons:
        if each.items is None:
            drawn = rng.standard_normal(size)
        else:
            n = len(each.items)
            key = (each.group, n)
            if key not in shared:
                shared[key] = rng.standard_normal((size, n + 1))
            # The added pairs are noise of their own, of the variance that they have in the standard error.
            spread = each.items - each.items.mean()
            added = math.sqrt(max((n + 4 * PSEUDO) ** 2 * each.stderr**2 - float((spread**2).sum()), 0.0))
            drawn = (shared[key][:, :n] @ spread + shared[key][:, n] * added) / (
                (n + 4 * PSEUDO) * each.stderr
            )
        largest = np.maximum(largest, drawn)
    return largest


def harm_by_z(comparisons: Sequence[Comparison], margin: float) -> tuple[float, int]:
    """The same by one-sided z tests, with Bonferroni's correction for their number."""
    if not comparisons:
        raise PolicyError("nothing to compare")
    statistics = np.array([each.statistic(margin) for each in comparisons])
    worst = int(statistics.argmax())
    return min(1.0, len(comparisons) * float(_tail(statistics[worst]))), worst


def below(values: Sequence[float], stderrs: Sequence[float], least: float) -> tuple[float, float]:
    """The mean of S independent accuracies, and the p-value that it is not below `least`; one-sided z."""
    if not values:
        raise PolicyError("nothing to average")
    mean = float(np.mean(values))
    variance = sum(value**2 if math.isfinite(value) else 1.0 for value in stderrs) / len(values) ** 2
    return mean, float(_tail((least - mean) / math.sqrt(variance))) if variance else float(mean >= least)


def two_sided(comparison: Comparison) -> float:
    """p-value that there is no difference at all."""
    return 2 * float(_tail(abs(comparison.statistic(0.0))))


def _tail(z: float) -> float:
    """How likely a standard normal number is above z."""
    return 0.5 * math.erfc(z / math.sqrt(2))
