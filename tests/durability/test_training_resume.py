"""A training that was stopped goes on to the same bits: weights, optimiser, schedule, generators, samples."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lifelong import Run
from lifelong.cli import invoke
from lifelong.config import TrainConfig
from lifelong.context import TRAJECTORY
from lifelong.models.encode import Conversation
from lifelong.models.load import VisionLanguageModel
from lifelong.phases.train import loading
from lifelong.training.checkpoints import TRAINING
from lifelong.training.train import Trained, train, training_order
from stores.commit import content_hash
from stores.fsck import check_files
from tests.conftest import IMAGE, Loader, chat
from tests.runs.child import Children
from tests.runs.small import entry, feed_entry, files, settings

SAMPLES = [
    chat(
        f"{IMAGE if number % 3 else ''}what is {number}? {'please ' * (number % 4)}",
        "abcdefgh"[: 1 + number % 8],
    )
    for number in range(13)
]
STOPS = range(1, 11)
# Thirteen samples in batches of two: seven batches an epoch, the last of them one sample.
PLAIN = TrainConfig(
    batch_size=2, epochs=2, learning_rate=5e-3, warmup=0.3, weight_decay=0.01, checkpoint_steps=1
)
ACCUMULATED = PLAIN.model_copy(update={"accumulate": 2, "epochs": 3})


def order_of(config: TrainConfig) -> list[int]:
    lengths = np.array([len(str(sample.messages)) for sample in SAMPLES])
    return training_order(lengths, config.epochs, config.batch_size, np.random.default_rng(3)).tolist()


@dataclass
class Training:
    """One training of a fresh model: its states by step, what was loaded, and how it ended."""

    folder: Path
    config: TrainConfig
    loaded: list[int] = field(default_factory=list)
    states: dict[int, Path] = field(default_factory=dict)
    last: int = 0

    def run(self, vlm: VisionLanguageModel, resume: Path | None = None) -> Training:
        """Train to the end; a Ctrl-C in the last step then leaves the whole of the last state."""
        with pytest.raises(KeyboardInterrupt):
            self._train(vlm, resume, self._interrupt_the_last)
        return self

    def _train(
        self, vlm: VisionLanguageModel, resume: Path | None, progress: Callable[[int, int], None]
    ) -> Trained:
        return train(
            vlm, self.config, order_of(self.config), self._load, 7, progress, save=self._save, resume=resume
        )

    def _interrupt_the_last(self, done: int, total: int) -> None:
        self.last = total
        if done == total:
            os.kill(os.getpid(), signal.SIGINT)

    def _load(self, number: int) -> Conversation:
        self.loaded.append(number)
        return SAMPLES[number]

    def _save(self, step: int, write: Callable[[Path], None]) -> None:
        folder = self.folder / str(step)
        folder.mkdir(parents=True)
        write(folder)
        self.states[step] = folder

    def end(self) -> dict[str, str]:
        """Hash by file of the state at the end."""
        folder = self.states[self.last]
        return {path.name: content_hash(path)[0] for path in folder.iterdir()}


@pytest.fixture(scope="module", params=[0, 2], ids=["in-process", "2-workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module", params=[PLAIN, ACCUMULATED], ids=["plain", "accumulated"])
def config(request: pytest.FixtureRequest, workers: int) -> TrainConfig:
    return request.param.model_copy(update={"workers": workers})


@pytest.fixture(scope="module")
def undisturbed(config: TrainConfig, load_tiny: Loader, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that nobody stopped, with its state after every step."""
    training = Training(tmp_path_factory.mktemp("undisturbed"), config)
    return training.run(load_tiny("llava", dropout=0.2, trained=("lm_head",)))


def other_generators() -> None:
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


@pytest.fixture
def another(load_tiny: Loader) -> VisionLanguageModel:
    """What a new process has: other weights in memory, generators somewhere else."""
    other_generators()
    return load_tiny("llava", seed=5, dropout=0.2, trained=("lm_head",))


