"""engine: ray on a real Ray of this machine: the same results, whoever of its processes is killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifelong import Run
from lifelong.engines.exchange import UrlExchange
from lifelong.progress import Silent
from lifelong.training.checkpoints import TRAINING
from stores.fsck import check_files
from tests.engines.conftest import (
    ENVIRONMENT,
    IN_PARTS,
    SETTINGS,
    Make,
    answers,
    assert_same_but_for_rounding,
    kill_one,
)
from tests.runs.child import Children
from tests.tiny_encoders import build

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray with places for two actors and two workers of a training, and an S3 that its processes reach."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        keys = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for name, value in (ENVIRONMENT | keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}).items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="runs")
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield "s3://runs/exchange"
        ray.shutdown()
    server.stop()


ENGINES = (("local", {}), ("ray", {"workers": 1}))


class Killer(Silent):
    """Kills a process of a title, once, when so much is done of something."""

    def __init__(self, victims: dict[str, tuple[int, str]]) -> None:
        self.victims = victims
        self.killed: list[str] = []
        self.steps: list[int] = []

    def step(self, what: str, done: int, total: int) -> None:
        if what == "training steps":
            self.steps.append(done)
        after, title = self.victims.get(what, (0, ""))
        if title and done >= after and kill_one(title):
            del self.victims[what]
            self.killed.append(what)


@pytest.mark.slow
def test_one_worker_gives_the_same_bits(cluster: str, make: Make, local: Run, dataset: Path) -> None:
    run = make("ray", workers=1)
    run.run_stream(dataset)
    assert run.digest() == local.digest()
    assert answers(run) == answers(local)
    assert sum(len(row["accepted"]) == 10 for row in answers(run)) == 2 * 3  # of 6 questions, asked twice


def test_two_workers_that_are_killed_on_the_way(cluster: str, make: Make, local: Run, dataset: Path) -> None:
    """An actor in mid-shard, a training's worker after a step; all files travel through S3."""
    run = make("ray", workers=2, exchange=cluster)
    killer = Killer({"samples measured": (1, "ray::Actor.do"), "training steps": (2, "ray::RayTrainWorker")})
    run.progress = killer
    run.run_stream(dataset)
    assert killer.killed == ["samples measured", "training steps"]
    # It went on from its last state: the first step was not done again.
    assert killer.steps.count(1) == 1
    assert len(killer.steps) >= 3
    assert_same_but_for_rounding(run, local)
    with run.reading() as stores:
        assert check_files(stores.db, run.root) == []


@pytest.mark.slow
def test_two_workers_give_the_same_bits_where_batches_are_done_in_parts(
    cluster: str, make: Make, in_parts: Run, datasets: Path
) -> None:
    run = make("ray", settings=IN_PARTS, workers=2)
    run.run_stream(datasets)
    assert run.digest() == in_parts.digest()


def test_with_one_worker_the_same_bits_though_the_driver_is_killed(
    cluster: str,
    make: Make,
    local: Run,
    dataset: Path,
    tmp_path: Path,
    children: Children,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a worker had measured, and nobody had recorded, is taken from the exchange."""
    run = make("ray", workers=1, exchange=f"file://{tmp_path}/exchange")
    ended = children.run("run", str(run.root), str(dataset), at=(1, "shard 1", "before"))
    assert ended.code == -signal.SIGKILL, ended.stderr
    claims = tmp_path / "exchange" / "claims"
    assert len(os.listdir(claims)) == 1
    taken: list[object] = []
    claimed = UrlExchange.claimed

    def noting(self: UrlExchange, key: str) -> object:
        found = claimed(self, key)
        taken.extend([found] if found else [])
        return found

    monkeypatch.setattr(UrlExchange, "claimed", noting)
    assert run.resume()
    assert len(taken) == 1
    assert os.listdir(claims) == []
    # The exchange does not fill up with states of trainings that are done.
    assert not list((tmp_path / "exchange").glob("in/checkpoints/*-training-*"))
    assert run.digest() == local.digest()


@pytest.mark.slow
def test_encoders_and_trajectories_too(cluster: str, make: Make, datasets: Path, tmp_path: Path) -> None:
    """Features of a frozen encoder, and the alignment at checkpoints that a training under Ray kept."""
    recipe = {
        "recipe": "adapt-inf",
        "vectors": "encoded",
        "router": "entropy[el2n xmas]",
        "clusters": "kmeans[k=3]",
    }
    encoder = {"kind": "clip", "path": str(build("clip", tmp_path / "clip"))}
    settings = {"encoder": encoder, "measure": SETTINGS["measure"] | {"trajectory": 2}}
    runs = [make(engine, recipe, settings, **options) for engine, options in ENGINES]
    for run in runs:
        run.run_stream(datasets)
    assert runs[0].digest() == runs[1].digest()
    with runs[1].reading() as stores:
        kinds = {shard.kind for shard in stores.ledger.shards(2)}
    assert {"alignment00", "alignment01"} <= kinds


@pytest.mark.slow
def test_ctrl_c_leaves_the_state_of_the_step_that_it_falls_in(
    cluster: str, make: Make, local: Run, dataset: Path
) -> None:
    run = make("ray", workers=1, settings={"train": SETTINGS["train"] | {"checkpoint_steps": 0}})

    class Interrupt(Silent):
        def step(self, what: str, done: int, total: int) -> None:
            if (what, done) == ("training steps", 2):
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run.progress = Interrupt()
    try:
        with pytest.raises(KeyboardInterrupt):
            run.run_stream(dataset)
    finally:
        signal.signal(signal.SIGINT, before)
    with run.reading() as stores:
        assert [shard.rows for shard in stores.ledger.shards(1, TRAINING)] == [2]
    run.progress = Silent()
    assert run.resume()
    assert run.digest() == local.digest()
