"""Three timesteps of Adapt-∞ on a tiny LLaVA: what each leaves, and that it agrees with itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lifelong import Run
from lifelong.account.routes import routes, table
from lifelong.loop import PHASES
from policies.routers import score_entropy
from stores.shards import read_array
from tests.runs.conftest import KEEP
from tests.runs.small import (
    COLUMNS_AFTER,
    COLUMNS_BEFORE,
    NAMES,
    answers,
    decisions,
    decisions_path,
    phases,
)

ROWS, BUDGET = 24, 6
EXPERTS = ("el2n", "grounding", "perplexity", "scalselect")
TIMESTEPS = (1, 2, 3)


def live_after(run: Run, timestep: int) -> set[str]:
    """The pool that a timestep left, by its decisions."""
    return {row["sample_id"] for row in decisions(run, timestep) if not row["pruned"]}


def arrived_at(run: Run, timestep: int) -> list[str]:
    """Sample ids in order of arrival."""
    with run.reading() as stores:
        count = stores.pool.counts()["arrived"]
        return [row.sample_id for row in stores.pool.rows(range(count)) if row.arrived == timestep]


def vectors(run: Run, timestep: int) -> np.ndarray:
    """(n, d) float64: the gradients that the timestep's shards hold, rows of length 1."""
    with run.reading() as stores:
        shards = stores.ledger.shards(timestep, "signals")
        rows = np.concatenate([read_array(run.root / shard.path, "gradient") for shard in shards])
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_every_phase_is_committed_once_and_in_order(finished: Run, timestep: int) -> None:
    with finished.reading() as stores:
        done = phases(stores.ledger, timestep)
        before = phases(stores.ledger, 0)
    if timestep == 1:
        assert before == ["start"]
    assert done == list(PHASES)
    assert finished.status()["phase"] is None


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_the_decisions_have_the_columns_that_others_build_on(finished: Run, timestep: int) -> None:
    names = pq.read_schema(decisions_path(finished, timestep)).names
    assert names == COLUMNS_BEFORE + [f"score_{expert}" for expert in EXPERTS] + COLUMNS_AFTER


def test_the_decisions_have_one_row_for_each_live_sample(finished: Run) -> None:
    before: set[str] = set()
    for timestep in TIMESTEPS:
        arrived = arrived_at(finished, timestep)
        assert len(arrived) == ROWS
        ids = [row["sample_id"] for row in decisions(finished, timestep)]
        assert len(ids) == len(set(ids))
        assert set(ids) == before | set(arrived)
        before = live_after(finished, timestep)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_the_selection_is_exactly_the_budget_and_is_trained_on_once(finished: Run, timestep: int) -> None:
    selected = {row["sample_id"] for row in decisions(finished, timestep) if row["selected"]}
    with finished.reading() as stores:
        ordinals = stores.ledger.selection(timestep)
        recorded = [row.sample_id for row in stores.pool.rows(ordinals)]
        order = read_array(stores.ledger.file(timestep, "order"), "ordinal")
        trained = stores.ledger.phase(timestep, "train").result
    assert len(selected) == BUDGET
    assert len(recorded) == BUDGET
    assert set(recorded) == selected
    assert sorted(order) == sorted(ordinals)
    assert (trained["samples"], trained["from_timestep"]) == (BUDGET, timestep - 1)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_ranks_count_the_selected_of_each_cluster(finished: Run, timestep: int) -> None:
    ranks = defaultdict(list)
    for row in decisions(finished, timestep):
        assert (row["rank"] is not None) == row["selected"]
        if row["selected"]:
            ranks[row["cluster"]].append(row["rank"])
    assert len(ranks) == 3
    for found in ranks.values():
        assert sorted(found) == list(range(len(found)))


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_each_cluster_is_scored_by_the_expert_of_highest_entropy(finished: Run, timestep: int) -> None:
    clusters = defaultdict(list)
    for row in decisions(finished, timestep):
        assert row["score"] == row[f"score_{row['scorer']}"]
        clusters[row["cluster"]].append(row)
    for rows in clusters.values():
        entropy = {
            name: score_entropy(np.array([row[f"score_{name}"] for row in rows]), resolution=1e-6)
            for name in EXPERTS
        }
        (chosen,) = {row["scorer"] for row in rows}
        assert entropy[chosen] == max(entropy.values())


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_the_routing_table_agrees_with_the_decisions(finished: Run, timestep: int) -> None:
    with finished.reading() as stores:
        found = routes(stores, timestep)
    rows = [row for row in decisions(finished, timestep) if row["cluster"] is not None]
    assert set(found["experts"]) == set(EXPERTS)
    assert set(found["skipped"]) == {"ofa", "xmas", "mmssr"}
    assert sum(cluster["samples"] for cluster in found["clusters"]) == len(rows)
    for cluster in found["clusters"]:
        mine = [row for row in rows if row["cluster"] == cluster["cluster"]]
        assert {row["scorer"] for row in mine} == {cluster["expert"]}
        assert cluster["selected"] == sum(row["selected"] for row in mine)
        assert cluster["skills"] == Counter(row["skill"] for row in mine)
    told = table(found)
    assert all(expert in told for expert in EXPERTS)
    assert "ofa was not asked" in told


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_each_row_gives_its_reason(finished: Run, timestep: int) -> None:
    for row in decisions(finished, timestep):
        chosen, _, let_go = row["reason"].partition("; pruned: ")
        assert f"cluster {row['cluster']}" in chosen
        assert chosen.endswith(f"by {row['scorer']}")
        assert chosen.startswith("selected: choice" if row["selected"] else "not selected: ")
        if row["selected"]:
            assert f"choice {row['rank'] + 1} of" in chosen
        assert bool(let_go) == row["pruned"]
        if row["pruned"]:
            assert let_go == f"cosine {row['similarity']:.4f} to {row['neighbour']}"


