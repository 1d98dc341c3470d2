"""The process that forks the children, with the disk under command loaded."""

from __future__ import annotations

import math
from typing import Any

from lifelong import progress
from tests.durability.disk import Order, arm, mark
from tests.runs.child import Children, Ended, prepare, serve


class Processes(Children):
    """Runs the command line in children whose disk does what a test says."""

    def on_disk(self, order: Order, *arguments: object) -> Ended:
        """Run `lifelong arguments…` on a disk that follows the order."""
        return self.wait(self.begin(order, *arguments))

    def begin(self, order: Order, *arguments: object) -> int:
        """As `on_disk`, without waiting: returns the process id."""
        return int(self._ask({"arguments": [str(each) for each in arguments], "disk": order.to_json()}))


def _prepare(request: dict[str, Any]) -> None:
    prepare(request)
    if "disk" in request:
        # How far a phase is is noted by the clock: the operations of a command would not be the same each time.
        progress.NOTE_SECONDS = math.inf
        _mark_commits()
        arm(Order(**request["disk"]))


def _mark_commits() -> None:
    """Leave a mark in the log once a phase, or a shard, is committed."""
    from lifelong import loop
    from stores.ledger import Ledger

    run_phase, shard_commit = loop.run_phase, Ledger.shard_commit

    def phase_done(context: Any, timestep: int, name: str, phase: Any) -> None:
        run_phase(context, timestep, name, phase)
        mark(f"{timestep} {name}")

    def shard_done(self: Ledger, timestep: int, kind: str, position: int, *rest: Any) -> None:
        shard_commit(self, timestep, kind, position, *rest)
        mark(f"{timestep} {kind} {position}")

    loop.run_phase, Ledger.shard_commit = phase_done, shard_done


if __name__ == "__main__":
    serve(_prepare)
