"""Work over a Ray cluster: actors that each hold the model, and Ray Train for training. Only this process has SQLite.

What dies is made good by Ray itself: an actor is started again and its piece of work done again, a training's workers
are started again and go on from its last state; `cluster.retries` says how often.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lifelong.config import RunConfig
from lifelong.context import ModelHolder
from lifelong.engines.base import Files, Job, Result, Worker, _nothing
from lifelong.engines.exchange import UrlFiles, open_exchange, see
from lifelong.errors import RunError, UsageError

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
except ImportError as error:
    raise UsageError("engine: ray needs the package ray: pip install 'lifelong[ray]'") from error

if TYPE_CHECKING:
    from lifelong.engines.training import Desk, Done, Training


class Actor:
    """A worker in a process of its own, on whatever machine of the cluster."""

    def __init__(self, config: RunConfig, files: Files, threads: int) -> None:
        # A sum over other numbers of threads may end in other bits.
        torch.set_num_threads(threads)
        self._worker = Worker(ModelHolder(config), files)

    def do(self, job: Job[Any], key: str) -> Any:
        """Do a piece of work. key: by which what it leaves is found in the exchange; "" for none."""
        see(self._worker.files)
        found = job.run(self._worker)
        if key and isinstance(self._worker.files, UrlFiles):
            self._worker.files.claim(key, found)
        return found


class RayEngine:
    """Actors are started when there is work for them, and let go where a training needs their places."""

    def __init__(self, root: Path, models: ModelHolder) -> None:
        self._root = root
        self._config = models.config
        self._exchange = open_exchange(root.absolute(), models.config)
        self._actors: list[Any] = []
        self._own = False

    def map(
        self, jobs: Iterable[Job[Result]], progress: Callable[[int], None] = _nothing
    ) -> Iterator[tuple[Job[Result], Result]]:
        waiting = iter(jobs)
        running: dict[Any, tuple[Any, Job[Result], str]] = {}
        idle: deque[Any] = deque()
        try:
            while True:
                for job in waiting:
                    key = self._exchange.key(job)
                    if key and (made := self._exchange.claimed(key)) is not None:
                        yield from self._received(job, made, key, progress)
                        continue
                    if not running and not idle:
                        idle.extend(self._hired())
                    actor = idle.popleft()
                    self._offer(job)
                    running[actor.do.remote(job, key)] = actor, job, key
                    if not idle:
                        break
                if not running:
                    return
                (done,), _ = ray.wait(list(running), num_returns=1)
                actor, job, key = running.pop(done)
                result = self._result(done, job)
                idle.append(actor)
                if key:
                    self._exchange.receive(result.committed)
                yield from self._received(job, result, key, progress)
        finally:
            if running:
                self._dismiss()

    def _offer(self, job: Any) -> None:
        if getattr(job, "adapter", ""):
            self._exchange.offer(job.adapter)
        self._exchange.offer_images(job.places)

    def _received(
        self, job: Job[Result], result: Any, key: str, progress: Callable[[int], None]
    ) -> Iterator[tuple[Job[Result], Result]]:
        progress(len(job))
        yield job, result
        if key:
            self._exchange.clear(key, result.committed)  # it has been recorded

    def train(self, training: Training, desk: Desk) -> Done:
        from lifelong.engines.ray_training import train

        self._start()
        if not self._room_beside():
            self._dismiss()
        return train(self._root, self._config, self._exchange, training, desk)

    def close(self) -> None:
        self._dismiss()
        if self._own:
            ray.shutdown()
            self._own = False

    def _room_beside(self) -> bool:
        """Whether the cluster has places for a training's workers beside the actors."""
        cluster, free = self._config.cluster, ray.available_resources()
        return all(
            free.get(kind, 0.0) >= cluster.workers * each
            for kind, each in (("CPU", cluster.cpus), ("GPU", cluster.gpus))
        )

    def _result(self, done: Any, job: Job[Result]) -> Result:
        try:
            found: Result = ray.get(done)
            return found
        except RayTaskError as error:
            # What was raised, without the traceback of another process in its text.
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except RayActorError as error:
            raise RunError(
                f"{job}: its worker died, and so did the next {self._config.cluster.retries}; Ray says: "
                f"{_short(error)}. Give workers more memory or fewer samples at a time, then go on with "
                f"`lifelong resume {self._root}`"
            ) from error
        except RayError as error:
            raise RunError(f"{job}: {_short(error)}; go on with `lifelong resume {self._root}`") from error

    def _hired(self) -> list[Any]:
        if not self._actors:
            self._start()
            cluster, threads = self._config.cluster, torch.get_num_threads()
            hire = ray.remote(Actor).options(
                num_cpus=cluster.cpus,
                num_gpus=cluster.gpus,
                max_restarts=-1,
                max_task_retries=cluster.retries,
                runtime_env={"env_vars": environment(threads)},
            )
            self._actors = [
                hire.remote(self._config, self._exchange.files, threads) for _ in range(cluster.workers)
            ]
        return list(self._actors)

    def _dismiss(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _start(self) -> None:
        """Join the cluster, or start one of this machine that ends with this process."""
        if ray.is_initialized():
            return
        cluster = self._config.cluster
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Nobody but this process is to reach a cluster of its own.
        alone = {
            "address": "local",
            "num_cpus": max(os.cpu_count() or 1, math.ceil(cluster.workers * cluster.cpus)),
            "include_dashboard": False,
        }
        options: dict[str, Any] = {"address": cluster.address} if cluster.address else alone
        try:
            ray.init(**options, log_to_driver=False, logging_level="error", configure_logging=False)
        except (RayError, ConnectionError, ValueError, RuntimeError) as error:
            where = f"the Ray cluster at {cluster.address!r}" if cluster.address else "a Ray of this machine"
            raise RunError(f"cannot reach {where}: {_short(error)}") from error
        self._own = True


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker's process."""
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