def test_pruned_samples_stay_tombstones(finished: Run) -> None:
    buried: dict[str, int] = {}
    for timestep in TIMESTEPS:
        rows = decisions(finished, timestep)
        assert not buried.keys() & {row["sample_id"] for row in rows}
        buried |= {row["sample_id"]: timestep for row in rows if row["pruned"]}
    assert len(buried) == 3 * ROWS - KEEP
    with finished.reading() as stores:
        for sample_id, timestep in buried.items():
            (row,) = stores.pool.find(sample_id)
            assert (row.status, row.changed) == ("pruned", timestep)
            assert "pruned: cosine" in row.reason


def test_the_pool_holds_as_many_as_it_may(finished: Run) -> None:
    for timestep in TIMESTEPS:
        assert len(live_after(finished, timestep)) == KEEP
    status = finished.status()["pool"]
    assert (status["arrived"], status["live"], status["pruned"]) == (3 * ROWS, KEEP, 3 * ROWS - KEEP)
    with finished.reading() as stores:
        alive = stores.pool.arrays()["sample_ids"].astype(str)
    assert set(alive) == live_after(finished, 3)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_the_neighbour_is_the_most_similar_earlier_sample_of_the_cluster(
    finished: Run, timestep: int
) -> None:
    rows, unit = decisions(finished, timestep), vectors(finished, timestep)
    assert len(rows) == len(unit)
    place = {row["sample_id"]: i for i, row in enumerate(rows)}
    alone = 0
    for i, row in enumerate(rows):
        earlier = [j for j in range(i) if rows[j]["cluster"] == row["cluster"]]
        if not earlier:
            alone += 1
            assert (row["neighbour"], row["similarity"], row["pruned"]) == (None, None, False)
            continue
        cosines = unit[earlier] @ unit[i]
        assert place[row["neighbour"]] in earlier
        assert row["similarity"] == pytest.approx(cosines.max(), abs=2e-6)
        assert unit[place[row["neighbour"]]] @ unit[i] == pytest.approx(cosines.max(), abs=2e-6)
    assert alone == 3


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_what_is_pruned_repeats_more_than_what_stays(finished: Run, timestep: int) -> None:
    clusters = defaultdict(list)
    for row in decisions(finished, timestep):
        clusters[row["cluster"]].append((row["pruned"], row["similarity"]))
    for rows in clusters.values():
        gone = [similarity for pruned, similarity in rows if pruned]
        stay = [similarity for pruned, similarity in rows if not pruned and similarity is not None]
        assert not gone or not stay or min(gone) >= max(stay)


def test_every_skill_is_tested_before_training_and_after_each_timestep(finished: Run) -> None:
    with finished.reading() as stores:
        cells = {(row.timestep, row.skill): row for row in stores.ledger.evaluations()}
    skills = {"vqa": "exact_match", "captioning": "rouge_l", "grounding": "iou50"}
    assert cells.keys() == {(t, skill) for t in (0, *TIMESTEPS) for skill in skills}
    for (_, skill), row in cells.items():
        assert (row.metric, row.n) == (skills[skill], 4)
        assert 0 <= row.value <= 1
    assert len(answers(finished)) == 4 * len(cells)


def test_the_model_answers_otherwise_after_each_training(finished: Run) -> None:
    found = answers(finished)
    by_timestep = [[found[t, "vqa", i] for i in range(4)] for t in (0, *TIMESTEPS)]
    assert len({tuple(each) for each in by_timestep}) == 4


def test_each_timestep_has_its_own_adapter(finished: Run) -> None:
    with finished.reading() as stores:
        folders = [stores.ledger.file(t, "adapter", full=True) for t in (0, *TIMESTEPS)]
    weights = {Path(folder, "adapter_model.safetensors").read_bytes() for folder in folders}
    assert len(weights) == 4


def test_the_datasets_are_on_record(finished: Run) -> None:
    with finished.reading() as stores:
        datasets = stores.pool.datasets()
    assert [(each.name, each.timestep, each.accepted) for each in datasets] == [
        (name, timestep, ROWS) for timestep, name in enumerate(NAMES, 1)
    ]
