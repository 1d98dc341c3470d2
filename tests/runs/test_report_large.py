"""The report of a run of fifty thousand samples, whose stores are filled by hand: no model measures that many here."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lifelong import Run
from lifelong.config import RunConfig
from lifelong.recorded import keep_config
from lifelong.report.gather import POINTS, POINTS_OF_A_MAP
from lifelong.report.page import LIMIT
from lifelong.report.pictures import FULL
from stores.commit import commit_file
from stores.database import transaction
from stores.pool import Arrival, DatasetRow
from stores.shards import write_shard
from tests.runs.test_report import page_of

pytest.importorskip("plotly", reason="the report needs the extra `report`")

SAMPLES = 50_000
IMAGES = 1_500
TIMESTEPS = 8
SHARD = 10_000
CLUSTERS = 500
Stores = Any


def pictures(rng: np.random.Generator) -> Iterator[tuple[bytes, str]]:
    """Encoded images that hardly compress, with their hashes."""
    for _ in range(IMAGES):
        encoded = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(
            encoded, "PNG", compress_level=0
        )
        yield encoded.getvalue(), hashlib.sha256(encoded.getvalue()).hexdigest()


def fill_pool(stores: Stores, rng: np.random.Generator) -> None:
    with stores.media.writer(1) as writer:
        for data, sha256 in pictures(rng):
            writer.add(data, sha256, 96, 96)
    known = [row.sha256 for row in writer.rows]
    words = "что изображено на картинке, и сколько там людей? " * 12

    def arrivals() -> Iterator[Arrival]:
        for number in range(SAMPLES):
            sample_id = hashlib.sha256(str(number).encode()).hexdigest()[:32]
            parts = [{"type": "image"}, {"type": "text", "text": f"{number} {words}"}]
            messages = [{"role": "user", "content": parts}]
            yield Arrival(
                sample_id, str(number), "train.json", number, messages, [known[number % IMAGES]], 600
            )

    with transaction(stores.db):
        stores.media.record(writer.rows)
        counts = stores.pool.add(1, "many", "vqa", arrivals())
        stores.pool.record_dataset(
            DatasetRow("many", 1, "vqa", "llava", "train.json", "", counts.rows, counts.accepted, 0, 0)
        )


def decide(stores: Stores, timestep: int, rng: np.random.Generator) -> None:
    """Decisions and signals of a timestep, as its phases leave them."""
    pool = stores.pool.arrays()
    ids = pool["sample_ids"].astype(str)
    clusters = rng.integers(0, CLUSTERS, SAMPLES)
    neighbour = pa.array(np.roll(ids, 1), mask=np.arange(SAMPLES) == 0)
    columns = {
        "sample_id": ids,
        "dataset": pool["datasets"],
        "skill": pool["skills"],
        "cluster": clusters,
        "scorer": ["el2n"] * SAMPLES,
        "score": rng.random(SAMPLES),
        **{f"score_{name}": rng.standard_cauchy(SAMPLES) for name in ("el2n", "perplexity", "grounding")},
        "selected": rng.random(SAMPLES) < 0.2,
        "pruned": np.arange(SAMPLES) % 1000 == 7,
        "reason": [
            f"not selected: cluster {c} gave 20 of 100, by el2n; pruned: cosine 0.9" for c in clusters
        ],
        "neighbour": neighbour,
        "similarity": rng.random(SAMPLES),
    }
    committed = commit_file(
        stores.root,
        "timesteps",
        "decisions",
        ".parquet",
        lambda path: pq.write_table(pa.table(columns), path),
    )
    for position in range(SAMPLES // SHARD):
        ordinal = pool["ordinal"][position * SHARD :][:SHARD]
        arrays = {"ordinal": ordinal, "gradient": rng.normal(size=(SHARD, 16)).astype(np.float16)}
        shard = write_shard(stores.root, timestep, "signals", position, arrays)
        stores.ledger.shard_commit(timestep, "signals", position, shard, SHARD)
    measured = {"measured": SAMPLES, "quarantined": 0, "carried": 0}
    stores.ledger.commit(timestep, "measure", seed=0, result=measured, seconds=1.0)
    choice = {str(cluster): "el2n" for cluster in range(CLUSTERS)}
    values = {cluster: {"el2n": 3.0, "perplexity": 2.0, "grounding": None} for cluster in choice}
    routed = {
        "choice": choice,
        "values": values,
        "experts": ["el2n", "perplexity", "grounding"],
        "skipped": {},
    }
    stores.ledger.commit(timestep, "route", seed=0, result=routed, seconds=1.0)
    files = [("decisions", committed)]
    stores.ledger.commit(
        timestep, "prune", seed=0, result={"pruned": 50, "live": SAMPLES}, seconds=1.0, files=files
    )
    keep_config(stores, timestep, RunConfig())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.create(tmp_path_factory.mktemp("large") / "run")
    rng = np.random.default_rng(0)
    with run._writing() as stores:
        fill_pool(stores, rng)
        for timestep in range(1, TIMESTEPS + 1):
            decide(stores, timestep, rng)
    return run


@pytest.mark.slow
def test_the_page_of_a_large_pool_stays_small_and_says_what_it_shows(large: Run, tmp_path: Path) -> None:
    page = page_of(large, tmp_path)
    assert (tmp_path / "report.html").stat().st_size <= LIMIT < 15_000_000
    maps = page.data["maps"]
    assert len(maps) == TIMESTEPS
    shown = POINTS_OF_A_MAP // 2
    assert shown * TIMESTEPS <= POINTS < 2 * shown * TIMESTEPS
    assert [len(each["samples"]) for each in maps] == [shown] * TIMESTEPS
    assert all(each["samples"] == maps[0]["samples"] for each in maps)
    assert {each["total"] for each in maps} == {SAMPLES}
    places = np.array([int(page.data["samples"][sample_id][1]) for sample_id in maps[0]["samples"]])
    assert abs(places.mean() / SAMPLES - 0.5) < 0.05  # a random sample, not the first ones
    told = [sample[5] for sample in page.data["samples"].values()]
    assert FULL in told
    assert told.count("its picture") > 300
    assert "smaller clusters are left out" in page.text["routing"] or "no room" in page.text["routing"]
