"""Timing side by side: every contestant once a round, in a new order each round, so that a busy moment hits all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each contestant in each round: name → (rounds,)."""

    seconds: dict[str, np.ndarray]

    def ratio(self, name: str, to: str, less: str | None = None) -> tuple[float, float, float]:
        """(median, lowest, highest) over rounds of seconds[name] / seconds[to], within a round.

        less: a contestant whose seconds are taken off those of `name` first: what is asked more than by it.
        """
        base = self.seconds[less] if less else 0.0
        ratios = (self.seconds[name] - base) / self.seconds[to]
        return float(np.median(ratios)), float(ratios.min()), float(ratios.max())


def interleaved(
    contestants: Mapping[str, Work],
    rounds: int,
    seed: int = 0,
    wait: Callable[[], None] = lambda: None,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Seconds of each contestant in each of `rounds`; with `warm_up` after one round that is not counted.

    wait: returns once the work that was started is done (a GPU's queue). clock: of the wall, or
    `time.process_time` where others use the processor meanwhile.
    """
    generator = np.random.default_rng(seed)
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(-warm_up, rounds):
        for position in generator.permutation(len(names)):
            name = names[position]
            gc.collect()
            wait()
            began = clock()
            contestants[name]()
            wait()
            if round_number >= 0:
                seconds[name].append(clock() - began)
    return Times({name: np.array(values) for name, values in seconds.items()})