def test_stopped_at_every_step_it_ends_with_the_same_bits(
    undisturbed: Training, another: VisionLanguageModel, tmp_path: Path
) -> None:
    assert undisturbed.last in (11, 14)
    assert set(STOPS) < undisturbed.states.keys()
    batches = 1 if undisturbed.config.accumulate == 1 else 2
    for step in STOPS:
        other_generators()
        again = Training(tmp_path / str(step), undisturbed.config).run(another, undisturbed.states[step])
        assert again.end() == undisturbed.end(), step
        if not again.config.workers:  # what a worker loads shows in the worker
            order = order_of(again.config)
            rest = len(again.loaded)
            assert again.loaded == order[len(order) - rest :]
            assert rest < len(order) - (step * batches - 1)


def test_keeping_states_does_not_change_the_training(
    undisturbed: Training, load_tiny: Loader, tmp_path: Path
) -> None:
    config = undisturbed.config.model_copy(update={"checkpoint_steps": 0})
    alone = Training(tmp_path, config).run(load_tiny("llava", dropout=0.2, trained=("lm_head",)))
    assert list(alone.states) == [alone.last]
    assert alone.end() == undisturbed.end()


@pytest.mark.parametrize(
    ("left_out", "differs"), [("read_generators", "weights"), ("read_optimizer", "optimizer")]
)
def test_without_generators_or_optimiser_it_is_another_training(
    undisturbed: Training,
    another: VisionLanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left_out: str,
    differs: str,
) -> None:
    """The control: what is left out of the resumption is missed at every step."""
    monkeypatch.setattr(f"lifelong.training.trainer.{left_out}", lambda *arguments: None)
    name = f"{differs}.safetensors"
    for step in (1, 7, 10):
        other_generators()
        again = Training(tmp_path / str(step), undisturbed.config).run(another, undisturbed.states[step])
        assert again.end()[name] != undisturbed.end()[name], step


def test_the_loss_is_the_mean_over_the_whole_training(
    undisturbed: Training, load_tiny: Loader, tmp_path: Path
) -> None:
    order, config = order_of(undisturbed.config), undisturbed.config
    results = [
        train(
            load_tiny("llava", dropout=0.2, trained=("lm_head",)),
            config,
            order,
            SAMPLES.__getitem__,
            7,
            resume=resume,
        )
        for resume in (None, undisturbed.states[1], undisturbed.states[undisturbed.last])
    ]
    assert results[0] == results[1] == results[2]
    assert results[0].steps == undisturbed.last


def test_no_file_of_a_state_is_a_pickle(undisturbed: Training) -> None:
    assert {path.suffix for path in undisturbed.states[1].iterdir()} == {".safetensors", ".json"}


# In a run, with real kills.

EACH_STEP = {"checkpoint_steps": 1, "budget": "16", "batch_size": 4, "epochs": 2, "learning_rate": 5e-4}


