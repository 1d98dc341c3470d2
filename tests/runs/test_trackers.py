"""Trackers: what TensorBoard and MLflow hold is what the ledger says, each figure once, whatever happened before."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lifelong import Run
from lifelong.cli import invoke
from lifelong.progress import Silent
from lifelong.trackers.figures import figures
from lifelong.trackers.guard import Guarded
from tests.runs.small import feed_entry, small_entry

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="the extra `tensorboard` is not installed",
)
mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")

BOTH = ("tensorboard", "mlflow")
Points = Counter[tuple[str, int, float]]


class Telling(Silent):
    """Keeps what was said, and presses Ctrl-C once, at a training step."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, what: str, done: int, total: int) -> None:
        if what == "training steps" and done == self.at:
            self.at = 0
            os.kill(os.getpid(), signal.SIGINT)


def of_tensorboard(run: Run, name: str) -> Points:
    """(figure, step, value) of one TensorBoard run, counted."""
    events = accumulator.EventAccumulator(
        str(run.root / "tracking" / "tensorboard" / name), size_guidance={"scalars": 0}
    )
    events.Reload()
    tags = events.Tags()["scalars"]
    return Counter((tag, event.step, event.value) for tag in tags for event in events.Scalars(tag))


def of_mlflow(run: Run, label: str) -> Points:
    """The same of one MLflow run."""
    client = mlflow.MlflowClient(f"sqlite:///{run.root.resolve() / 'tracking' / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "lifelong"]
    (found,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == label]
    assert found.info.status == "FINISHED"
    return Counter(
        (name, point.step, point.value)
        for name in found.data.metrics
        for point in client.get_metric_history(found.info.run_id, name)
    )


def expected(run: Run) -> Points:
    with run.reading() as stores:
        return Counter((n, step, v) for step, values in figures(stores).items() for n, v in values.items())


def same(found: Points, wanted: Points) -> bool:
    """Every figure once, up to float32."""
    once = {(name, step): value for name, step, value in found}
    return (
        max(found.values()) == 1
        and len(once) == len(found) == len(wanted)
        and all(once[name, step] == pytest.approx(value, rel=1e-6) for name, step, value in wanted)
    )


@pytest.fixture(scope="module")
def tracked(llava: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run that both trackers follow, stopped in its second training and gone on; and the same run without either."""
    from tests.runs.small import settings

    folder = tmp_path_factory.mktemp("tracked")
    entries = [small_entry(folder, name, rows=16, evals=2) for name in ("easyvqa", "tux_caption")]
    sections = settings(train={"budget": "100%", "checkpoint_steps": 1}, evaluate={"limit": 2})
    runs = [
        Run.create(
            folder / name, model=llava, recipe="random", config={**sections, "report_to": list(report)}
        )
        for name, report in (("tracked", BOTH), ("plain", ()))
    ]
    for run in runs:
        feed_entry(run, entries[0])
    stopping = Run.open(runs[0].root, Telling(at=3))
    # A shell's background job begins with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        feed_entry(stopping, entries[1])
    signal.signal(signal.SIGINT, before)
    assert Run.open(runs[0].root).resume()
    feed_entry(runs[1], entries[1])
    return runs[0], runs[1]


def test_trackers_hold_what_the_ledger_says(tracked: tuple[Run, Run]) -> None:
    run, plain = tracked
    assert run.digest() == plain.digest()
    wanted = expected(run)
    assert {step for _, step, _ in wanted} == {0, 1, 2}
    assert ("pool/arrived", 2, 16.0) in wanted
    assert same(of_tensorboard(run, "curves"), wanted)
    assert same(of_mlflow(run, "tracked"), wanted)
    frame = run.curves()
    accuracy = {(step, name): value for name, step, value in wanted if name.startswith("accuracy/")}
    assert accuracy == {(t, f"accuracy/{skill}"): frame.loc[t, skill] for t in frame.index for skill in frame}


def test_a_training_that_was_stopped_is_told_once(tracked: tuple[Run, Run]) -> None:
    run, _ = tracked
    for timestep in (1, 2):
        board = of_tensorboard(run, f"timestep-{timestep:04d}")
        server = of_mlflow(run, f"timestep {timestep}")
        assert sorted(step for name, step, _ in board if name == "train/loss") == [1, 2, 3, 4]
        assert sorted(step for name, step, _ in server if name == "loss") == [1, 2, 3, 4]
        # Transformers itself says the epoch twice at the end.
        assert {n for points in (board, server) for (n, _, _), times in points.items() if times > 1} <= {
            "train/epoch",
            "epoch",
        }
        assert {name for name, _, _ in server} >= {"loss", "learning_rate", "grad_norm"}


def test_what_a_crash_kept_from_a_tracker_comes_later_and_once(
    tracked: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, _ = tracked
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr("lifelong.run.bring_in_line", lambda *arguments: calls.append(arguments) or _die())
        with pytest.raises(SystemExit):
            feed_entry(Run.open(run.root), small_entry(tmp_path, "ground_mix", rows=8, evals=2))
    assert len(calls) == 1
    assert run.status()["phase"] is None
    wanted = expected(run)
    assert not same(of_tensorboard(run, "curves"), wanted)
    for _ in range(2):
        assert not Run.open(run.root).resume()
        assert same(of_tensorboard(run, "curves"), wanted)
        assert same(of_mlflow(run, "tracked"), wanted)


def _die() -> None:
    raise SystemExit


def test_a_tracker_that_is_down_costs_a_warning_and_catches_up(
    tracked: tuple[Run, Run],
    monkeypatch: pytest.MonkeyPatch,
    edit_config: Callable[..., None],
    tmp_path: Path,
) -> None:
    _, run = tracked
    edit_config(run, report_to="mlflow")
    telling = Telling()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # where nobody listens
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        feed_entry(Run.open(run.root, telling), small_entry(tmp_path, "ground_mix", rows=8, evals=2))
    warnings = [line for line in telling.said if "the tracker mlflow failed" in line]
    assert len(warnings) == 2  # of the training, and of what followed
    assert "lifelong resume" in warnings[1]
    assert run.status()["phase"] is None
    assert not run.resume()
    assert same(of_mlflow(run, "plain"), expected(run))


def test_a_callback_that_fails_in_mid_training_is_not_asked_again() -> None:
    class Failing:
        calls = 0

        def on_log(self, *arguments: Any, **others: Any) -> None:
            self.calls += 1
            raise OSError("the server is gone")

    failing, warned = Failing(), []
    guarded = Guarded(failing, done=2, warn=warned.append)  # type: ignore[arg-type]
    for step in range(1, 6):
        guarded.on_log(None, type("State", (), {"global_step": step}), None, logs={})
    assert (failing.calls, [str(error) for error in warned]) == (1, ["the server is gone"])


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(
    name: str, new_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(recipe="random")
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    (run.root / "config.yaml").write_text(
        (run.root / "config.yaml").read_text().replace("report_to: []", f"report_to: {name}")
    )
    found = small_entry(tmp_path, "easyvqa", rows=8, evals=0)
    assert invoke(["feed", str(run.root), found["train"], "--images", found["images"]]) == 2
    assert f"pip install 'lifelong[{name}]'" in capsys.readouterr().err
    assert run.status()["timestep"] == 0
