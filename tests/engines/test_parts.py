"""What engines are put together from: the exchange, the launch, the parts of a batch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifelong.config import RunConfig, parse_config
from lifelong.context import ModelHolder
from lifelong.engines import open_engine
from lifelong.engines.exchange import FETCHED, UrlExchange, UrlFiles
from lifelong.engines.launch import Launch, find_launch, forget_launch
from lifelong.engines.work import Written
from lifelong.errors import UsageError
from lifelong.training.mend import elsewhere
from lifelong.training.peers import part_of
from stores.commit import commit_tree
from stores.errors import DamagedError
from stores.shards import read_shard, write_shard


@given(size=st.integers(1, 7), length=st.integers(0, 40))
def test_parts_are_the_whole_batch_in_order(size: int, length: int) -> None:
    parts = [part_of(range(3, 3 + length), part, size) for part in range(size)]
    assert [position for part in parts for position in part] == list(range(3, 3 + length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture
def exchange(tmp_path: Path) -> UrlExchange:
    return UrlExchange(f"file://{tmp_path}/exchange", tmp_path / "run", RunConfig())


def delivered(files: UrlFiles, position: int) -> Written:
    committed = write_shard(files.root, 1, "signals", position, {"ordinal": np.arange(position)})
    files.deliver(committed)
    return Written(committed, position)


def test_a_shard_comes_through_the_exchange(exchange: UrlExchange, tmp_path: Path) -> None:
    written = delivered(exchange.files, 3)
    exchange.files.claim("abc", written)
    assert exchange.claimed("abc") == written
    assert read_shard(tmp_path / "run" / written.committed.path)["ordinal"].tolist() == [0, 1, 2]
    exchange.clear("abc", written.committed)
    assert exchange.claimed("abc") is None
    assert not [path for path in (tmp_path / "exchange").rglob("*") if path.is_file()]


@pytest.mark.parametrize("torn", ["out", "claims"])
def test_what_is_torn_is_no_claim(torn: str, exchange: UrlExchange, tmp_path: Path) -> None:
    written = delivered(exchange.files, 4)
    exchange.files.claim("abc", written)
    (path,) = (path for path in (tmp_path / "exchange" / torn).rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert exchange.claimed("abc") is None
    assert not list((tmp_path / "run").rglob("signals-*"))


def test_an_altered_delivery_is_refused(exchange: UrlExchange, tmp_path: Path) -> None:
    written = delivered(exchange.files, 5)
    (tmp_path / "exchange" / "out" / written.committed.path).write_bytes(b"else")
    with pytest.raises(DamagedError, match="did not come through whole"):
        exchange.receive(written.committed)


def test_a_folder_goes_there_and_back(exchange: UrlExchange, tmp_path: Path) -> None:
    root, files = tmp_path / "run", exchange.files

    def fill(folder: Path) -> None:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.json").write_text("{}")
        (folder / "b").write_bytes(b"b")

    there = commit_tree(root, "checkpoints", "0001", fill)
    exchange.offer(there.path)
    assert (files.path(there.path) / "inner" / "a.json").read_text() == "{}"
    back = commit_tree(files.root, "checkpoints", "0002-training-000003", fill)
    files.deliver(back)
    exchange.receive(back)
    assert (root / back.path / "inner" / "a.json").read_text() == "{}"


def test_a_worker_keeps_the_last_adapters_alone(exchange: UrlExchange, tmp_path: Path) -> None:
    root, files = tmp_path / "run", exchange.files
    names = [
        commit_tree(
            root, "checkpoints", f"{number:04}", lambda to, n=number: to.joinpath("a").write_text(str(n))
        ).path
        for number in range(FETCHED + 2)
    ]
    for name in names:
        exchange.offer(name)
        here = files.path(name).parent
        assert files.path(names[0]).joinpath("a").read_text() == "0"  # asked for again and again
    assert [name for name in names if not (here / Path(name).name).exists()] == names[1:3]
    assert files.path(names[1]).joinpath("a").read_text() == "1"  # fetched again


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_file_system_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a package that is not installed.*lifelong\[gs\]"):
        UrlExchange("gs://bucket/runs", tmp_path, RunConfig())


def test_a_launch_is_told_and_forgotten() -> None:
    environ = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "ACCELERATE_MIXED_PRECISION": "no",
        "HOME": "/",
    }
    assert find_launch(environ) == Launch(3, 4, 1)
    forget_launch(environ)
    assert environ == {"HOME": "/"}
    assert find_launch(environ) is None


def test_a_call_may_name_another_engine() -> None:
    config = parse_config({"cluster": {"workers": 5}})
    found = elsewhere(config, {"engine": "ray", "cluster": {"address": "auto", "workers": None}})
    assert (found.engine, found.cluster.address, found.cluster.workers) == ("ray", "auto", 5)
    with pytest.raises(UsageError, match="engine"):
        elsewhere(config, {"engine": "spark"})


@pytest.mark.parametrize(("engine", "workers"), [("ray", 3), ("accelerate", 4)])
def test_as_many_workers_as_parts(
    engine: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config({"engine": engine, "cluster": {"workers": workers}, "train": {"parts": 2}})
    monkeypatch.setattr("lifelong.engines.launch.joined", lambda: Launch(0, workers, 0))
    with pytest.raises(UsageError, match=f"train.parts is 2 and {workers} workers would share"):
        open_engine(tmp_path, ModelHolder(config))
