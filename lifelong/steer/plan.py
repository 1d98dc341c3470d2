"""What a dataset would bring and cost, before anything is written."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lifelong import seeds
from lifelong.config import RunConfig, budget_of
from lifelong.context import Feed, Stores
from lifelong.formats import open_dataset
from lifelong.formats.images import to_rgb
from lifelong.models.encode import Conversation
from lifelong.recipes.method import method
from lifelong.samples import Row, Sample
from lifelong.steer.forecast import Arriving, errors, forecast
from lifelong.steer.likeness import NEW, likeness
from stores.text import batched

REASONS = 10


@dataclass(slots=True)
class _Read:
    """What reading a dataset through has shown."""

    counts: Counter[str]
    reasons: Counter[str]
    chars: int = 0
    images: int = 0
    image_bytes: int = 0


def plan(stores: Stores, config: RunConfig, feed: Feed) -> dict[str, Any]:
    """Read a dataset through, compare it with the pool, and forecast its timestep; writes nothing.

    Raises:
        InputError: the dataset cannot be read.
    """
    timestep = (stores.ledger.last_timestep() or 0) + 1
    rng = seeds.generator(config.seed, timestep, "plan", "sample")
    read = _Read(Counter(), Counter())
    kept = _read_through(stores, feed, read, rng)
    built = method(config.recipe, config)
    answers = _answers(stores, feed)
    accepted = read.counts["accepted"]
    rows = sum(read.counts.values())
    arriving = Arriving(feed.skill, rows, accepted, read.chars, read.images, read.image_bytes, answers)
    foretold = forecast(stores, config, arriving, timestep)
    alike = likeness(stores, config, [_conversation(sample) for sample in kept], rng)
    wrong = list(errors(stores).values())
    live = stores.pool.counts()["live"] + accepted
    return {
        "timestep": timestep,
        "dataset": feed.name,
        "skill": feed.skill,
        "rows": {
            "rows": rows,
            **{name: read.counts[name] for name in ("accepted", "rejected", "duplicate", "held")},
        },
        "reasons": dict(read.reasons.most_common(REASONS)),
        "likeness": None if alike is None else asdict(alike),
        "passes": list(built.measures.passes),
        "measured": live,
        "trained": min(budget_of(config.train.budget, accepted), live) if accepted else 0,
        "answers": answers,
        "forecast": None if foretold is None else {**asdict(foretold), "total": round(foretold.total, 1)},
        "forecast_error": float(np.mean(wrong)) if wrong else None,
    }


def _read_through(stores: Stores, feed: Feed, read: _Read, rng: np.random.Generator) -> list[Sample]:
    """Count what would become of each row; returns a random sample of those that would join (reservoir)."""
    kept: list[Sample] = []
    known: set[str] = set()
    for rows in batched(open_dataset(feed.train, images=feed.images, format=feed.format).rows(), 500):
        held = stores.pool.held([row.sample.sample_id for row in rows if row.sample is not None])
        for row in rows:
            outcome, reason = _outcome(row, held)
            read.counts[outcome] += 1
            if reason:
                read.reasons[re.sub(r'"[^"]*"', '"…"', reason)] += 1
            if outcome == "accepted" and row.sample is not None:
                _take(stores, row.sample, read, known)
                place = int(rng.integers(read.counts["accepted"]))
                if len(kept) < NEW:
                    kept.append(row.sample)
                elif place < NEW:
                    kept[place] = row.sample
    return kept


def _outcome(row: Row, held: dict[str, str]) -> tuple[str, str]:
    """accepted, rejected, duplicate (of an earlier row) or held (by the pool); and why."""
    if row.outcome != "accepted" or row.sample is None:
        return ("duplicate" if row.outcome == "duplicate" else "rejected"), row.reason
    if row.sample.sample_id in held:
        return "held", held[row.sample.sample_id]
    return "accepted", ""


def _take(stores: Stores, sample: Sample, read: _Read, known: set[str]) -> None:
    read.chars += sample.text_chars
    read.images += len(sample.images)
    for image in sample.images:
        if image.sha256 not in known and not stores.media.knows(image.sha256):
            known.add(image.sha256)
            read.image_bytes += len(image.data) if image.data is not None else image.path.stat().st_size  # type: ignore[union-attr]


def _answers(stores: Stores, feed: Feed) -> int:
    """Eval items that it brings, if its skill is not tested yet."""
    if feed.eval is None or any(skill.name == feed.skill for skill in stores.evals.skills()):
        return 0
    rows = open_dataset(feed.eval, images=feed.images_of_eval, format=feed.format_of_eval).rows()
    return sum(row.outcome != "rejected" for row in rows)


def _conversation(sample: Sample) -> Conversation:
    return Conversation(sample.messages, [to_rgb(image.read()) for image in sample.images])


def tell(found: dict[str, Any]) -> str:
    """`plan` in lines for a reader."""
    rows = found["rows"]
    lines = [
        f"{found['dataset']} ({found['skill']}) would be timestep {found['timestep']}",
        f"rows        {rows['rows']}: {rows['accepted']} would join, {rows['rejected']} rejected, "
        f"{rows['duplicate']} repeat an earlier row, {rows['held']} have come before",
        *(f"            {count} x {reason}" for reason, count in found["reasons"].items()),
    ]
    alike = found["likeness"]
    if alike is None:
        lines.append("resembles   the pool is empty: nothing to compare with")
    else:
        lines.append(
            f"near        {100 * alike['near']:.0f} % have a near-duplicate in the pool "
            f"({alike['sampled']} of them against {alike['held']}, by {alike['by']})"
        )
        told = [
            f"{name} {100 * share:.0f} % (likeness {near:.2f})"
            for name, (share, near) in alike["skills"].items()
        ]
        lines.append(f"resembles   {', '.join(told)}")
    passes = " + ".join(found["passes"]) or "no pass"
    lines.append(
        f"work        {found['measured']} samples measured ({passes}), {found['trained']} trained on"
    )
    foretold = found["forecast"]
    if foretold is None:
        lines.append(
            "time        cannot be said yet: no timestep of this run has finished, so it has no rate of its own"
        )
        return "\n".join(lines)
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in foretold["seconds"].items())
    wrong = found["forecast_error"]
    by = f"; so far off by {100 * wrong:.0f} % on average" if wrong is not None else ""
    lines.append(
        f"time        {foretold['total']:.1f} s by the rates of the last timesteps ({foretold['on']}){by}"
    )
    lines.append(f"            {phases}")
    lines.append(f"disk        {foretold['bytes'] / 1e6:.1f} MB")
    return "\n".join(lines)
