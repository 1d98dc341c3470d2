"""Which samples compete for a timestep's budget, over a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lifelong import Run


def test_fresh_never_trains_twice_on_a_sample_while_others_are_left(
    new_run: Callable[..., Run], stream: Path
) -> None:
    run = new_run(recipe={"recipe": "random", "candidates": "fresh"}, train={"budget": "75%"})
    run.run_stream(stream)
    with run.reading() as stores:
        chosen = [stores.ledger.selection(timestep) for timestep in (1, 2, 3)]
        pool = stores.pool.arrays()
    assert [len(each) for each in chosen] == [18, 18, 18]
    assert len(np.unique(np.concatenate(chosen))) == 54
    arrived = dict(zip(pool["ordinal"].tolist(), pool["arrived"].tolist(), strict=True))
    assert {arrived[ordinal] for ordinal in chosen[2].tolist()} > {3}
