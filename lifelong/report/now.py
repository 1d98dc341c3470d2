"""What is going on in a run at this moment, from its ledger and from what its writer notes on the way."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from lifelong.context import Stores
from lifelong.recorded import CONFIG, FEEDING
from lifelong.report.decided import finished
from stores.ledger import PHASES
from stores.lock import Writer, writer


def now(stores: Stores) -> dict[str, Any]:
    """Where the run stands.

    Returns {"version": changes with whatever the page shows, "finished": timesteps, "timestep", "dataset", "skill",
    "phase": the next one that has no commit, "phases": [{"phase", "seconds": None where not done}], "doing": {"what",
    "done", "total", "ago": seconds since it was so} or None, "writer": "working", "gone", "unknown" or "none",
    "told": all of it in a sentence}. From timestep to phase: None where nothing is under way.
    """
    done = finished(stores)
    last_writer = writer(stores.root)
    found: dict[str, Any] = {
        "version": version(stores),
        "finished": len(done),
        **dict.fromkeys(("timestep", "dataset", "skill", "phase", "doing")),
        "phases": [],
        "writer": _state(last_writer),
    }
    request = stores.ledger.get_meta(FEEDING)
    if request is not None and request["timestep"] not in done:
        found |= _under_way(stores, request)
        if last_writer is not None and last_writer.alive is not False and last_writer.doing:
            doing = last_writer.doing
            ago = max(0.0, time.time() - doing.get("at", 0))
            found["doing"] = {name: doing.get(name) for name in ("what", "done", "total")} | {
                "ago": round(ago, 1)
            }
    return found | {"told": _told(found)}


def version(stores: Stores) -> str:
    """A short text that is another one once a commit, or an edit of the configuration, changes what a page shows."""
    counts = [
        stores.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("phases", "evaluations", "datasets", "released")
    ]
    request = stores.ledger.get_meta(FEEDING)
    config = stores.root / CONFIG
    edited = config.stat().st_mtime_ns if config.exists() else 0
    text = repr((counts, request and request["timestep"], edited))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _state(last: Writer | None) -> str:
    if last is None:
        return "none"
    return {True: "working", False: "gone", None: "unknown"}[last.alive]


def _under_way(stores: Stores, request: dict[str, Any]) -> dict[str, Any]:
    timestep = request["timestep"]
    committed = {record.phase: record.seconds for record in stores.ledger.phases(timestep)}
    phases = [{"phase": phase, "seconds": committed.get(phase)} for phase in PHASES]
    started = stores.ledger.phase(0, "start")
    if timestep == 1:
        # Once in a run's life every skill is tested before any training.
        phases.insert(1, {"phase": "start", "seconds": started and started.seconds})
    following = next((each["phase"] for each in phases if each["seconds"] is None), None)
    feed = request["feed"]
    return {
        "timestep": timestep,
        "dataset": feed["name"],
        "skill": feed["skill"],
        "phase": following,
        "phases": phases,
    }


def _told(found: dict[str, Any]) -> str:
    count = found["finished"]
    finished_ones = {0: "No timestep is", 1: "1 timestep is"}.get(count, f"{count} timesteps are")
    if found["timestep"] is None:
        return (
            f"{finished_ones} finished; nothing is under way."
            if count
            else "Nothing has been fed to this run yet."
        )
    where = f"Timestep {found['timestep']} ({found['dataset']})"
    if found["writer"] in ("working", "unknown"):
        return f"{finished_ones} finished. {where} is under way: {found['phase']}."
    return (
        f"{finished_ones} finished. {where} stopped before it had finished {found['phase']}, and no process is at it: "
        "`lifelong resume RUN` goes on from there."
    )
