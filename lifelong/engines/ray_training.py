"""Training by Ray Train: workers that share each batch; the first of them writes to the run's process."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from lifelong.config import RunConfig
from lifelong.context import ModelHolder
from lifelong.engines.base import Worker
from lifelong.engines.exchange import Exchange, see
from lifelong.engines.launch import forget_launch
from lifelong.errors import LifelongError, RunError
from lifelong.interrupt import deferred_interrupt
from stores.commit import Committed
from stores.errors import StoreError

if TYPE_CHECKING:
    from lifelong.engines.training import Desk, Done, Training

# Ray's controller and the mailbox import this module too, and should not wait for torch: hence the imports below.

LISTEN_SECONDS = 1.0
"""How long the run's process waits for a letter before it looks whether the training still goes on."""
PATIENCE_SECONDS = 24 * 3600
"""How long a worker waits for its peers; that they have died Ray sees by itself."""


class Mailbox:
    """Letters from a training's first worker to the run's process. Each is answered before its sender goes on."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[tuple[tuple[Any, ...], asyncio.Future[Any]]] = asyncio.Queue()
        self._open: asyncio.Future[Any] | None = None

    async def write(self, *letter: Any) -> Any:
        """Send a letter; returns the answer."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self._letters.put((letter, answered))
        return await answered

    async def read(self, answer: Any, seconds: float) -> tuple[Any, ...] | None:
        """Answer the letter that was read last, and give the next one; None if there is none so soon."""
        if self._open is not None and not self._open.done():
            self._open.set_result(answer)
        self._open = None
        try:
            letter, self._open = await asyncio.wait_for(self._letters.get(), seconds)
        except TimeoutError:
            return None
        return letter


@dataclass(frozen=True, slots=True)
class Letters:
    """The first worker's side of the mailbox. A letter is as good as recorded when its call returns."""

    mailbox: Any

    def ask(self, *letter: Any) -> Any:
        return ray.get(self.mailbox.write.remote(*letter))

    def step(self, done: int, total: int) -> None:
        self.ask("step", done, total)

    def saved(self, step: int, state: Committed) -> None:
        self.ask("saved", step, state)

    def kept(self, number: int, step: int, adapter: Committed) -> None:
        self.ask("kept", number, step, adapter)

    def tracked(self, event: str, args: Any, state: Any, logs: dict[str, float] | None) -> None:
        self.ask("tracked", event, args, state, logs)

    def interrupted(self) -> bool:
        return bool(self.ask("interrupted"))


def train(root: Path, config: RunConfig, exchange: Exchange, training: Training, desk: Desk) -> Done:
    """Have a training done by Ray Train, and record what it tells.

    Raises: TrainingError; KeyboardInterrupt once the state of the step is on disk; RunError.
    """
    import torch
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as TrainRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from lifelong.engines.ray import environment

    cluster, threads = config.cluster, torch.get_num_threads()
    rows, places = desk.carried()
    for name in (training.adapter, training.state):
        if name:
            exchange.offer(name)
    exchange.offer_images(places)
    mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
    given = {
        "config": config,
        "files": exchange.files,
        "training": training,
        "samples": ray.put((rows, places)),
        "mailbox": mailbox,
        "threads": threads,
    }
    # Ray Train keeps its own notes there, and wants the place to be one that all workers reach.
    with tempfile.TemporaryDirectory(prefix=".staging-ray-", dir=root / "timesteps") as notes:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"given": ray.put(given)},
            torch_config=TorchConfig(timeout_s=PATIENCE_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=cluster.workers,
                use_gpu=cluster.gpus > 0,
                resources_per_worker={"CPU": cluster.cpus} | ({"GPU": cluster.gpus} if cluster.gpus else {}),
            ),
            run_config=TrainRunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(Path(notes).absolute()),
                failure_config=FailureConfig(max_failures=cluster.retries),
                worker_runtime_env={"env_vars": environment(threads)},
            ),
        )
        fitting = _Fitting(trainer.fit)
        with deferred_interrupt() as interrupted:
            done = _Listener(training, desk, exchange, interrupted).listen(mailbox, fitting)
        if done is None:
            raise RunError(
                f"the training's workers died, and so did the next {cluster.retries}; Ray says: {fitting.fault}. "
                f"What it had saved is kept: go on with `lifelong resume {root}`"
            )
        fitting.join(60)
    return done


