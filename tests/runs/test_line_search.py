"""A timestep keeps the point between two adapters that knows best what it was not trained on (start line-search)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lifelong import Run
from lifelong.context import Context, Feed, ModelHolder
from lifelong.measure.passes import AnswerPass
from lifelong.training.average import averaged
from lifelong.training.held_out import held_out
from stores.pool import PoolRow
from tests.runs.small import write_stream

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def two_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("two"), names=("easyvqa", "tux_caption"), rows=16, evals=2)


@contextmanager
def second_timestep(run: Run) -> Iterator[tuple[Context, dict]]:
    """The run's second timestep, to read; what its training committed."""
    with run.reading() as stores:
        context = Context(stores, run.config, 2, Feed("", "", ""), ModelHolder(run.config))
        yield context, stores.ledger.phase(2, "train").result


def error_of(context: Context, folder: Path, rows: list[PoolRow]) -> float:
    """What the search minimises, one sample at a time, as anybody would write it."""
    vlm = context.models.with_adapter(folder)
    by_dataset: dict[str, list[float]] = {}
    for row in rows:
        conversation = context.stores.loader.conversation(row)
        (found,) = AnswerPass(vlm)([conversation])["el2n"].tolist()
        by_dataset.setdefault(row.dataset, []).append(found)
    return float(np.mean([np.mean(errors) for errors in by_dataset.values()]))


# The first rate takes the model further than the second dataset's few rows can say; the other hardly moves it.
@pytest.mark.parametrize(("rate", "all_of_it"), [(0.03, False), (1e-4, True)])
def test_what_is_kept_is_best_on_samples_that_were_not_trained_on(
    rate: float, all_of_it: bool, two_datasets: Path, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    train = {"budget": 5, "epochs": 3, "learning_rate": rate}
    went_on = new_run("went-on", recipe="random", train=train)
    run = new_run(recipe={"recipe": "random", "start": "line-search[points=2 rows=10]"}, train=train)
    went_on.run_stream(two_datasets)
    run.run_stream(two_datasets)
    with second_timestep(went_on) as (context, _):
        after = context.adapter(2)
    with second_timestep(run) as (context, result):
        rows = held_out(context, 10)
        trained_on = set(context.stores.ledger.selected_before(3).tolist())
        assert not trained_on.intersection(row.ordinal for row in rows)
        assert Counter(row.dataset for row in rows) == {"easyvqa": 5, "tux_caption": 5}

        before, kept = context.adapter(1), context.adapter(2)
        errors = {}
        for weight in (0.5, 1.0):
            folder = tmp_path / f"{weight}"
            averaged(before, after, weight)(folder)
            errors[weight] = error_of(context, folder, rows)
        assert {each["weight"]: each["error"] for each in result["tried"]} == pytest.approx(errors, rel=1e-5)
        assert result["weight"] == min(errors, key=errors.__getitem__)
        assert (result["weight"] == 1) is all_of_it
        mixed = load_file(tmp_path / f"{result['weight']}" / WEIGHTS)
        assert all(torch.equal(weight, mixed[name]) for name, weight in load_file(kept / WEIGHTS).items())


def test_where_nothing_is_left_untrained_all_of_the_training_is_kept(
    two_datasets: Path, new_run: Callable[..., Run]
) -> None:
    run = new_run(
        recipe={"recipe": "sequential", "start": "line-search"}, train={"budget": "100%", "epochs": 1}
    )
    run.run_stream(two_datasets)
    with second_timestep(run) as (_, result):
        assert (result["weight"], result["tried"]) == (1, [])
