"""The decisions of a finished timestep, and the samples of them that a page has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lifelong.context import Stores
from lifelong.report.absent import telling

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Decided:
    """A finished timestep.

    table: a row for each measured sample, by sample id, without the reasons; digest: of the file that it is from.
    """

    timestep: int
    table: pd.DataFrame
    digest: str = ""

    def sampled(self, most: int) -> pd.DataFrame:
        """At most so many rows, the same samples at every timestep as long as they are held.

        A sample id is a hash of the sample's content, so that the lowest ids are a random sample of the pool.
        """
        return self.table.iloc[:most]


def finished(stores: Stores) -> list[int]:
    """The timesteps that are finished, first to last."""
    last = stores.ledger.last_timestep() or 0
    return [t for t in range(1, last + 1) if stores.ledger.phase(t, "prune") is not None]


def decided(stores: Stores, timestep: int) -> Decided:
    """Raises: AbsentError if the decisions are lost or damaged."""
    import pyarrow.parquet as pq

    with telling(f"the decisions of timestep {timestep}"):
        path = stores.ledger.file(timestep, "decisions")
        (digest,) = (r.committed.sha256 for r in stores.ledger.files(timestep) if r.kind == "decisions")
        file = pq.ParquetFile(path)
        columns = [name for name in file.schema_arrow.names if name != "reason"]
        table = file.read(columns).to_pandas()
    measured = table[table["cluster"].notna()].sort_values("sample_id", ignore_index=True)
    return Decided(timestep, measured.astype({"cluster": int, "selected": bool, "pruned": bool}), digest)


def reasons(stores: Stores, timestep: int, sample_ids: list[str]) -> dict[str, str]:
    """sample_id → why it was selected or not, and pruned or not. Raises: AbsentError as `decided`."""
    import pyarrow.parquet as pq

    with telling(f"the decisions of timestep {timestep}"):
        path = stores.ledger.file(timestep, "decisions")
        wanted = [("sample_id", "in", sample_ids)]
        found = pq.read_table(path, columns=["sample_id", "reason"], filters=wanted) if sample_ids else None
    return (
        {}
        if found is None
        else dict(zip(*(found[name].to_pylist() for name in found.column_names), strict=True))
    )
