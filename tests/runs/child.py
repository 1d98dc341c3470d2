"""Runs the command line in child processes that stop where a test says.

One process imports the library once and forks a child for each command, since importing takes seconds. A child
is told by a hook to end by SIGKILL, to get SIGINT, or to wait. The hooks are put in here; the library has none.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMPORTED = (
    "lifelong.models.load",
    "lifelong.run",
    "lifelong.training.train",
    "peft",
    "pyarrow.parquet",
    "rouge_score.rouge_scorer",
    "transformers.models.llava.modeling_llava",
    "transformers.generation.utils",
    "sklearn.cluster",
    "faiss",
)

Prepare = Callable[[dict[str, Any]], None]
Point = tuple[int, str, str]
"""(timestep, a phase, or "shard N" or "KIND N" of a shard, "before" or "after" its commit)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (negative: the signal that killed it) and its standard error."""

    code: int
    stderr: str


class Children:
    """What a test sees of the process that forks."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def run(self, *arguments: object, at: Point | None = None, do: str = "kill") -> Ended:
        """Run `lifelong arguments…`, and at a point kill, interrupt or hold it."""
        return self.wait(self.start(*arguments, at=at, do=do))

    def start(self, *arguments: object, at: Point | None = None, do: str = "kill") -> int:
        """Start a command and return its process id; one held at its point says so in `RUN/held`."""
        return int(self._ask({"arguments": [str(each) for each in arguments], "at": at, "do": do}))

    def wait(self, pid: int) -> Ended:
        return Ended(*self._ask({"wait": pid}))

    def _ask(self, request: dict[str, Any]) -> Any:
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps(request), file=stdin, flush=True)
        return json.loads(stdout.readline())


def _install(at: Point, action: Callable[[], None]) -> None:
    """Call `action` right before or right after the commit that `at` names."""
    from lifelong import loop
    from stores.ledger import Ledger

    timestep, what, when = at
    commit, shard_commit, run_phase = Ledger.commit, Ledger.shard_commit, loop.run_phase

    def stop(*now: object) -> None:
        if now == (timestep, what, when):
            action()

    def committing(self: Ledger, timestep: int, phase: str, **rest: Any) -> None:
        stop(timestep, phase, "before")
        commit(self, timestep, phase, **rest)

    def phase_done(context: Any, timestep: int, name: str, phase: Any) -> None:
        # Ingest is committed by the transaction around Ledger.commit, hence not there.
        run_phase(context, timestep, name, phase)
        stop(timestep, name, "after")

    def committing_shard(self: Ledger, timestep: int, kind: str, position: int, *rest: Any) -> None:
        for name in ("shard", kind):
            stop(timestep, f"{name} {position}", "before")
        shard_commit(self, timestep, kind, position, *rest)
        for name in ("shard", kind):
            stop(timestep, f"{name} {position}", "after")

    Ledger.commit, Ledger.shard_commit, loop.run_phase = committing, committing_shard, phase_done


def _action(do: str, held: Path) -> Callable[[], None]:
    if do == "hold":

        def hold() -> None:
            held.touch()
            while held.exists():
                time.sleep(0.02)

        return hold
    number = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}[do]
    return lambda: os.kill(os.getpid(), number)


def prepare(request: dict[str, Any]) -> None:
    """Do in a child, before its command, what the request asks for."""
    if request.get("at"):
        _install(tuple(request["at"]), _action(request["do"], Path(request["arguments"][1]) / "held"))


def _fork(request: dict[str, Any], log: Path, prepare: Prepare) -> int:
    from lifelong.cli import invoke

    log.touch()  # a child may be killed before it gets to it
    pid = os.fork()
    if pid:
        return pid
    code = 70  # of an exception that `invoke` lets through
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            prepare(request)
            code = invoke(request["arguments"])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def import_all() -> None:
    """Import what runs import on their way, and leave it out of the collections that each training asks for."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()


def serve(prepare: Prepare = prepare) -> None:
    """Answer requests, a JSON line each, until standard input ends. prepare: what a child does first."""
    import_all()
    logs: dict[int, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, line in enumerate(sys.stdin):
            request = json.loads(line)
            if "wait" in request:
                pid = request["wait"]
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                answer: Any = [code, logs[pid].read_text()]
            else:
                log = Path(folder, str(number))
                answer = _fork(request, log, prepare)
                logs[answer] = log
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
