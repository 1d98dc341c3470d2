"""Work over the processes of a launch (torchrun, `accelerate launch`): the first runs the command, the others serve.

Pieces of work go out in rounds of one for each process. A process that dies ends the launch; `lifelong resume`,
launched again, goes on from what was recorded.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from lifelong.context import ModelHolder
from lifelong.engines.base import Job, Result, Worker, _nothing
from lifelong.engines.launch import Launch
from lifelong.engines.training import Silence, run_training
from lifelong.errors import EXIT_DONE, EXIT_RUN, RunError, TrainingError
from lifelong.loader import CarriedLoader
from lifelong.training.peers import Group

if TYPE_CHECKING:
    from lifelong.engines.training import Desk, Done, Training

_in_step = True
"""Whether the processes still wait for what the first says: not after it broke off in the middle of a round."""


class Ranks:
    """The first process of a launch with the others at its command; it does its share of the work."""

    def __init__(self, root: Path, models: ModelHolder, launch: Launch) -> None:
        self._root = root
        self._size = launch.size
        self._worker = Worker.of_run(root, models)
        with self._together():
            _say(("open", str(root.absolute()), models.config, torch.get_num_threads()))

    def map(
        self, jobs: Iterable[Job[Result]], progress: Callable[[int], None] = _nothing
    ) -> Iterator[tuple[Job[Result], Result]]:
        waiting = iter(jobs)
        while batch := list(islice(waiting, self._size)):
            with self._together():
                _say(("work",))
                mine = _scattered([*batch, *[None] * (self._size - len(batch))])
                found = _gathered(_outcome(self._worker, mine))
            faults: list[BaseException] = []
            for job, (result, fault) in zip(batch, found, strict=False):
                if fault is not None:
                    faults.append(fault)
                    continue
                progress(len(job))
                yield job, result
            if faults:
                raise faults[0]

    def train(self, training: Training, desk: Desk) -> Done:
        with self._together():
            rows, places = desk.carried()
            _say(("train", training, rows, places))
            loader = CarriedLoader(self._worker.files.images(places))
            return run_training(
                training,
                self._worker,
                lambda ordinal: loader.conversation(rows[ordinal]),
                desk,
                Group.joined(),
            )

    def close(self) -> None:
        pass

    def _together(self) -> _Together:
        return _Together(self._root)


class _Together:
    """A stretch in which all processes are at the same work; what breaks it off leaves them out of step."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        global _in_step
        # What stops a training all have met, or been told of, alike.
        if error is None or isinstance(error, TrainingError):
            return
        _in_step = False
        if isinstance(error, RuntimeError) and _of_the_group(error):
            raise RunError(
                "a process of the launch is gone (its launcher says which, and how it ended); what was recorded is "
                f"kept: launch `lifelong resume {self._root}` as you launched this"
            ) from error


def _of_the_group(error: RuntimeError) -> bool:
    told = str(error).lower()
    return isinstance(error, distributed.DistError) or any(
        word in told for word in ("connection", "gloo", "nccl", "peer", "socket")
    )


def serve() -> int:
    """Do what the first process says until it dismisses this one, or is gone; returns the exit code."""
    # Ctrl-C reaches all processes; the first one decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker: Worker | None = None
    try:
        while True:
            what, *given = _heard()
            if what == "stop":
                return EXIT_DONE
            if what == "open":
                root, config, threads = given
                torch.set_num_threads(threads)
                worker = Worker.of_run(Path(root), ModelHolder(config))
                continue
            assert worker is not None
            if what == "work":
                _gathered(_outcome(worker, _scattered(None)))
            else:
                _train_along(worker, *given)
    except RuntimeError as error:
        if not _of_the_group(error):
            raise
        return EXIT_RUN  # the first process has told what there is to tell


def dismiss() -> None:
    """Let the other processes end. Those that are out of step the launcher ends."""
    if _in_step:
        with suppress(RuntimeError):
            _say(("stop",))
            distributed.destroy_process_group()


def _train_along(worker: Worker, training: Training, rows: dict[int, Any], places: dict[str, Any]) -> None:
    loader = CarriedLoader(worker.files.images(places))
    with suppress(TrainingError):  # the first process raises it too
        run_training(
            training, worker, lambda ordinal: loader.conversation(rows[ordinal]), Silence(), Group.joined()
        )


def _outcome(worker: Worker, job: Job[Any] | None) -> tuple[Any, Exception | None]:
    if job is None:
        return None, None
    try:
        return job.run(worker), None
    except Exception as error:
        return None, error


def _say(message: tuple[Any, ...]) -> None:
    distributed.broadcast_object_list([message], src=0)


def _heard() -> tuple[Any, ...]:
    message: list[Any] = [None]
    distributed.broadcast_object_list(message, src=0)
    found: tuple[Any, ...] = message[0]
    return found


def _scattered(jobs: list[Any] | None) -> Any:
    """This process's of the jobs that the first one has for all."""
    mine: list[Any] = [None]
    distributed.scatter_object_list(mine, jobs, src=0)
    return mine[0]


def _gathered(outcome: tuple[Any, Exception | None]) -> list[tuple[Any, Exception | None]]:
    """Everybody's outcome, at the first process."""
    found: list[Any] | None = [None] * distributed.get_world_size() if distributed.get_rank() == 0 else None
    distributed.gather_object(outcome, found, dst=0)
    return found or []
