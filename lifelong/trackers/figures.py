"""What a ledger has to say to a tracker."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lifelong.account.curves import backward_transfer, curves_of, forgetting

if TYPE_CHECKING:
    from lifelong.context import Stores


def figures(stores: Stores) -> dict[int, dict[str, float]]:
    """Timestep → figure → value, of every finished timestep; 0 is before any training.

    `accuracy/SKILL`, `stderr/SKILL`, `forgetting/SKILL`, `backward_transfer/SKILL` in [0, 1]; `average_accuracy` and
    `average_forgetting` over the skills seen so far; `pool/…` samples; `train/…`; `seconds/PHASE`. What is once said
    of a timestep never changes; a skill that becomes known late adds to earlier ones.
    """
    ledger = stores.ledger
    finished = [
        t for t in range(1, (ledger.last_timestep() or 0) + 1) if ledger.phase(t, "prune") is not None
    ]
    found: dict[int, dict[str, float]] = {t: _of_phases(stores, t) for t in finished}
    if not finished:
        return found
    curves = curves_of(stores, finished[-1])
    lost, gained = forgetting(curves.R), backward_transfer(curves.R, curves.introduced)
    for timestep in range(len(curves.R)):
        values = found.setdefault(timestep, {})
        values["average_accuracy"] = curves.average_accuracy[timestep]
        seen = lost[timestep][curves.introduced <= timestep]
        values["average_forgetting"] = seen.mean() if len(seen) else math.nan
        for place, skill in enumerate(curves.skills):
            values[f"accuracy/{skill}"] = curves.R[timestep, place]
            values[f"stderr/{skill}"] = curves.stderr[timestep, place]
            values[f"forgetting/{skill}"] = lost[timestep, place]
            values[f"backward_transfer/{skill}"] = gained[timestep, place]
    return {
        t: {name: float(v) for name, v in values.items() if math.isfinite(v)} for t, values in found.items()
    }


def _of_phases(stores: Stores, timestep: int) -> dict[str, float]:
    records = stores.ledger.phases(timestep)
    results: dict[str, dict[str, Any]] = {record.phase: record.result for record in records}
    values: dict[str, Any] = {
        "pool/arrived": results["ingest"]["accepted"],
        "pool/rejected": results["ingest"]["rejected"],
        "pool/duplicates": results["ingest"]["duplicates"],
        "pool/quarantined": results["measure"]["quarantined"],
        "pool/selected": results["select"]["selected"],
        "pool/selected_new": results["select"]["new"],
        "pool/pruned": results["prune"]["pruned"],
        "pool/live": results["prune"]["live"],
        "train/steps": results["train"]["steps"],
        "train/mean_loss": results["train"]["loss"],
    }
    values |= {f"seconds/{record.phase}": record.seconds for record in records}
    return {name: float(value) for name, value in values.items() if value is not None}
