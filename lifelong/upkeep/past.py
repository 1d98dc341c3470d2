"""A timestep as one of its phases saw it, so that the phase can be run again and leave the same bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from lifelong.config import read_config
from lifelong.context import Context, Feed, ModelHolder, Stores
from lifelong.environment import located
from lifelong.errors import RunError, UsageError
from lifelong.evaluate.lmms import is_external
from lifelong.loader import ConversationLoader
from lifelong.progress import Progress
from lifelong.recorded import CONFIG, config_of
from stores.commit import Committed
from stores.errors import DamagedError
from stores.evals import Evals, Skill
from stores.ledger import PHASES, Evaluation, FileRecord, Ledger
from stores.pool import Pool, Status
from stores.shards import Shard

ORDER = {name: place for place, name in enumerate(("start", *PHASES))}


def past(
    stores: Stores, timestep: int, phase: str, broken: set[str], models: ModelHolder, progress: Progress
) -> Context:
    """The context in which a phase of a timestep ran. broken: paths of shards that are to be made again.

    Nothing that the phase writes is recorded: its files must come out as they are on record.
    """
    seen = Stores(stores.root, stores.db)
    seen.ledger = _LedgerThen(stores.ledger, timestep, phase, broken)
    seen.pool = _PoolThen(stores.pool, timestep, phase)
    seen.evals = _EvalsThen(stores.evals, seen.ledger.tested)
    seen.loader = ConversationLoader(seen.pool, seen.media)
    fed = stores.ledger.phase(max(timestep, 1), "ingest")
    if fed is None:
        raise RunError(f"timestep {timestep} of {stores.root} has taken no dataset yet")
    # Row 0 is tested in the first timestep, and its files are those of timestep 0.
    # Trackers have been told of it then.
    config = models.config.model_copy(update={"report_to": ()})
    return Context(seen, config, max(timestep, 1), Feed(**fed.result["feed"]), models, progress)


def models_of(stores: Stores, timestep: int) -> ModelHolder:
    """The model as a timestep was configured, where it lies now.

    Raises:
        RunError: its configuration is not on record.
    """
    config = config_of(stores, max(timestep, 1))
    if config is None:
        raise RunError(f"the configuration of timestep {timestep} of {stores.root} is not on record")
    with suppress(UsageError):  # a config.yaml that is damaged says of no other place
        given = read_config(stores.root / CONFIG)
        config = config.model_copy(update={"model": located(stores, config.model, given.model)})
    return ModelHolder(config)


class _PoolThen(Pool):
    """The pool without what came later, and with what has left it since."""

    def __init__(self, now: Pool, timestep: int, phase: str) -> None:
        super().__init__(now.db)
        self._timestep = timestep
        # What a timestep cannot measure leaves with the measure phase; what it prunes leaves at its end.
        left = "changed > :now OR (changed = :now AND (status = 'pruned' OR :measuring))"
        self._live = f"arrived <= :now AND (status = 'live' OR {left})"
        self._values = {"now": timestep, "measuring": ORDER[phase] <= ORDER["measure"]}

    def live(self) -> np.ndarray:
        return self.arrays()["ordinal"]

    def arrays(self, status: Status = "live") -> dict[str, np.ndarray]:
        if status != "live":
            return super().arrays(status)
        parts = [super(_PoolThen, self).arrays(each) for each in ("live", "pruned", "quarantined")]
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        cursor = self.db.execute(f"SELECT ordinal FROM samples WHERE {self._live}", self._values)
        live = np.fromiter((ordinal for (ordinal,) in cursor), dtype=np.int64)
        rows = np.flatnonzero(np.isin(whole["ordinal"], live))
        rows = rows[np.argsort(whole["ordinal"][rows])]
        return {name: values[rows] for name, values in whole.items()}


class _LedgerThen(Ledger):
    """The ledger as it was before a phase of a timestep; what the phase commits is compared with what is on record."""

    def __init__(self, now: Ledger, timestep: int, phase: str, broken: set[str]) -> None:
        super().__init__(now.db, now.root)
        self._now = now
        self._place = (timestep, ORDER[phase])
        self._broken = broken
        record = now.phase(timestep, phase)
        tested = (
            record.result.get("skills", {}) if record is not None and phase in ("start", "evaluate") else {}
        )
        cells = [name.rsplit(" after ", 1) for name in tested]
        self.tested = {(int(after), skill) for skill, after in cells}
        """(timestep, skill) of the evaluations that the phase made."""

    def files(self, timestep: int | None = None) -> list[FileRecord]:
        return [
            record
            for record in super().files(timestep)
            if (record.timestep, ORDER[record.phase]) < self._place
        ]

    def shards(self, timestep: int | None = None, kind: str | None = None) -> list[Shard]:
        return [shard for shard in super().shards(timestep, kind) if shard.path not in self._broken]

    def evaluations(self) -> list[Evaluation]:
        return [cell for cell in super().evaluations() if (cell.timestep, cell.skill) not in self.tested]

    def shard_commit(self, timestep: int, kind: str, position: int, committed: Committed, rows: int) -> None:
        on_record = {(shard.kind, shard.position): shard for shard in self._now.shards(timestep)}
        shard = on_record.get((kind, position))
        if shard is None or shard.sha256 != committed.sha256:
            raise DamagedError(different(f"shard {position} of {kind} of timestep {timestep}"))
        self._broken.discard(shard.path)

    def release_shards(self, timestep: int, kind: str, position: int | None = None) -> None:
        raise AssertionError("nothing is released while a phase is run again")

    def set_meta(self, key: str, value: Any) -> None:
        raise AssertionError("nothing is recorded while a phase is run again")


class _EvalsThen(Evals):
    """Only the skills that a phase tested here: of those that an external evaluator tests no file is kept."""

    def __init__(self, now: Evals, tested: set[tuple[int, str]]) -> None:
        super().__init__(now.db)
        self._names = {skill for _, skill in tested}

    def skills(self) -> list[Skill]:
        return [
            skill for skill in super().skills() if skill.name in self._names and not is_external(skill.metric)
        ]


def different(holds: str) -> str:
    """What to say of a file that did not come out as it was."""
    return (
        f"{holds}: made again, it does not come out with the hash on record: another version of a package, another "
        "machine, or data outside the run that has changed. Put back a copy, or repair it where the run was made"
    )
