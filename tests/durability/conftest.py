"""What the durability tests share: children on a commanded disk, the undisturbed run, and the figures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.durability.disk import compiled
from tests.durability.scenario import TIMESTEPS, Recording, Scenario, play, record
from tests.durability.server import Processes
from tests.runs.conftest import (  # noqa: F401
    ROOT,
    children,
    copied,
    edit_config,
    finished,
    llava,
    new_run,
    stream,
)

_figures: list[str] = []


@pytest.fixture
def figures() -> Callable[[str], None]:
    """Takes a line for the end of the report: what was tried, and how often."""
    return _figures.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("durability")
        for line in _figures:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A process that forks a child for each command, with the disk under command loaded."""
    library = compiled(tmp_path_factory.mktemp("disk"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LD_PRELOAD": str(library)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.durability.server"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Processes(server)
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def scenario(llava: str, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Scenario:  # noqa: F811
    """Three timesteps that nobody disturbed. For reading only."""
    return play(tmp_path_factory.mktemp("scenario"), llava, processes)


@pytest.fixture(scope="session")
def recordings(
    scenario: Scenario, processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Recording]:
    """Each timestep with the log of its durable operations."""
    return {
        timestep: record(scenario, timestep, tmp_path_factory.mktemp(f"recording-{timestep}"), processes)
        for timestep in range(1, TIMESTEPS + 1)
    }
