"""Who shares the room of the pool: this timestep's clusters, or the datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lifelong import Run
from tests.runs.small import NAMES, RECIPE, decisions


@pytest.mark.parametrize("word", ["semdedup[within=source]", "random[within=source]"])
def test_every_dataset_keeps_an_even_share_of_the_pool(
    word: str, new_run: Callable[..., Run], stream: Path
) -> None:
    run = new_run(recipe=RECIPE | {"prune": word}, pool={"keep": 20})
    run.run_stream(stream)
    for timestep in (1, 2, 3):
        rows = decisions(run, timestep)
        live = Counter(row["dataset"] for row in rows if not row["pruned"])
        assert live.total() == 20
        assert set(live) == set(NAMES[:timestep])
        assert max(live.values()) - min(live.values()) <= 1
        datasets = {row["sample_id"]: row["dataset"] for row in rows}
        repeated = [(row["dataset"], row["neighbour"]) for row in rows if row["neighbour"]]
        assert bool(repeated) == word.startswith("semdedup")
        assert all(datasets[neighbour] == dataset for dataset, neighbour in repeated)
