"""Packages of others that take projected gradients of a whole batch: `bergson`, and LoGra as `dattri` has it.

Their own loops over data know text alone, so forward and backward are ours, over the batches that everyone is
timed on; the hooks, the projections and what they keep are theirs. Both project each adapted matrix by itself, A
and B of every LoRA layer, from both sides to a square of the same side: a vector's size is the number of matrices
times a square, and the side is chosen for the size nearest to the one asked for.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lifelong.models.encode import Batch
from lifelong.models.load import VisionLanguageModel

Run = Callable[[], torch.Tensor]
"""() → (n, size) vectors of the samples, in the order of the batches."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A package's method: `prepared` draws its projections from a seed; or why it cannot be run here."""

    name: str
    prepared: Callable[[int], Run] | None
    missing: str = ""


def tried(vlm: VisionLanguageModel, batches: Sequence[Batch], dims: Sequence[int]) -> Iterator[Peer]:
    """Each package at each size, once it has run; without `prepared` where it could not."""
    for package, method, prepare in (("bergson", "bergson", bergson), ("dattri", "dattri LoGra", logra)):
        if find_spec(package) is None:
            reason = (
                f"skipped, {package} is not installed: give it an environment of its own (CONTRIBUTING.md)"
            )
            yield Peer(method, None, reason)
            continue
        matrices = len(adapted_matrices(vlm))
        for dim in dims:
            side = square_side(dim, matrices)
            name = f"{method} {matrices * side**2}"
            prepared = partial(prepare, vlm, batches, side)
            try:
                prepared(0)()
            except Exception as error:  # whatever a package of others raises, the benchmark goes on
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                yield Peer(name, None, f"skipped, {package} raises {reason}")
            else:
                yield Peer(name, prepared)


def adapted_matrices(vlm: VisionLanguageModel) -> list[str]:
    """The names, within the model, of the LoRA linear layers A and B of all decoder layers."""
    decoder = {id(module) for layer in vlm.decoder_layers for module in layer.modules()}
    return [
        name
        for name, module in vlm.model.named_modules()
        if id(module) in decoder and "lora_" in name and isinstance(module, torch.nn.Linear)
    ]


def square_side(dim: int, matrices: int) -> int:
    """The side, at least 1, for which `matrices` squares hold a count of numbers nearest to `dim`."""
    return min(range(1, dim + 1), key=lambda side: abs(matrices * side**2 - dim))


def sample_losses(vlm: VisionLanguageModel, batch: Batch) -> torch.Tensor:
    """(b,) mean answer loss of each sample."""
    logits = vlm.model(**batch.inputs, use_cache=False).logits[:, :-1]
    labels = batch.labels()[:, 1:]
    losses = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    return losses.view_as(labels).sum(1) / (labels != -100).sum(1)


def bergson(vlm: VisionLanguageModel, batches: Sequence[Batch], side: int, seed: int) -> Run:
    """bergson's collector in memory, projecting per module as it does unless told otherwise.

    Source: https://github.com/EleutherAI/bergson (2.5.1), collector/in_memory_collector.py.
    """
    from bergson.collector.in_memory_collector import InMemoryCollector
    from bergson.config import IndexConfig
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    warnings.filterwarnings(
        "ignore", message="Full backward hook is firing"
    )  # the first layer's input has no gradient
    bounds = np.cumsum([0, *(len(batch.answer) for batch in batches)]).tolist()
    rows = Dataset.from_dict({"row": range(bounds[-1])})
    processor = GradientProcessor(projection_dim=side, projection_seed=seed)
    matrices = adapted_matrices(vlm)

    def run() -> torch.Tensor:
        collector = InMemoryCollector(
            model=vlm.model,
            target_modules=set(matrices),
            processor=processor,
            data=rows,
            cfg=IndexConfig(run_path=""),
        )
        for batch, (start, end) in zip(batches, pairwise(bounds), strict=True):
            with collector.with_batch():
                losses = sample_losses(vlm, batch)
                losses.sum().backward()
            vlm.model.zero_grad()
            collector.process_batch(list(range(start, end)), losses=losses)
        collector.teardown()
        return torch.cat([collector.gradients[name] for name in matrices], dim=1)

    return run


def logra(vlm: VisionLanguageModel, batches: Sequence[Batch], side: int, seed: int) -> Run:
    """The hooks and projections of dattri's LoGraAttributor; it takes the loss to be the mean over a batch.

    Source: Choe et al. 2024 (https://arxiv.org/abs/2405.13954), §3.1; https://github.com/TRAIS-Lab/dattri (0.3.0),
    algorithm/logra.py and algorithm/block_projected_if/core.
    """
    from dattri.algorithm.block_projected_if.core.compressor import setup_model_compressors
    from dattri.algorithm.block_projected_if.core.hook import HookManager

    logging.getLogger("dattri").setLevel(logging.WARNING)
    matrices = adapted_matrices(vlm)
    device = str(next(vlm.model.parameters()).device)
    shared = {"device": device, "proj_max_batch_size": 64, "proj_seed": seed}
    compressors = setup_model_compressors(
        vlm.model,
        matrices,
        shared | {"proj_dim": side, "proj_type": "normal"},
        shared | {"proj_dim": -1, "proj_type": "identity"},
        batches[0].inputs,
        device,
    )

    def run() -> torch.Tensor:
        hooks = HookManager(vlm.model, matrices, device)
        hooks.set_compressors(compressors)
        found = []
        try:
            for batch in batches:
                sample_losses(vlm, batch).mean().backward()
                vlm.model.zero_grad()
                found.append(torch.cat(hooks.get_compressed_grads(), dim=1))
        finally:
            hooks.remove_hooks()
        return torch.cat(found)

    return run