class _Fitting(threading.Thread):
    """Ray Train at work, beside the thread that has the database."""

    def __init__(self, fit: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.fault = "nothing"
        self._fit = fit
        self.start()

    def run(self) -> None:
        try:
            self._fit()
        except (Exception, SystemExit) as error:  # the latter where Ray is shut down around it
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            self.fault = (lines or [type(error).__name__])[-1][:300]


class _Listener:
    """Answers a training's letters."""

    def __init__(
        self, training: Training, desk: Desk, exchange: Exchange, interrupted: Callable[[], bool]
    ) -> None:
        self._desk = desk
        self._exchange = exchange
        self._state = training.state
        self._keeps_states = bool(training.identity)
        self._interrupted = interrupted
        self._stopping = False

    def listen(self, mailbox: Any, fitting: _Fitting) -> Done | None:
        """What the training left; None if Ray gave it up."""
        answer: Any = None
        while True:
            over = not fitting.is_alive()
            letter = ray.get(mailbox.read.remote(answer, LISTEN_SECONDS))
            if letter is None:
                if over:
                    return None
                answer = None
                continue
            what, *rest = letter
            if what == "done":
                ray.get(mailbox.read.remote(None, 0.0))
                done: Done = rest[0]
                self._exchange.receive(done.adapter)
                self._exchange.clear("", done.adapter)
                if self._state:
                    self._exchange.withdraw(self._state)
                return done
            if what == "failed":
                ray.get(mailbox.read.remote(None, 0.0))
                raise rest[0]
            answer = self._answer(what, rest)

    def _answer(self, what: str, rest: list[Any]) -> Any:
        match what:
            case "begin":
                return self._state
            case "step":
                self._desk.step(*rest)
                if self._interrupted() and not self._keeps_states:
                    raise KeyboardInterrupt
            case "interrupted":
                self._stopping = self._interrupted()
                return self._stopping
            case "kept":
                self._exchange.receive(rest[2])
                self._desk.kept(*rest)
                self._exchange.clear("", rest[2])
            case "tracked":
                self._desk.tracked(*rest)
            case "saved":
                self._exchange.receive(rest[1])
                self._desk.saved(*rest)
                self._exchange.clear("", rest[1])
                last, self._state = self._state, rest[1].path
                self._exchange.offer(self._state)
                if last:
                    self._exchange.withdraw(last)
                if self._stopping:
                    raise KeyboardInterrupt
        return None


def _work(loop_config: dict[str, Any]) -> None:
    """What each worker of a training does."""
    import torch

    from lifelong.engines.training import Silence, run_training
    from lifelong.loader import CarriedLoader
    from lifelong.training.peers import Group

    given = ray.get(loop_config["given"])
    torch.set_num_threads(given["threads"])
    peers = Group.joined()
    # Each trains as if alone, and adds up with the others: the libraries below are not to see a launch.
    forget_launch(os.environ)
    worker = Worker(ModelHolder(given["config"]), given["files"])
    rows, places = ray.get(given["samples"])
    loader = CarriedLoader(worker.files.images(places))
    letters = Letters(given["mailbox"])
    first = peers.rank == 0
    (state, *_) = peers.everybody(letters.ask("begin") if first else None)
    training = replace(given["training"], state=state)
    try:
        see(worker.files)
        done = run_training(
            training,
            worker,
            lambda ordinal: loader.conversation(rows[ordinal]),
            letters if first else Silence(),
            peers,
        )
    except (LifelongError, StoreError) as error:
        # It would come again however often Ray tried.
        if first:
            letters.ask("failed", error)
        return
    if first:
        letters.ask("done", done)
