"""Do samples with like alignment trajectories have like gradients? The claim that XMAS (arXiv 2510.01454) rests on.

A model is trained for one epoch on real image samples. At T checkpoints spaced evenly, one forward and
backward gives every sample's alignment (a point of its trajectory) and its gradient with respect to the
adapter (projected). Then the cosine of two samples' gradients, averaged over the checkpoints, is compared:
between each sample and the one of the nearest trajectory, and between all pairs. Two other pairings say what
such a difference may come from: pairs of the same dataset, and pairs nearest in the number of text tokens,
which alone goes a long way to fix the singular values of a text × image block.

    python benchmarks/xmas_theorem.py [--quick] [--json] [--model FOLDER] [--stream FOLDER] [--datasets easyvqa …]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STREAMS = Path(os.environ.get("LIFELONG_STREAMS", Path(__file__).resolve().parents[2] / "shared" / "streams"))
CHECKPOINTS = 7
SKETCH = 1024
BATCH = 16


def compare(
    trajectories: np.ndarray, gradients: np.ndarray, lengths: np.ndarray, datasets: np.ndarray
) -> dict[str, dict[str, float]]:
    """Mean cosine of gradients, averaged over checkpoints, by how samples are paired; with standard errors.

    trajectories: (n, T); gradients: (T, n, d), rows of length 1; lengths, datasets: (n,). The mean is over
    samples of the sample's mean over its partners, and the standard error that of this mean over samples.
    "gain …" is the difference to all pairs of the same kind, sample by sample.
    """
    n = len(trajectories)
    cosines = np.mean([each @ each.T for each in gradients.astype(np.float64)], axis=0)
    others = ~np.eye(n, dtype=bool)
    same = (datasets[:, None] == datasets[None, :]) & others
    distance = np.linalg.norm(trajectories[:, None] - trajectories[None, :], axis=2)
    longer = np.abs(lengths[:, None] - lengths[None, :]).astype(np.float64)
    partners = {
        "all pairs": others,
        "nearest trajectory": _nearest(distance, others),
        "nearest length": _nearest(longer, others),
        "pairs of a dataset": same,
        "nearest trajectory in a dataset": _nearest(distance, same),
        "nearest length in a dataset": _nearest(longer, same),
    }
    of_sample = {
        name: np.where(mask, cosines, 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        for name, mask in partners.items()
    }
    gains = {
        f"gain of {name}": of_sample[name]
        - of_sample["pairs of a dataset" if "dataset" in name else "all pairs"]
        for name in partners
        if name.startswith("nearest")
    }
    paired = same.any(axis=1)
    return {
        name: _summary(values[paired] if "dataset" in name else values)
        for name, values in (of_sample | gains).items()
    } | {"rank correlation of likeness": {"mean": _rank_correlation(-distance[others], cosines[others])}}


def _nearest(distance: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(n, n) bool: the nearest of the allowed partners of every row, all of them where several are as near."""
    limited = np.where(allowed, distance, np.inf)
    return allowed & (limited == limited.min(axis=1, keepdims=True))


def _summary(values: np.ndarray) -> dict[str, float]:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return {"mean": float(values.mean()), "stderr": float(error), "samples": len(values)}


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(each, kind="stable"), kind="stable").astype(np.float64) for each in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def read_samples(stream: Path, names: Sequence[str], limit: int) -> Iterator[tuple[str, Any]]:
    """(dataset, conversation) of the first `limit` samples with an image of every dataset named."""
    from lifelong.formats import open_dataset
    from lifelong.formats.images import to_rgb
    from lifelong.models.encode import Conversation
    from lifelong.stream import read_stream

    for feed in read_stream(stream / "stream.yaml").datasets:
        if names and feed.name not in names:
            continue
        taken = 0
        for row in open_dataset(feed.train, images=feed.images, format=feed.format).rows():
            sample = row.sample
            if row.outcome == "accepted" and sample is not None and not sample.text_only and taken < limit:
                taken += 1
                pictures = [to_rgb(image.read()) for image in sample.images]
                yield feed.name, Conversation(sample.messages, pictures)


