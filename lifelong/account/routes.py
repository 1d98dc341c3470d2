"""The routing table of a timestep: which cluster, of which skills, went to which expert, and why."""

from __future__ import annotations

from typing import Any

from lifelong.context import Stores
from lifelong.errors import InputError

SKILLS_SHOWN = 3


def routes(stores: Stores, timestep: int | None = None) -> dict[str, Any]:
    """The clusters of a timestep (default: the last finished one), largest first.

    Returns {"timestep", "experts", "skipped", "clusters": [{cluster, samples, skills: {skill: samples},
    expert, values: {expert: what the router compared, for entropy in bits, None where it cannot rank},
    selected, pruned}]}. The skills are the true ones, which the method never sees.

    Raises:
        InputError: the timestep is not finished.
    """
    import pyarrow.parquet as pq

    ledger = stores.ledger
    finished = [t for t in range(1, (ledger.last_timestep() or 0) + 1) if ledger.phase(t, "prune")]
    chosen = timestep if timestep is not None else max(finished, default=0)
    if chosen not in finished:
        raise InputError(f"timestep {chosen} is not finished; finished are {finished or 'none'}")
    record = ledger.phase(chosen, "route")
    if record is None:
        raise InputError(f"timestep {chosen} has no routing on record")
    columns = ["cluster", "skill", "selected", "pruned"]
    table = pq.read_table(ledger.file(chosen, "decisions"), columns=columns).to_pandas()
    clusters = []
    for cluster, rows in table.dropna(subset=["cluster"]).groupby("cluster"):
        name = str(int(cluster))
        clusters.append(
            {
                "cluster": int(cluster),
                "samples": len(rows),
                "skills": {skill: int(count) for skill, count in rows["skill"].value_counts().items()},
                "expert": record.result["choice"][name],
                "values": record.result["values"][name],
                "selected": int(rows["selected"].sum()),
                "pruned": int(rows["pruned"].sum()),
            }
        )
    clusters.sort(key=lambda row: (-row["samples"], row["cluster"]))
    return {
        "timestep": chosen,
        "experts": record.result["experts"],
        "skipped": record.result["skipped"],
        "clusters": clusters,
    }


def table(found: dict[str, Any]) -> str:
    """`routes` in columns: entropies in bits, the chosen expert's marked."""
    experts = found["experts"]
    heading = ["cluster", "samples", *experts, "selected", "pruned", "true skills"]
    rows = [heading]
    for row in found["clusters"]:
        skills = ", ".join(f"{name} {count}" for name, count in list(row["skills"].items())[:SKILLS_SHOWN])
        more = len(row["skills"]) - SKILLS_SHOWN
        rows.append(
            [
                str(row["cluster"]),
                str(row["samples"]),
                *(_value(row, expert) for expert in experts),
                str(row["selected"]),
                str(row["pruned"]),
                skills + (f" and {more} more" if more > 0 else ""),
            ]
        )
    widths = [max(len(cells[i]) for cells in rows) for i in range(len(heading))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows
    ]
    skipped = [f"{name} was not asked: {why}" for name, why in found["skipped"].items()]
    title = f"timestep {found['timestep']}: entropy of each expert's scores in bits; * = decides the cluster"
    return "\n".join([title, *lines, *skipped])


def _value(row: dict[str, Any], expert: str) -> str:
    value = row["values"].get(expert)
    text = "-" if value is None else f"{value:.2f}"
    return text + ("*" if row["expert"] == expert else " ")
