"""What a timestep will take, from what the run's own timesteps took; and how far off that was.

Each phase has something that its work grows with: rows read, tokens measured, samples, tokens trained on, answers.
Its rate is its seconds over that, of the timesteps that have finished, the later the heavier. Tokens of samples that
are not read yet are estimated from their characters and images, as the pool's own samples have them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lifelong.config import RunConfig, budget_of
from lifelong.context import Stores
from lifelong.recipes.method import method
from lifelong.recorded import config_of
from lifelong.signals.pool import MEASURED
from lifelong.steer.rollback import cells_of
from stores.ledger import PHASES

MEMORY = 0.5
"""Weight of a timestep's rate beside that of the one after it."""
DATABASE_PER_ROW = 1500
"""Bytes of a row and its share of the indices, in the database and in its copy, beside its text."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """What a dataset would bring. skill: its own; text_chars, images: of the accepted samples; image_bytes: of images
    that the run does not have; answers: eval items that it brings, of a skill that is not tested yet."""

    skill: str
    rows: int
    accepted: int
    text_chars: int
    images: int
    image_bytes: int
    answers: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """seconds: by phase; bytes: that the run will grow by; on: how many finished timesteps the rates are of."""

    seconds: dict[str, float]
    bytes: int
    on: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def forecast(stores: Stores, config: RunConfig, arriving: Arriving, timestep: int) -> Forecast | None:
    """What `timestep` will take; None while no timestep before it has finished, and there is nothing to go by."""
    done = [t for t in range(1, timestep) if stores.ledger.phase(t, "prune") is not None]
    if not done:
        return None
    work = _Work(stores)
    ahead = work.ahead(config, arriving, timestep)
    seconds = {}
    for phase in PHASES:
        # What is not learned is answered at length: such answers take what they took before any training.
        aside = work.untrained() if phase == "evaluate" else 0.0
        pairs = [
            (work.of(t)[phase], max(_seconds(stores, t, phase) - aside * work.of(t)["unlearned"], 0.0))
            for t in done
        ]
        seconds[phase] = round(_rate(pairs) * ahead[phase] + aside * ahead["unlearned"], 3)
    return Forecast(seconds, _bytes(stores, config, arriving, done[-1], ahead), len(done))


def keep_forecast(stores: Stores, config: RunConfig, timestep: int) -> None:
    """Put the forecast of a timestep on record once its dataset is in the pool: what `lifelong plan` had said of it."""
    known = stores.db.execute("SELECT 1 FROM forecasts WHERE timestep = ?", [timestep]).fetchone()
    if known is None:
        made = forecast(stores, config, _arrived(stores, timestep), timestep)
        told = json.dumps(None if made is None else asdict(made))
        stores.db.execute("INSERT INTO forecasts (timestep, seconds) VALUES (?, ?)", [timestep, told])


def forecasts(stores: Stores) -> dict[int, Forecast]:
    """The forecasts on record, by timestep."""
    cursor = stores.db.execute("SELECT timestep, seconds FROM forecasts ORDER BY timestep")
    read = ((timestep, json.loads(told)) for timestep, told in cursor.fetchall())
    return {timestep: Forecast(**told) for timestep, told in read if told is not None}


def errors(stores: Stores) -> dict[int, float]:
    """|forecast − actual| / actual of the seconds of each finished timestep that was forecast."""
    found = {}
    for timestep, made in forecasts(stores).items():
        if stores.ledger.phase(timestep, "prune") is not None:
            actual = sum(_seconds(stores, timestep, phase) for phase in PHASES)
            found[timestep] = abs(made.total - actual) / max(actual, 1e-9)
    return found


def beside(stores: Stores, timestep: int) -> dict[str, Any]:
    """What `lifelong status` tells: the timestep's forecast, and its error over the run."""
    made = forecasts(stores).get(timestep)
    wrong = errors(stores)
    return {
        "forecast": None if made is None else made.seconds,
        "forecast_error": {
            "timesteps": {str(t): round(e, 4) for t, e in wrong.items()},
            "mean": round(float(np.mean(list(wrong.values()))), 4) if wrong else None,
        },
    }


