"""Why a sample was kept, used, dropped or refused: everything that the run has on record about it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lifelong.context import Stores
from lifelong.errors import InputError

REFUSALS_SHOWN = 20
REFUSED = ("rejected", "duplicate")


def why(stores: Stores, sample: str) -> dict[str, Any]:
    """What became of a sample, named by its sample id (or the beginning of it) or its id in its dataset.

    Returns {"samples": [{sample, its decisions per timestep}…], "refused": [rows that never joined, or were refused
    of an eval set…]}.

    Raises:
        InputError: nothing on record has that name.
    """
    rows = stores.pool.find(sample)
    refused = [
        {**asdict(refusal), "dataset": dataset, "timestep": timestep}
        for dataset, timestep, refusal in stores.pool.refusals_named(sample)
    ]
    of_evals = _eval_refusals(stores, sample)
    if not rows and not refused and not of_evals:
        raise InputError(
            f"nothing on record is named {sample!r}: give a sample id (or its first characters), the row's own id, "
            "file:row of a refused row, or the file of an eval set for all its refused rows"
        )
    samples = [_sample(row) | {"decisions": _decisions(stores, row.sample_id, row.arrived)} for row in rows]
    return {"samples": samples, "refused": refused[:REFUSALS_SHOWN] + of_evals}


def _eval_refusals(stores: Stores, name: str) -> list[dict[str, Any]]:
    """Rows of eval sets that were refused whose own id, file:row or file is `name`."""
    found = []
    for skill in stores.evals.skills():
        for row in stores.ledger.get_meta(f"eval_refused/{skill.name}", []):
            refusal = {"source_id": None, "fix": "", **row}
            if name in (refusal["source_id"], refusal["file"], f"{refusal['file']}:{refusal['row']}"):
                about = {"dataset": f"eval set of {skill.name}", "timestep": skill.timestep}
                found.append({"outcome": "rejected", "of": None, **refusal, **about})
    return found


def why_selected(decisions: Path, sample: str) -> dict[str, Any]:
    """The same for a one-shot selection: `decisions` is the table that `lifelong select` wrote beside its output.

    sample: as for `why`, or file:row.

    Raises:
        InputError: the file is no such table, or nothing in it has that name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(decisions).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{decisions} is no table of decisions: {error}") from error
    found = [row for row in rows if "reason" in row and _is_named(row, sample)]
    if not found:
        raise InputError(
            f"{decisions}: nothing is named {sample!r}: give a sample id (or its first characters), the row's own id, "
            "or file:row"
        )
    refused = [_refusal_of_table(row) for row in found if _status(row) in REFUSED]
    samples = [_of_table({**row, "status": _status(row)}) for row in found if _status(row) not in REFUSED]
    return {"samples": samples, "refused": refused[:REFUSALS_SHOWN]}


def _status(row: dict[str, Any]) -> str:
    """selected, not selected, or why a row without a cluster was not asked: quarantined, rejected, duplicate."""
    if row.get("cluster") is None:
        return str(row["reason"]).partition(":")[0]
    return "selected" if row["selected"] else "not selected"


def _refusal_of_table(row: dict[str, Any]) -> dict[str, Any]:
    outcome, _, reason = str(row["reason"]).partition(": ")
    told = {name: row.get(name) for name in ("dataset", "file", "row", "source_id")}
    return told | {"timestep": 1, "outcome": outcome, "reason": reason, "fix": "", "of": row.get("neighbour")}


def _is_named(row: dict[str, Any], sample: str) -> bool:
    own = (row.get("source_id"), f"{row.get('file')}:{row.get('row')}")
    return sample in own or (row["sample_id"] or "").startswith(sample.lower())


def _of_table(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table as `tell` shows a sample of a run."""
    decision = {name: value for name, value in row.items() if value is not None}
    told = {
        name: row.get(name)
        for name in ("sample_id", "dataset", "source_id", "file", "row", "skill", "status")
    }
    return told | {"arrived": 1, "reason": "", "text": "", "decisions": [{"timestep": 1, **decision}]}


def _sample(row: Any) -> dict[str, Any]:
    names = ("sample_id", "dataset", "source_id", "file", "row", "skill", "arrived", "status", "reason")
    described = {name: getattr(row, name) for name in names}
    text = " / ".join(
        part["text"] for message in row.messages for part in message["content"] if part["type"] == "text"
    )
    return described | {"images": len(row.images), "text": text if len(text) <= 300 else text[:299] + "…"}


def _decisions(stores: Stores, sample_id: str, arrived: int) -> list[dict[str, Any]]:
    """One entry per timestep at which the sample was in the pool."""
    found = []
    for timestep in range(arrived, (stores.ledger.last_timestep() or 0) + 1):
        if stores.ledger.phase(timestep, "prune") is None:
            continue
        for row in _rows_of(stores.ledger.file(timestep, "decisions"), sample_id):
            values = {name: value for name, value in row.items() if value is not None}
            values = {name: v for name, v in values.items() if not (isinstance(v, float) and math.isnan(v))}
            found.append({"timestep": timestep, **values})
    return found


def _rows_of(path: Path, sample_id: str) -> list[dict[str, Any]]:
    """A sample's row in a table of decisions, of which no more is read than its ids and the part with that row."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["sample_id"])["sample_id"]
            place = pc.index(ids, sample_id).as_py()
            if place >= 0:
                return file.read_row_group(group).slice(place, 1).to_pylist()
    return []


def tell(found: dict[str, Any]) -> str:
    """`why` in lines for a reader."""
    lines: list[str] = []
    for sample in found["samples"]:
        lines.append(
            f"{sample['sample_id']}  {sample['dataset']} {sample['source_id'] or ''} ({sample['skill']})"
        )
        if sample["text"]:
            lines.append(f"  {sample['text']}")
        lines.append(
            f"  arrived at timestep {sample['arrived']} from {sample['file']} row {sample['row']}; "
            f"now {sample['status']}" + (f": {sample['reason']}" if sample["reason"] else "")
        )
        for decision in sample["decisions"]:
            scores = ", ".join(
                f"{name.removeprefix('score_')} {value:.4g}"
                for name, value in decision.items()
                if name.startswith("score_")
            )
            lines.append(
                f"  timestep {decision['timestep']}: {decision['reason']}"
                + (f" ({scores})" if scores else "")
                + (f", measured at timestep {decision['measured']}" if "measured" in decision else "")
            )
    for refusal in found["refused"]:
        place = f"{refusal['dataset']}, {refusal['file']} row {refusal['row']} ({refusal['source_id']})"
        told = "; ".join(filter(None, [refusal["reason"], refusal["fix"]]))
        lines.append(f"refused: {place}: {told}")
    return "\n".join(lines)
