"""What the model answered on each eval item after each timestep, so that timesteps can be compared item by item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lifelong.context import Stores
from policies.guards import Comparison, paired, unpaired
from stores.errors import StoreError
from stores.ledger import Evaluation

ANSWERS = "answers"


@dataclass(frozen=True, slots=True)
class Scored:
    """A skill's eval items after a timestep: sample ids and (n,) scores, in order."""

    sample_ids: tuple[str, ...]
    scores: np.ndarray


class AnswerBook:
    """The answers of a run, read from its tables as they are asked for."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._found: dict[tuple[int, str], Scored] | None = None

    def scored(self, timestep: int, skill: str) -> Scored | None:
        """None where no table has them, or it is damaged."""
        if self._found is None:
            self._found = self._read()
        return self._found.get((timestep, skill))

    def _read(self) -> dict[tuple[int, str], Scored]:
        import pyarrow.parquet as pq

        found: dict[tuple[int, str], Scored] = {}
        for record in self._stores.ledger.files():
            if record.kind != ANSWERS:
                continue
            try:
                path = self._stores.ledger.file(record.timestep, ANSWERS)
            except StoreError:
                continue
            table = pq.read_table(path, columns=["timestep", "skill", "sample_id", "score"]).to_pydict()
            places: dict[tuple[int, str], list[int]] = {}
            for row, place in enumerate(zip(table["timestep"], table["skill"], strict=True)):
                places.setdefault(place, []).append(row)
            for place, rows in places.items():
                scores = np.array([table["score"][row] for row in rows], dtype=np.float64)
                found[place] = Scored(tuple(table["sample_id"][row] for row in rows), scores)
        return found


def comparison(
    before: Evaluation, after: Evaluation, was: Scored | None, now: Scored | None, *, pair: bool = True
) -> Comparison:
    """A skill's accuracy before against after: item by item where the items are the same, else by their means."""
    if pair and was is not None and now is not None and was.sample_ids == now.sample_ids and len(now.scores):
        return paired(was.scores, now.scores, after.skill)
    return unpaired(before.value, after.value, before.stderr, after.stderr)