class _Work:
    """What each phase's time grows with, at timesteps that were and at one that may be."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._known: dict[int, dict[str, float]] = {}

    def of(self, timestep: int) -> dict[str, float]:
        """By phase, of a finished timestep."""
        if timestep not in self._known:
            ledger = self._stores.ledger
            results = {record.phase: record.result for record in ledger.phases(timestep)}
            live = self._sum("1", "arrived <= :t AND (status = 'live' OR changed >= :t)", timestep)
            tokens = self._sum(_TOKENS, "arrived <= :t AND (status = 'live' OR changed >= :t)", timestep)
            trained = ledger.selection(timestep)
            config = self._config(timestep)
            self._known[timestep] = {
                "ingest": results["ingest"]["rows"],
                "measure": tokens * _fresh(results["measure"]),
                **dict.fromkeys(("cluster", "route", "select", "prune"), live),
                "train": self._tokens_of(trained) * config.train.epochs,
                **self._answers(results["evaluate"], config),
            }
        return self._known[timestep]

    def ahead(self, config: RunConfig, arriving: Arriving, timestep: int) -> dict[str, float]:
        """By phase, of a timestep that has not come yet (or has only been read in)."""
        before = "arrived < :t AND status = 'live'"
        live = self._sum("1", before, timestep) + arriving.accepted
        a_char, an_image = self._lengths()
        new_tokens = a_char * arriving.text_chars + an_image * arriving.images
        tokens = self._sum(_TOKENS, before, timestep) + new_tokens
        budget = min(budget_of(config.train.budget, arriving.accepted), live)
        tested = {cell.skill for cell in self._stores.ledger.evaluations()}
        arrived = {skill.name for skill in self._stores.evals.skills() if skill.timestep is not None}
        arrived.add(arriving.skill)
        items = {skill: count for skill, count in self._items(config).items() if skill in tested}
        learned = sum(count for skill, count in items.items() if skill in arrived)
        limit = config.evaluate.limit
        new = min(arriving.answers, limit) if limit else arriving.answers
        return {
            "ingest": arriving.rows,
            "measure": (tokens - new_tokens) * _again(config) + new_tokens,
            **dict.fromkeys(("cluster", "route", "select", "prune"), live),
            "train": self._trained(config, budget, tokens / max(live, 1), new_tokens, arriving)
            * config.train.epochs,
            # A new skill is tested as it was at first, before this timestep, and after it.
            "evaluate": learned + new,
            "unlearned": sum(items.values()) - learned + 2 * new,
        }

    def _trained(
        self, config: RunConfig, budget: int, a_sample: float, new_tokens: float, arriving: Arriving
    ) -> float:
        """Tokens of a selection: of samples like the pool's, or like the arriving ones' where only they compete."""
        groups = method(config.recipe, config).candidates.groups(np.array([False, True]), 2)
        only_new = all(group.name == "new" for group in groups)
        return budget * (new_tokens / max(arriving.accepted, 1) if only_new else a_sample)

    def untrained(self) -> float:
        """Seconds an answer before any training; 0 where nothing was asked then, and answers are all counted alike."""
        record = self._stores.ledger.phase(0, "start")
        asked = self._answers(record.result, self._config(1))["unlearned"] if record is not None else 0
        return record.seconds / asked if record is not None and asked else 0.0

    def _answers(self, result: dict[str, Any], config: RunConfig) -> dict[str, float]:
        """Eval items that a phase asked: of skills whose data had arrived, and of others."""
        arrived = {skill.name: skill.timestep for skill in self._stores.evals.skills()}
        items, counts = self._items(config), {"evaluate": 0.0, "unlearned": 0.0}
        for after, skill in cells_of(result):
            first = arrived.get(skill)
            counts["unlearned" if first is None or first > after else "evaluate"] += items.get(skill, 0)
        return counts

    def _items(self, config: RunConfig) -> dict[str, int]:
        """Eval items of each skill, as many as are asked."""
        counts = self._stores.db.execute("SELECT skill, count(*) FROM evals GROUP BY skill").fetchall()
        limit = config.evaluate.limit
        return {skill: min(count, limit) if limit else count for skill, count in counts}

    def _config(self, timestep: int) -> RunConfig:
        return config_of(self._stores, timestep) or RunConfig()

    def _lengths(self) -> tuple[float, float]:
        """Tokens a character and an image, by least squares over the pool's last samples that were read."""
        rows = self._stores.db.execute(
            "SELECT text_chars, n_images, tokens FROM samples JOIN lengths USING (ordinal) WHERE tokens > 0"
            " ORDER BY ordinal DESC LIMIT 20000"
        ).fetchall()
        if not rows:
            return 0.25, 576.0  # of a LLaVA-1.5, until something has been read
        table = np.array(rows, dtype=np.float64)
        found, *_ = np.linalg.lstsq(table[:, :2], table[:, 2], rcond=None)
        return max(float(found[0]), 0.01), max(float(found[1]), 0.0)

    def _sum(self, what: str, where: str, timestep: int) -> float:
        (total,) = self._stores.db.execute(
            f"SELECT total({what}) FROM samples LEFT JOIN lengths USING (ordinal) WHERE {where}",
            {"t": timestep},
        ).fetchone()
        return float(total)

    def _tokens_of(self, ordinals: Sequence[int] | np.ndarray) -> float:
        known = self._stores.pool.tokens(ordinals)
        usual = float(known[known > 0].mean()) if (known > 0).any() else 1.0
        return float(np.where(known > 0, known, usual).sum())


