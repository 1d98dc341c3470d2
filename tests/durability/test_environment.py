"""What each phase ran under is on record; under another environment a run warns, or refuses to mix the two."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from lifelong import Run, environment
from lifelong.cli import invoke
from lifelong.environment import PACKAGES
from lifelong.errors import RunError
from stores.commit import content_hash
from tests.runs.child import Children
from tests.runs.small import feed_entry, phases, settings, small_entry, write_stream

ROWS = 16


@pytest.fixture(scope="module")
def model(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model's folder, to be changed."""
    return shutil.copytree(llava, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def killed(model: Path, children: Children, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in the middle of its first timestep, before it trained."""
    folder = tmp_path_factory.mktemp("killed")
    run = Run.create(folder / "run", model=str(model), recipe="random", config=settings())
    stream = write_stream(folder, names=["easyvqa"], rows=ROWS, evals=2)
    assert children.run("run", run.root, stream, at=(1, "train", "before")).code == -signal.SIGKILL
    return run.root


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(killed, tmp_path / "run"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs other versions, as far as the environment can tell."""
    real = environment.versions()

    def install(**versions: str) -> None:
        monkeypatch.setattr(environment, "versions", lambda: real | versions)

    return install


@pytest.fixture
def changed_model(model: Path) -> Iterator[Path]:
    """The model with another file among its files; as it was, afterwards."""
    path = model / "generation_config.json"
    before, times = path.read_bytes(), path.stat()
    values = json.loads(before)
    path.write_text(json.dumps(values | {"temperature": 0.5}), encoding="utf-8")
    yield model
    path.write_bytes(before)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_every_phase_records_what_it_ran_under(run: Run, model: Path) -> None:
    run.resume()
    with run.reading() as stores:
        first, *rest = [record.environment for record in stores.ledger.phases(1)]
        (dataset,) = stores.pool.datasets()
        assert len(phases(stores.ledger, 1)) == 8
        (start,) = stores.ledger.phases(0)
    assert first == environment.versions() | {
        "device": first["device"],
        "model": content_hash(model)[0],
        "data": dataset.digest,
        "config": first["config"],
    }
    assert {"python", *PACKAGES} <= first.keys()
    assert len(first["config"]) == 64
    assert first["device"].startswith(("cpu", "cuda ("))
    assert all(each == first for each in rest)
    assert start.environment == {name: value for name, value in first.items() if name != "data"}


def test_a_device_of_workers_that_this_machine_lacks_is_on_record(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = run.config.model_copy(update={"model": run.config.model.model_copy(update={"device": "cuda"})})
    with run.reading() as stores:
        assert environment.environment(stores, config, 1)["device"] == "cuda"


@pytest.mark.parametrize("package", ["torch", "transformers", "peft"])
def test_another_version_in_the_middle_of_a_timestep_is_refused(
    run: Run, installed: Callable[..., None], package: str, caplog: pytest.LogCaptureFixture
) -> None:
    real = environment.versions()[package]
    installed(**{package: "99.1"})
    with pytest.raises(RunError) as caught:
        run.resume()
    told = str(caught.value)
    assert (
        f"timestep 1 of {run.root} was begun under another environment: {package} was {real} and is 99.1"
        in told
    )
    assert f"`lifelong resume {run.root} --allow-drift`" in told
    assert run.status()["phase"] == "train"
    with caplog.at_level(logging.WARNING):
        assert run.resume(allow_drift=True)
    assert f"{package} was {real} and is 99.1" in caplog.text
    with run.reading() as stores:
        under = {record.phase: record.environment[package] for record in stores.ledger.phases(1)}
    assert (under["select"], under["train"], under["prune"]) == (real, "99.1", "99.1")


def test_a_package_that_computes_nothing_of_it_is_only_warned_of(
    run: Run, installed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    installed(numpy="99.1", lifelong="0.99", python="3.99.0")
    assert run.resume()
    assert all(f"{name} was " in caplog.text for name in ("numpy", "lifelong", "python"))


def test_a_model_whose_files_changed_is_refused_until_they_are_put_back(
    run: Run, model: Path, changed_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["resume", str(run.root)]) == 3
    assert "model was " in capsys.readouterr().err
    assert invoke(["resume", str(run.root), "--allow-drift"]) == 0


def test_another_time_on_the_same_files_is_no_change(run: Run, model: Path) -> None:
    for path in model.iterdir():
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    assert run.resume()


def test_a_stream_goes_on_when_told(
    run: Run, killed: Path, installed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    installed(torch="99.1")
    stream = str(killed.parent / "stream.yaml")
    assert invoke(["run", str(run.root), stream]) == 3
    assert "torch was" in capsys.readouterr().err
    assert invoke(["run", str(run.root), stream, "--allow-drift"]) == 0


def test_between_two_timesteps_it_warns_and_goes_on(
    run: Run, installed: Callable[..., None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    run.resume()
    caplog.clear()
    installed(torch="99.1")
    feed_entry(run, small_entry(tmp_path, "ground_mix", rows=8, evals=0))
    assert "timestep 2 goes on under another environment: torch was" in caplog.text
    with run.reading() as stores:
        assert {record.environment["torch"] for record in stores.ledger.phases(2)} == {"99.1"}
    caplog.clear()
    assert run.resume() is False
    assert caplog.text == ""


def test_phases_of_before_this_was_recorded_are_not_compared(
    run: Run, installed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    with run._writing() as stores:
        stores.db.execute("UPDATE phases SET environment = '{}'")
    installed(torch="99.1")
    assert run.resume()
    assert caplog.text == ""


def test_the_configuration_on_record_is_hashed_as_it_was(run: Run, tmp_path: Path) -> None:
    """Another configuration for the next timestep is another hash there, and no drift."""
    run.resume()
    path = run.root / "config.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["train"]["learning_rate"] = 1e-5
    path.unlink()
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    feed_entry(run, small_entry(tmp_path, "ground_mix", rows=8, evals=0))
    with run.reading() as stores:
        hashes = [{r.environment["config"] for r in stores.ledger.phases(t)} for t in (1, 2)]
    assert [len(each) for each in hashes] == [1, 1]
    assert hashes[0] != hashes[1]
