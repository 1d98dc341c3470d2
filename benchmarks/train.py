"""Training beside a bare Trainer of transformers, and how much of the batches is padding.

The bare Trainer gets the very same batches, collated beforehand, the same model, adapter, optimiser and schedule;
it keeps nothing, and computes the model's own loss. "bare Trainer, our loss" computes ours, at answer positions
only: beside it stands what `train` adds around the model. Both sides are timed in turn, a round at a time; a ratio
is taken within a round, and its median, lowest and highest over the rounds are printed. A last row says what
one state on disk costs, as a share of the steps between two of them.

Padding is that of the batches of a selection from a stream's datasets, in equal parts.

    python benchmarks/train.py [--quick] [--json] [--models tiny small smollm2] [--device cuda --dtype bfloat16]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.memory import peak_mb
from benchmarks.models import MODELS, NotInstalledError
from benchmarks.timing import interleaved
from lifelong.config import LoraConfig, ModelConfig, TrainConfig
from lifelong.formats import open_dataset
from lifelong.formats.images import to_rgb
from lifelong.models.encode import Conversation
from lifelong.models.load import VisionLanguageModel, load, quiet
from lifelong.stream import read_stream
from lifelong.training.train import Answers, epoch_batches, train, training_order

STREAMS = Path(os.environ.get("LIFELONG_STREAMS", Path(__file__).resolve().parents[2] / "shared" / "streams"))
BATCH = 8
STEPS = {"tiny": 40, "small": 24, "smollm2": 6}
BAR = 1.05
PADDING_BAR = 0.10


@dataclass(frozen=True, slots=True)
class Line:
    """One row; ratio, low, high: of seconds, beside those of what `name` says; padding: share of all tokens."""

    model: str
    name: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    peak_mb: float | None = None
    padding: float | None = None
    bar: float | None = None


def conversations(stream: Path, most: int) -> list[Conversation]:
    """Up to `most` samples of a stream, the first of every dataset in equal parts."""
    datasets = read_stream(stream / "stream.yaml").datasets
    found: list[Conversation] = []
    for feed in datasets:
        rows = open_dataset(feed.train, images=feed.images, format=feed.format).rows()
        samples = (row.sample for row in rows if row.outcome == "accepted" and row.sample is not None)
        for sample, _ in zip(samples, range(-(-most // len(datasets))), strict=False):
            found.append(Conversation(sample.messages, [to_rgb(image.read()) for image in sample.images]))
    return found


class Bench:
    """A model with the batches of a training, collated."""

    def __init__(self, vlm: VisionLanguageModel, samples: Sequence[Conversation], steps: int) -> None:
        self.vlm = vlm
        self.lengths = np.array([_tokens(vlm, sample) for sample in samples])
        self.config = TrainConfig(batch_size=BATCH, checkpoint_steps=0)
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(samples))[: BATCH * steps]
        self.order = chosen[training_order(self.lengths[chosen], 1, BATCH, rng)].tolist()
        task = Answers(vlm)
        self.batches = [
            task.collate([samples[self.order[position]] for position in batch])
            for batch in epoch_batches(len(self.order), 1, BATCH)
        ]

    def ours(self, save: Any = None, every: int = 0) -> None:
        """`train`, whose task collates nothing any more."""
        given = iter(self.batches)

        class Collated(Answers):
            def collate(self, items: list[Any]) -> dict[str, Any]:
                return dict(next(given))

        config = self.config.model_copy(update={"checkpoint_steps": every})
        train(self.vlm, config, self.order, int, 0, task=Collated(self.vlm), save=save)

    def bare(self, loss: Callable[..., Any] | None = None) -> None:
        """transformers' Trainer as it comes; loss: (trainer, model, inputs, tokens) instead of the model's own."""
        kind = type("Bare", (Trainer,), {"compute_loss": loss}) if loss else Trainer
        cpu = self.vlm.device.type == "cpu"
        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=1,
                num_train_epochs=1,
                learning_rate=self.config.learning_rate,
                lr_scheduler_type=self.config.schedule,
                warmup_steps=self.config.warmup,
                weight_decay=self.config.weight_decay,
                max_grad_norm=self.config.max_grad_norm,
                use_cpu=cpu,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                remove_unused_columns=False,
                label_names=["labels"],
                dataloader_pin_memory=not cpu,
                train_sampling_strategy="sequential",
            )
            trainer = kind(
                model=self.vlm.model, args=arguments, train_dataset=self.batches, data_collator=_first
            )
            trainer.model_accepts_loss_kwargs = True
            trainer.remove_callback(PrinterCallback)
            self.vlm.model.train()
            trainer.train()
            self.vlm.model.eval()

    def bare_with_our_loss(self) -> None:
        task = Answers(self.vlm)

        def loss(trainer: Any, model: Any, inputs: Any, return_outputs: bool = False, **named: Any) -> Any:
            return task.loss(model, inputs, named["num_items_in_batch"])

        self.bare(loss)


def _first(items: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(items[0])


def _tokens(vlm: VisionLanguageModel, sample: Conversation) -> int:
    return int(vlm.encoder.training([sample]).inputs["attention_mask"].sum())


def throughput(bench: Bench, model: str, rounds: int) -> Iterator[Line]:
    """`train` beside the two bare Trainers, and the cost of a state on disk."""
    device = bench.vlm.device
    cuda = device.type == "cuda"
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    # Others may use the processor meanwhile: on a CPU the process's own time is what is compared.
    clock = time.perf_counter if cuda else time.process_time
    rows = {"train": bench.ours, "bare": bench.bare, "bare, our loss": bench.bare_with_our_loss}
    times = interleaved(rows, rounds, wait=wait, clock=clock)
    memory = {name: peak_mb(work, device) for name, work in rows.items()}
    for base, bar in (("bare", BAR), ("bare, our loss", BAR)):
        ratio, low, high = times.ratio("train", base)
        yield Line(
            model,
            f"train / {base} Trainer".replace(", our loss Trainer", " Trainer, our loss"),
            ratio,
            low,
            high,
            memory["train"],
            bar=bar,
        )
    yield Line(model, "bare Trainer", 1.0, 1.0, 1.0, memory["bare"])
    seconds = state_seconds(bench)
    step = float(np.median(times.seconds["train"])) / len(bench.batches)
    interval = TrainConfig().checkpoint_steps
    shares = seconds / (interval * step)
    yield Line(model, f"one state every {interval} steps", *(1 + np.percentile(shares, [50, 0, 100])))


def state_seconds(bench: Bench, most: int = 5) -> np.ndarray:
    """(k,) seconds of the wall that writing one state takes, without the fsync of the commit."""
    found: list[float] = []

    def save(step: int, write: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            write(Path(folder))
            found.append(time.perf_counter() - began)

    bench.ours(save, every=max(1, len(bench.batches) // most))
    return np.array(found)


def paddings(lengths: np.ndarray, model: str, seeds: int = 5) -> Iterator[Line]:
    """Padding of selections of some sizes, in one epoch and in three."""
    for count in (250, 1003, len(lengths)):
        for epochs in (1, 3):
            shares = []
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                chosen = lengths[rng.permutation(len(lengths))[:count]]
                order = training_order(chosen, epochs, BATCH, rng)
                batches = [chosen[order[batch]] for batch in epoch_batches(len(order), epochs, BATCH)]
                whole = sum(len(batch) * batch.max() for batch in batches)
                shares.append(1 - sum(batch.sum() for batch in batches) / whole)
            name = f"padding, {min(count, len(lengths))} samples x {epochs}"
            yield Line(model, name, padding=float(np.median(shares)), bar=PADDING_BAR)


def printed(line: Line, as_json: bool) -> str:
    if as_json:
        return json.dumps({name: value for name, value in asdict(line).items() if value is not None})
    if line.padding is not None:
        return f"{line.model:8} {line.name:34} {100 * line.padding:6.1f} %{'':22} bar {100 * line.bar:.0f} %"
    memory = f"{line.peak_mb:8.0f} MB" if line.peak_mb else ""
    bar = f"bar {line.bar:.2f}" if line.bar else ""
    return (
        f"{line.model:8} {line.name:34} {line.ratio:6.3f} ({line.low:.3f} to {line.high:.3f}) {memory} {bar}"
    )


def lines(given: argparse.Namespace) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            try:
                path = MODELS[model](Path(folder, model))
            except NotInstalledError as error:
                print(f"{model} is left out: {error}", file=sys.stderr)
                continue
            config = ModelConfig(path=str(path), device=given.device, dtype=given.dtype)
            with quiet():
                vlm = load(config, LoraConfig(), 0)
            steps = given.steps or STEPS[model]
            samples = conversations(given.stream, given.samples)
            bench = Bench(vlm, samples, steps)
            yield from throughput(bench, model, given.rounds)
            yield from paddings(bench.lengths, model)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["tiny", "small"], choices=list(MODELS))
    parser.add_argument("--stream", type=Path, default=STREAMS / "real10", help="folder with a stream.yaml")
    parser.add_argument("--samples", type=int, default=2000, help="samples read from the stream")
    parser.add_argument(
        "--steps", type=int, default=0, help="steps of a training; default: by the model's size"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--quick", action="store_true", help="the tiny model alone, in five rounds")
    parser.add_argument("--json", action="store_true", help="one object a line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.models, given.rounds, given.steps, given.samples = ["tiny"], 5, 16, 1010
    if given.device == "cpu":
        torch.set_num_threads(1)
    for line in lines(given):
        print(printed(line, given.json), flush=True)


if __name__ == "__main__":
    main()
