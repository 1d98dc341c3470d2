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
from stores.fsck import check_files
from tests.engines.conftest import ENVIRONMENT, Make, assert_same_but_for_rounding, kill_one
from tests.runs.child import Children

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


class Killer(Silent):
    """Kills a process with a title when a count is first told."""

    def __init__(self, victims: dict[str, str]) -> None:
        self.victims = victims
        self.killed: list[str] = []

    def step(self, what: str, done: int, total: int) -> None:
        if what in self.victims and kill_one(self.victims[what]):
            del self.victims[what]
            self.killed.append(what)


def test_one_worker_gives_the_same_bits(cluster: str, make: Make, local: Run, dataset: Path) -> None:
    run = make("ray", workers=1)
    run.run_stream(dataset)
    assert run.digest() == local.digest()


def test_two_workers_that_are_killed_on_the_way(cluster: str, make: Make, local: Run, dataset: Path) -> None:
    """An actor in mid-shard, a training's worker after a step; all files travel through S3."""
    run = make("ray", workers=2, exchange=cluster)
    killer = Killer({"samples measured": "ray::Actor.do", "training steps": "ray::RayTrainWorker"})
    run.progress = killer
    run.run_stream(dataset)
    assert killer.killed == ["samples measured", "training steps"]
    assert_same_but_for_rounding(run, local)
    with run.reading() as stores:
        assert check_files(stores.db, run.root) == []


def test_the_driver_is_killed_and_what_was_measured_is_taken(
    cluster: str,
    make: Make,
    local: Run,
    dataset: Path,
    tmp_path: Path,
    children: Children,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
    assert run.digest() == local.digest()
