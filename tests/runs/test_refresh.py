"""`measure.refresh`: samples keep their newest signals, and what that saves, keeps and costs."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.config import parse_config
from lifelong.engines import work as measuring
from lifelong.errors import UsageError
from lifelong.signals.pool import MEASURED, origins_of, reader_of, shards_in_use
from lifelong.upkeep.fsck import examine
from stores.database import transaction
from stores.shards import read_array
from tests.durability.growth import SETTINGS, write_dataset
from tests.runs.small import decisions

ROWS = 8  # of a dataset
TIMESTEPS = 3
RECIPE = {"recipe": "el2n", "prune": "none", "vectors": "gradient[dim=64]", "clusters": "kmeans[k=2]"}
SAMPLES = {"all": [8, 16, 24], "stale(0)": [8, 16, 24], "stale(1)": [8, 8, 16], "new": [8, 8, 8]}

Make = Callable[..., Run]


@pytest.fixture(scope="module")
def make(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a run of three small datasets under one rule of refreshing, once each."""
    data = tmp_path_factory.mktemp("data")
    known: dict[str, Run] = {}

    def made(refresh: str, timesteps: int = TIMESTEPS, fresh: bool = False, **sections: dict) -> Run:
        if refresh in known and not fresh:
            return known[refresh]
        config = SETTINGS | {
            "measure": {"batch_size": 8, "shard_size": 3, "refresh": refresh},
            "pool": {},
            "keep": {},
            "train": {"budget": "50%", "batch_size": 2, "learning_rate": 5e-3},
            **sections,
        }
        run = Run.create(
            tmp_path_factory.mktemp("refresh") / "run", model=llava, recipe=RECIPE, config=config
        )
        for number in range(1, timesteps + 1):
            run.feed(write_dataset(data, number), images=data / "images", skill="colours")
        if not fresh:
            known[refresh] = run
        return run

    return made


def signals(run: Run, timestep: int, name: str = "gradient") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ordinals, timestep measured, signal) of the samples that a timestep worked with."""
    with run.reading() as stores:
        origins = origins_of(stores, timestep)
        return origins.ordinals, origins.timesteps, reader_of(stores, origins, MEASURED).matrix(name)


def measured(run: Run) -> list[int]:
    with run.reading() as stores:
        return [stores.ledger.phase(t, "measure").result["measured"] for t in range(1, TIMESTEPS + 1)]


@pytest.mark.parametrize("refresh", SAMPLES)
def test_as_many_samples_are_measured_as_the_rule_says(refresh: str, make: Make) -> None:
    assert measured(make(refresh)) == SAMPLES[refresh]


def test_old_samples_keep_their_newest_signals_and_fresh_ones_have_the_models(make: Make) -> None:
    whole, new, stale = make("all"), make("new"), make("stale(1)")
    ordinals, at, vectors = signals(new, 3)
    assert ordinals.tolist() == list(range(24))
    assert at.tolist() == [1] * 8 + [2] * 8 + [3] * 8
    for timestep, rows in ((1, slice(0, 8)), (2, slice(8, 16))):
        before = signals(new, timestep)[2]
        np.testing.assert_array_equal(vectors[rows], before[rows])
    # The first training is the same whatever the rule, so what is measured after it is too.
    np.testing.assert_allclose(signals(new, 2)[2][8:], signals(whole, 2)[2][8:], atol=2e-3)
    assert np.abs(signals(new, 2)[2][:8] - signals(whole, 2)[2][:8]).max() > 0.01
    ordinals, at, _ = signals(stale, 3)
    assert at.tolist() == [3] * 8 + [2] * 8 + [3] * 8
    ages = {row["sample_id"]: row["measured"] for row in decisions(stale, 3)}
    assert sorted(ages.values()) == sorted(at.tolist())
    assert "measured" not in decisions(whole, 3)[0]


def test_nothing_stale_is_all(make: Make) -> None:
    assert make("stale(0)").digest() == make("all").digest()
    assert make("new").digest() != make("all").digest()


def test_a_stopped_measure_goes_on_as_if_it_had_not_been(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make("stale(1)", timesteps=2, fresh=True)
    write, count = measuring.write_shard, itertools.count()

    def stopped(*arguments: object) -> object:
        if next(count) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(measuring, "write_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.feed(write_dataset(tmp_path, 3), images=tmp_path / "images", skill="colours")
    assert Run.open(run.root).resume()
    assert run.digest() == make("stale(1)").digest()


def test_signals_in_use_are_kept_until_they_are_not_and_what_follows_from_them_can_be_made_again(
    make: Make,
) -> None:
    run = make("new", fresh=True, keep={"signals": 1})
    with run.reading() as stores:
        kept = stores.ledger.shards(kind=MEASURED)
        used = shards_in_use(stores, 3)
    assert [shard.timestep for shard in kept] == [1] * 3 + [2] * 3 + [3] * 3  # 8 samples, 3 a shard
    assert used == {shard.path for shard in kept}
    assert not run.gc(dry_run=True)
    assert run.digest() == make("new").digest()
    path = next((run.root / "timesteps" / "0003").glob("clusters-*"))
    content = path.read_bytes()
    path.unlink()
    assert [problem.rebuild for problem in examine(run.root)] == [True]
    assert invoke(["fsck", str(run.root), "--repair"]) == 0
    assert path.read_bytes() == content
    first = kept[0]
    with run._writing() as stores, transaction(stores.db):
        gone = read_array(run.root / first.path, "ordinal").tolist()
        stores.pool.bury(3, gone, ["a test"] * len(gone))
    assert [each.path for each in run.gc()] == [first.path]
    assert not (run.root / first.path).exists()
    # What was made of it is whole, and cannot be made again.
    assert examine(run.root) == []
    path.unlink()
    assert [problem.rebuild for problem in examine(run.root)] == [False]


def test_another_recipe_is_measured_anew(make: Make, tmp_path: Path) -> None:
    shutil.copytree(make("new").root, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    text = (run.root / "config.yaml").read_text()
    (run.root / "config.yaml").unlink()
    (run.root / "config.yaml").write_text(text.replace("dim=64", "dim=32"))
    run.feed(write_dataset(tmp_path, 9), images=tmp_path / "images", skill="colours")
    assert set(signals(run, 4)[1].tolist()) == {4}


@pytest.mark.parametrize("value", ["some", "stale", "stale(-1)", 3])
def test_a_rule_that_there_is_not_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"measure.refresh.*none of: all, new, stale\(k\)"):
        parse_config({"measure": {"refresh": value}})
