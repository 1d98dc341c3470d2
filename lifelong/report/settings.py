"""The recipe, the configuration, what the run ran under, and what each phase cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from lifelong.config import RunConfig, commented_yaml, read_config
from lifelong.context import Stores
from lifelong.errors import LifelongError
from lifelong.recipes.method import method
from lifelong.recorded import CONFIG, config_of
from stores.clock import day
from stores.ledger import PHASES


@dataclass(frozen=True, slots=True)
class Settings:
    """How the run is set. config: YAML that `lifelong init` and `config.yaml` take.

    remarks: what a reader should know of the two; environment: version or hash by name, as last recorded.
    """

    model: str
    recipe: str
    summary: str
    paper: str
    words: dict[str, str]
    left_out: dict[str, str]
    sentence: str
    config: str
    remarks: list[str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of each phase of a timestep, and how many of them SQLite and files took; None: not done. finished: when
    the last of them was, "" if not known."""

    timestep: int
    seconds: dict[str, float | None]
    kept: dict[str, float | None]
    bytes: int
    finished: str


def settings(stores: Stores, finished: list[int]) -> Settings:
    """The configuration of the file, or of the last finished timestep where the file cannot be read."""
    remarks: list[str] = []
    recorded = None
    try:
        recorded = config_of(stores, finished[-1]) if finished else None
        config = read_config(stores.root / CONFIG)
    except LifelongError as error:
        remarks.append(f"{error}. Shown is what is on record.")
        config = recorded or RunConfig()
    if recorded is not None and recorded != config:
        remarks.append(
            f"The file was changed after timestep {finished[-1]}: what it says takes effect with the next."
        )
    environment = next(
        (r.environment for t in [*reversed(finished), 0] for r in reversed(stores.ledger.phases(t))), {}
    )
    return _settings(config, remarks, environment)


def _settings(config: RunConfig, remarks: list[str], environment: dict[str, str]) -> Settings:
    text = commented_yaml(config)
    try:
        built = method(config.recipe, config)
    except LifelongError as error:
        told = [*remarks, f"The recipe cannot be built here: {error}."]
        return Settings(config.model.path, str(config.recipe), "", "", {}, {}, "", text, told, environment)
    recipe = built.recipe
    words = {slot: str(word) for slot, word in recipe.to_dict().items()}
    return Settings(
        config.model.path,
        recipe.name,
        recipe.summary,
        recipe.paper,
        words,
        built.skipped,
        recipe.sentence(),
        text,
        remarks,
        environment,
    )


def costs(stores: Stores) -> list[Cost]:
    """One for each timestep that has begun, the tests before any training first."""
    found = []
    ledger = stores.ledger
    for timestep in range((-1 if ledger.last_timestep() is None else ledger.last_timestep() or 0) + 1):
        done = {record.phase: record for record in ledger.phases(timestep)}
        size = sum(f.committed.bytes for f in ledger.files(timestep)) + sum(
            s.bytes for s in ledger.shards(timestep)
        )
        phases = ("start",) if timestep == 0 else PHASES
        found.append(
            Cost(
                timestep,
                {phase: done[phase].seconds if phase in done else None for phase in phases},
                {phase: done[phase].kept if phase in done else None for phase in phases},
                size,
                day(max((record.finished for record in done.values()), default="")),
            )
        )
    return found


def in_all(spent: list[Cost]) -> dict[str, Any]:
    """{"total": seconds of all phases, "most": the phase that took most of them, "share": its part, from 0 to 1}."""
    by_phase: Counter[str] = Counter()
    for cost in spent:
        by_phase.update({phase: seconds for phase, seconds in cost.seconds.items() if seconds})
    total = sum(by_phase.values())
    most = max(by_phase, key=lambda phase: by_phase[phase], default="")
    return {"total": total, "most": most, "share": by_phase[most] / total if total else 0.0}
