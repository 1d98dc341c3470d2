"""The process of the run does the work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from lifelong.engines.base import Job, Result, Worker, _nothing

if TYPE_CHECKING:
    from lifelong.engines.training import Desk, Done, Training


class Local:
    """No workers but this process; each piece of work is done when its result is asked for."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def map(
        self, jobs: Iterable[Job[Result]], progress: Callable[[int], None] = _nothing
    ) -> Iterator[tuple[Job[Result], Result]]:
        for job in jobs:
            self._worker.progress = progress
            yield job, job.run(self._worker)

    def train(self, training: Training, desk: Desk) -> Done:
        from lifelong.engines.training import run_training

        return run_training(training, self._worker, desk.load, desk)

    def close(self) -> None:
        pass