@pytest.fixture(scope="module")
def fresh(llava: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = settings(train=EACH_STEP, measure={"trajectory": 3}, lora={"dropout": 0.2})
    root = tmp_path_factory.mktemp("fresh") / "run"
    return Run.create(root, model=llava, recipe="xmas", config=config).root


@pytest.fixture(scope="module")
def whole(fresh: Path) -> Run:
    """The run that nobody stopped: eight steps of training, checkpoints at the third, fifth and eighth."""
    run = Run.open(shutil.copytree(fresh, fresh.parent / "whole"))
    feed_entry(run, entry("easyvqa"))
    return run


@pytest.fixture
def run(fresh: Path, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(fresh, tmp_path / "run"))


@pytest.fixture
def feed(run: Run) -> list[str]:
    easyvqa = entry("easyvqa")
    options = [f"--{name}={easyvqa[name]}" for name in ("images", "eval", "skill", "name", "metric")]
    return ["feed", str(run.root), easyvqa["train"], *options]


def shards(run: Run, kind: str) -> list[tuple[int, str]]:
    with run.reading() as stores:
        return [(shard.rows, shard.path) for shard in stores.ledger.shards(1, kind)]


def test_killed_and_resumed_a_run_is_the_same(
    run: Run, whole: Run, feed: list[str], children: Children
) -> None:
    """Killed at one state after another, and just before and after a checkpoint on the way."""
    points = [("training 2", "before"), ("training 2", "after"), ("trajectory 1", "before")]
    points += [("trajectory 1", "after"), ("training 7", "before"), ("train", "before")]
    # A state counts from the end of the transaction in which it takes the place of the one before.
    reached = [1, 1, 4, 4, 6, 7]
    arguments = feed
    for (what, when), step in zip(points, reached, strict=True):
        ended = children.run(*arguments, at=(1, what, when))
        assert ended.code == -signal.SIGKILL, (what, when, ended)
        assert [rows for rows, _ in shards(run, TRAINING)] == [step]
        arguments = ["resume", str(run.root)]
    trajectories = [run.root / path for _, path in shards(run, TRAJECTORY)]
    before = [path.stat().st_mtime_ns for path in trajectories]
    assert children.run(*arguments).code == 0
    assert [path.stat().st_mtime_ns for path in trajectories] == before
    assert shards(run, TRAJECTORY) == shards(whole, TRAJECTORY)
    assert shards(run, TRAINING) == shards(whole, TRAINING) == []
    assert run.digest() == whole.digest()
    assert files(run) == files(whole)
    with run.reading() as stores:
        assert check_files(stores.db, run.root) == []


def test_ctrl_c_leaves_the_state_of_the_step_that_it_falls_in(
    run: Run, whole: Run, feed: list[str], children: Children, edit_config: Callable[..., None]
) -> None:
    edit_config(run, train={"checkpoint_steps": 0})
    ended = children.run(*feed, at=(1, "trajectory 1", "before"), do="interrupt")
    assert ended.code == 130
    assert "lifelong resume" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert run.status()["phase"] == "train"
    assert [rows for rows, _ in shards(run, TRAINING)] == [5]
    assert children.run("resume", run.root).code == 0
    assert run.digest() == whole.digest()


@pytest.mark.parametrize("damage", ["altered", "gone", "of another training"])
def test_a_state_that_is_no_good_is_let_go_with_a_warning(
    damage: str, run: Run, whole: Run, feed: list[str], children: Children
) -> None:
    assert children.run(*feed, at=(1, "training 4", "after")).code == -signal.SIGKILL
    ((_, path),) = shards(run, TRAINING)
    folder = run.root / path
    if damage == "altered":
        weights = bytearray((folder / "weights.safetensors").read_bytes())
        weights[-1] ^= 1
        (folder / "weights.safetensors").write_bytes(weights)
    elif damage == "gone":
        shutil.rmtree(folder)
    else:
        with_another_rate(run)
    resumed = children.run("resume", run.root)
    assert resumed.code == 0
    assert "trains again from its start" in resumed.stderr
    assert str(folder) in resumed.stderr
    assert (run.digest() == whole.digest()) == (damage != "of another training")
    assert shards(run, TRAINING) == []


def with_another_rate(run: Run) -> None:
    """Another learning rate on record than the state was trained with."""
    with run._writing() as stores:
        request = stores.ledger.get_meta("feeding")
        request["config"]["train"]["learning_rate"] /= 2
        stores.ledger.set_meta("feeding", request)


def test_workers_read_the_pool_for_themselves(
    run: Run,
    whole: Run,
    edit_config: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    feed: list[str],
) -> None:
    edit_config(run, train={"workers": 2})
    assert invoke(feed) == 0, capsys.readouterr().err
    assert run.digest() == whole.digest()


def test_a_worker_has_a_connection_of_its_own(whole: Run) -> None:
    """What the process that trains has not committed is not seen in one forked from it."""
    with whole._writing() as stores:
        load = loading(SimpleNamespace(stores=stores))
        text = str(load(0).messages)
        reader, writer = os.pipe()
        stores.db.execute("BEGIN IMMEDIATE")
        stores.db.execute("UPDATE contents SET messages = '[]' WHERE ordinal = 0")
        if not (pid := os.fork()):
            with os.fdopen(writer, "w") as file:
                file.write(str(load(0).messages))
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            seen = file.read()
        os.waitpid(pid, 0)
        stores.db.execute("ROLLBACK")
    assert seen == text
