"""Every installed recipe on two timesteps: budgets to the sample, candidates respected."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifelong import Run
from lifelong.errors import UsageError
from lifelong.recipes.method import method
from policies import registry
from policies.grammar import Recipe
from tests.raters.rule import known, write_ratings
from tests.runs.small import (
    COLUMNS_AFTER,
    COLUMNS_BEFORE,
    decisions,
    entry,
    rows_of,
    write_rows,
    write_stream,
)

ROWS, BUDGET = 16, 5


@pytest.fixture(scope="module")
def two_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("two"), names=("easyvqa", "tux_caption"), rows=ROWS, evals=0)


@pytest.mark.parametrize("name", registry.names("recipes"))
def test_a_recipe_spends_its_budget_and_keeps_to_its_candidates(
    name: str,
    two_datasets: Path,
    new_run: Callable[..., Run],
    encoder_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    recipe, measures = registry.recipe(name), method(name).measures
    needed = measures.producers
    encoder = {"kind": "clip", "path": str(encoder_folders["clip"])} if "encoder" in needed else {}
    rater = {"ratings": str(_rated(tmp_path / "r.jsonl"))} if "rater" in needed else {}
    asked = {"shard_size": 64, "trajectory": 2 if measures.trajectory else 0}
    if name == "less":
        questions = write_rows(tmp_path / "validation.json", rows_of("easyvqa", "eval")[:4])
        asked |= {"validation": str(questions), "validation_images": entry("easyvqa")["images"]}
    run = new_run(recipe=name, train={"budget": BUDGET}, measure=asked, encoder=encoder, rater=rater)
    run.run_stream(two_datasets)
    for timestep, pool in ((1, ROWS), (2, 2 * ROWS)):
        rows = decisions(run, timestep)
        selected = [row for row in rows if row["selected"]]
        _check_table(run, timestep, rows)
        assert len(rows) == pool
        assert len(selected) == (pool if recipe.budget.name == "all" else BUDGET)
        new = [row for row in selected if row["dataset"] == ("easyvqa", "tux_caption")[timestep - 1]]
        if recipe.candidates.name == "new" or timestep == 1:
            assert len(new) == len(selected)
        elif recipe.candidates.name == "replay":
            assert len(new) == 2  # of 5; the odd one goes to the old
        with run.reading() as stores:
            trained = stores.ledger.phase(timestep, "train").result
        assert trained["samples"] == len(selected)
        assert trained["from_timestep"] == (0 if recipe.start.name == "base" else timestep - 1)


def _rated(path: Path) -> Path:
    return write_ratings(known(("easyvqa", "tux_caption"), rows=ROWS), path)


def test_the_recipes_that_differ_in_candidates_are_among_them() -> None:
    words = {name: registry.recipe(name) for name in registry.names("recipes")}
    assert words["sequential"].candidates.name == "new"
    assert words["random-replay"].candidates.name == "replay"
    assert (words["multitask"].budget.name, words["multitask"].start.name) == ("all", "base")


def _check_table(run: Run, timestep: int, rows: list[dict[str, Any]]) -> None:
    """The columns, each row's reason, ranks that count up in each cluster, and the selection on record."""
    with run.reading() as stores:
        experts = sorted(stores.ledger.phase(timestep, "route").result["experts"])
        recorded = [row.sample_id for row in stores.pool.rows(stores.ledger.selection(timestep))]
    assert list(rows[0]) == COLUMNS_BEFORE + [f"score_{name}" for name in experts] + COLUMNS_AFTER
    assert Counter(recorded) == Counter(row["sample_id"] for row in rows if row["selected"])
    ranks = defaultdict(list)
    for row in rows:
        assert row["reason"].startswith("selected" if row["selected"] else "not selected")
        if row["selected"]:
            ranks[row["cluster"]].append(row["rank"])
    for found in ranks.values():
        assert sorted(found) == list(range(len(found)))


def test_the_sequential_reason_names_the_candidates(two_datasets: Path, new_run: Callable[..., Run]) -> None:
    run = new_run(recipe="sequential", train={"budget": BUDGET})
    run.run_stream(two_datasets)
    old = {row["reason"] for row in decisions(run, 2) if row["dataset"] == "easyvqa"}
    assert old == {"not selected: the recipe does not draw on samples of earlier timesteps"}


def test_a_budget_beyond_the_pool_takes_all_of_it(two_datasets: Path, new_run: Callable[..., Run]) -> None:
    run = new_run(recipe="random", train={"budget": 20})
    run.run_stream(two_datasets)
    counts = [sum(row["selected"] for row in decisions(run, timestep)) for timestep in (1, 2)]
    assert counts == [ROWS, 20]


def test_progress_compares_with_the_timestep_before(two_datasets: Path, new_run: Callable[..., Run]) -> None:
    words = (
        "clusters source · router entropy[progress perplexity] · budget mean[absolute=true] · sample random"
    )
    run = new_run(recipe=Recipe.parse("moving", words).to_dict(), train={"budget": BUDGET})
    run.run_stream(two_datasets)
    first, second = decisions(run, 1), decisions(run, 2)
    assert all(row["score_progress"] is None for row in first)
    before = {row["sample_id"]: row["score_perplexity"] for row in first}  # the nll
    for row in second:
        if row["dataset"] == "tux_caption":
            assert row["score_progress"] is None
        else:
            expected = before[row["sample_id"]] - row["score_perplexity"]
            assert row["score_progress"] == pytest.approx(expected, abs=1e-5)
    assert any(abs(row["score_progress"]) > 1e-4 for row in second if row["dataset"] == "easyvqa")
    assert {row["cluster"] for row in second if row["dataset"] == "easyvqa"} == {0}
    assert len({row["cluster"] for row in second}) == 2


def test_progress_is_not_told_of_signals_that_were_kept(new_run: Callable[..., Run]) -> None:
    given = {"train": {"budget": BUDGET}, "measure": {"refresh": "stale(2)"}}
    alone = Recipe.parse("moving", "router always[progress] · sample random").to_dict()
    with pytest.raises(UsageError, match=r"set measure\.refresh to all"):
        new_run(recipe=alone, **given)
    among = Recipe.parse("moving", "router entropy[progress perplexity] · sample random").to_dict()
    run = new_run(recipe=among, **given)
    assert list(method(run.config.recipe, run.config).scorers) == ["perplexity"]
