"""engine: accelerate under a real torchrun: the same results, and an end that can be gone on from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lifelong import Run
from lifelong.errors import UsageError
from tests.engines.conftest import ENVIRONMENT, IN_PARTS, ROOT, Make


def launch(processes: int, *arguments: object) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
    ]
    return subprocess.Popen(
        [*command, "-m", "lifelong", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_one_process_gives_the_same_bits(make: Make, local: Run, dataset: Path) -> None:
    run = make()
    with launch(1, "run", run.root, dataset, "--engine", "accelerate") as launched:
        _, told = launched.communicate()
    assert launched.returncode == 0, told
    assert run.digest() == local.digest()


def test_two_processes_one_of_which_dies_give_the_same_bits(
    make: Make, in_parts: Run, datasets: Path
) -> None:
    """The launch ends when the second is killed; launched again it goes on."""
    run = make("accelerate", settings=IN_PARTS)
    with launch(2, "run", run.root, datasets) as launched:
        shards = run.root / "shards" / "0001"
        while launched.poll() is None and not (shards.is_dir() and any(shards.glob("signals-*"))):
            time.sleep(0.02)
        ranks = sorted(psutil.Process(launched.pid).children(), key=lambda process: process.pid)
        os.kill(ranks[1].pid, signal.SIGKILL)
        _, told = launched.communicate()
    assert launched.returncode != 0
    assert "-9" in told or "lifelong resume" in told
    assert run.status()["phase"] is not None
    for arguments in (("resume", run.root), ("run", run.root, datasets)):
        with launch(2, *arguments) as launched:
            _, told = launched.communicate()
        assert launched.returncode == 0, told
    assert run.status()["timestep"] == 2
    assert run.digest() == in_parts.digest()


def test_a_launch_is_needed(make: Make, dataset: Path) -> None:
    with pytest.raises(UsageError, match="torchrun --nproc-per-node N -m lifelong"):
        make("accelerate").run_stream(dataset)