_TOKENS = "coalesce(tokens, text_chars / 4.0 + 1)"


def _fresh(measured: dict[str, Any]) -> float:
    """Share of the samples that a timestep measured, of all that it had signals of."""
    count = measured["measured"]
    return count / max(count + measured.get("carried", 0), 1)


def _again(config: RunConfig) -> float:
    """Share of the pool that is measured again in each timestep, with `measure.refresh` on average."""
    match config.measure.refresh:
        case "all":
            return 1.0
        case "new":
            return 0.0
        case stale:
            return 1 / (int(stale.removeprefix("stale(").removesuffix(")")) + 1)


def _arrived(stores: Stores, timestep: int) -> Arriving:
    """What has just been read in, as `plan` would have seen it."""
    (fed,) = (each for each in stores.pool.datasets() if each.timestep == timestep)
    chars, images = stores.db.execute(
        "SELECT total(text_chars), total(n_images) FROM samples WHERE arrived = ?", [timestep]
    ).fetchone()
    (image_bytes,) = stores.db.execute(
        "SELECT total(length) FROM media WHERE path LIKE ?", [f"media/pack-{timestep:04d}-%"]
    ).fetchone()
    (answers,) = stores.db.execute(
        "SELECT count(*) FROM evals WHERE skill NOT IN (SELECT skill FROM evaluations)"
    ).fetchone()
    return Arriving(fed.skill, fed.rows, fed.accepted, int(chars), int(images), int(image_bytes), answers)


def _seconds(stores: Stores, timestep: int, phase: str) -> float:
    record = stores.ledger.phase(timestep, phase)
    return 0.0 if record is None else record.seconds


def _rate(pairs: Iterable[tuple[float, float]]) -> float:
    """Seconds a unit: a weighted mean of what each timestep took, the last one the heaviest."""
    pairs = [(work, seconds) for work, seconds in pairs if work > 0]
    weights = [MEMORY ** (len(pairs) - place) for place in range(1, len(pairs) + 1)]
    total = sum(weight * work for weight, (work, _) in zip(weights, pairs, strict=True))
    return (
        sum(weight * seconds for weight, (_, seconds) in zip(weights, pairs, strict=True)) / total
        if total
        else 0.0
    )


def _bytes(stores: Stores, config: RunConfig, arriving: Arriving, last: int, ahead: dict[str, float]) -> int:
    """Signals and tables at what the last timestep's took a sample, an adapter, rows in database and copy, images."""
    ledger = stores.ledger
    measured = [shard for shard in ledger.shards(last, MEASURED) if shard.rows]
    signals = sum(shard.bytes for shard in measured) / max(sum(shard.rows for shard in measured), 1)
    files = ledger.files(last)
    adapter = sum(file.committed.bytes for file in files if file.kind == "adapter")
    tables = sum(file.committed.bytes for file in files if file.kind != "adapter")
    a_sample = tables / max(sum(shard.rows for shard in measured), 1)
    rows = 2 * (arriving.accepted * DATABASE_PER_ROW + 2 * arriving.text_chars)
    images = arriving.image_bytes if config.pool.media == "copy" else 0
    return int(ahead["prune"] * (signals + a_sample) + adapter + rows + images)
