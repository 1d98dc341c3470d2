"""Killed at random times, over and over, a run ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.durability.disk import Order
from tests.durability.scenario import LONG, TIMESTEPS, Scenario, damaged
from tests.durability.server import Processes


@pytest.mark.parametrize(
    ("kills", "longest"),
    [(10, 0.3), pytest.param(100, 2.0, marks=LONG), pytest.param(1000, 0.5, marks=LONG)],
)
def test_killed_at_random_times(
    kills: int,
    longest: float,
    scenario: Scenario,
    processes: Processes,
    tmp_path: Path,
    figures: Callable[[str], None],
) -> None:
    """A run that ends before its share of kills is done is followed by another."""
    rng = np.random.default_rng(kills)
    survived = runs = 0
    while survived < kills:
        run = scenario.copy(0, tmp_path / "run")
        runs += 1
        code = -signal.SIGKILL
        while code:
            pid = processes.begin(Order(str(run.root)), "run", run.root, scenario.streams[TIMESTEPS])
            if survived < kills:
                # Mean lives of 0.2 s up to the longest: from barely begun to more than one timestep.
                time.sleep(rng.exponential(0.2 * (longest / 0.2) ** rng.random()))
                os.kill(pid, signal.SIGKILL)
            ended = processes.wait(pid)
            code = ended.code
            assert code in (0, -signal.SIGKILL), (survived, ended.stderr)
            if code:
                survived += 1
                assert damaged(run) == []
        assert scenario.same_as(run, TIMESTEPS)
        shutil.rmtree(run.root)
    figures(f"random kills: {survived} over {runs} runs of {TIMESTEPS} timesteps")