def measure(
    model: Path, conversations: Sequence[Any], checkpoints: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[int], float]:
    """Trajectories (n, T), gradients (T, n, d), the steps of the checkpoints, and the mean training loss."""
    from lifelong.config import parse_config
    from lifelong.demo.model import DEFAULTS
    from lifelong.measure.passes import AnswerPass
    from lifelong.measure.projectors import CountSketch
    from lifelong.models.load import load
    from lifelong.training.train import train, training_order

    config = parse_config({**DEFAULTS, "train": {**DEFAULTS["train"], "epochs": 1}})
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(model)})})
    vlm = load(config.model, config.lora, seed)
    vlm.model.eval()
    rng = np.random.default_rng(seed)
    lengths = np.array([len(str(each.messages)) for each in conversations])
    order = training_order(lengths, 1, config.train.batch_size, rng)
    layers = tuple(range(len(vlm.decoder_layers)))
    both = AnswerPass(vlm, layers, CountSketch(SKETCH, seed), alignment=True)
    trajectories, gradients, steps = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        kept: list[Path] = []

        def keep(number: int, step: int) -> None:
            kept.append(Path(folder, str(number)))
            vlm.save_adapter(kept[-1])
            steps.append(step)

        load_one = conversations.__getitem__
        trained = train(
            vlm,
            config.train,
            order.tolist(),
            load_one,
            seed,
            checkpoints=checkpoints,
            keep=keep,
        )
        for path in kept:
            vlm.load_adapter(path)
            starts = range(0, len(conversations), BATCH)
            parts = [both(conversations[start : start + BATCH]) for start in starts]
            trajectories.append(np.concatenate([part["alignment"] for part in parts]))
            gradients.append(np.concatenate([part["gradient"] for part in parts]))
    return np.stack(trajectories, axis=1), np.stack(gradients), steps, trained.loss


def text_tokens(model: Path, conversations: Sequence[Any]) -> np.ndarray:
    """(n,) tokens of each conversation that are not of an image."""
    from lifelong.models.processors import load_processor

    processor = load_processor(str(model))
    texts = [processor.apply_chat_template(list(each.messages), tokenize=False) for each in conversations]
    return np.array([len(processor.tokenizer(text)["input_ids"]) for text in texts])


def run(stream: Path, names: Sequence[str], model: Path, limit: int, seed: int) -> dict[str, Any]:
    """Everything that is printed."""
    pairs = list(read_samples(stream, names, limit))
    datasets = np.array([name for name, _ in pairs])
    conversations = [conversation for _, conversation in pairs]
    trajectories, gradients, steps, loss = measure(model, conversations, CHECKPOINTS, seed)
    known = np.isfinite(trajectories).all(axis=1)
    lengths = text_tokens(model, conversations)
    return {
        "samples": int(known.sum()),
        "datasets": sorted(set(datasets.tolist())),
        "steps": steps,
        "training loss": loss,
        "cosines": compare(trajectories[known], gradients[:, known], lengths[known], datasets[known]),
    }


def table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['samples']} samples of {', '.join(found['datasets'])}; checkpoints at steps "
        f"{', '.join(map(str, found['steps']))}; mean training loss {found['training loss']:.3f}",
        "mean cosine of gradients (± standard error over samples)",
    ]
    for name, values in found["cosines"].items():
        error = f" ± {values['stderr']:.4f}" if "stderr" in values else ""
        lines.append(f"  {name:<42} {values['mean']:+.4f}{error}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--stream", type=Path, default=STREAMS / "real10-mini", help="folder with a stream.yaml"
    )
    parser.add_argument("--datasets", nargs="*", default=[], help="names in the stream; all that have images")
    parser.add_argument("--model", type=Path, help="a model's folder; the demo's model is built if left out")
    parser.add_argument("--limit", type=int, default=80, help="samples of each dataset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few samples of each dataset")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    limit = min(given.limit, 16) if given.quick else given.limit
    with tempfile.TemporaryDirectory() as folder:
        model = given.model
        if model is None:
            from lifelong.demo.model import build

            model = build(Path(folder, "model"))
        found = run(given.stream, given.datasets, model, limit, given.seed)
    print(json.dumps(found, indent=2) if given.json else table(found))


if __name__ == "__main__":
    sys.exit(main())
