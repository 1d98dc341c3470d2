"""What the model's attention says of a sample: the image region that its instruction looks at, and how closely
text and image are bound to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lifelong.measure.attention import packed, self_attention, token_states, watching
from lifelong.models.encode import Batch
from lifelong.models.load import VisionLanguageModel

ATTENDED_MASS = 0.9
"""ScalSelect keeps the image tokens up to the one at which this share of the attention is first exceeded."""
TOP_SINGULAR_VALUES = 5


@dataclass(slots=True)
class CrossModal:
    """Collects while a forward runs.

    weights: sample → attention of its instruction to each of its image tokens, first layer, on the CPU;
    total: (b, text, image) attention of the text tokens to the image tokens, summed over all layers, zero where
    a sample has fewer of them; states: (b, t, h) hidden states after the first layer. Layers are those that have
    self-attention.
    """

    batch: Batch
    weights: dict[int, torch.Tensor] = field(default_factory=dict)
    total: torch.Tensor | None = None
    states: torch.Tensor | None = None

    def attended(self) -> torch.Tensor:
        """(b, h) float32: mean hidden state of the image tokens that the instruction attends to; NaN without image.

        Where it can attend to none of them, there being no instruction or all of it before the image, they
        all count alike. Source: ScalSelect, arXiv 2602.11636, §3.
        """
        states = self.states
        if states is None:
            raise ValueError("no forward has run")
        features = torch.full((len(states), states.shape[-1]), torch.nan, device=states.device)
        image = self.batch.image.cpu()
        for sample, weights in self.weights.items():
            kept = image[sample].nonzero()[:, 0][attended_tokens(weights)]
            features[sample] = states[sample][kept.to(states.device)].float().mean(0)
        return features

    def alignment(self) -> torch.Tensor:
        """(b,) float32: sum of the largest singular values of the summed text × image attention; NaN without image.

        Source: XMAS, arXiv 2510.01454, §4.
        """
        sums = torch.full((len(self.batch.image),), torch.nan, device=self.batch.image.device)
        if self.total is not None:
            # The rows and columns of zeros that fill a sample's block up leave its singular values as they are.
            known = self.total.isfinite().all(dim=(1, 2)) & self.batch.image.any(1)
            # On the CPU: a GPU takes such small matrices one by one.
            values = torch.linalg.svdvals(self.total[known].cpu())
            sums[known] = values[:, :TOP_SINGULAR_VALUES].sum(1).to(sums.device)
        return sums


def attended_tokens(weights: torch.Tensor, mass: float = ATTENDED_MASS) -> torch.Tensor:
    """Indices of the fewest tokens whose share of the attention first exceeds `mass`, the strongest first.

    weights: (v,) non-negative; all tokens where all weights are 0. Equal ones count in order of position.
    """
    total = weights.double().sum()
    order = torch.argsort(weights, descending=True, stable=True)
    if total <= 0:
        return order
    reached = (weights.double()[order] / total).cumsum(0)
    return order[: int((reached <= mass).sum()) + 1]


@contextmanager
def cross_modal(
    vlm: VisionLanguageModel, batch: Batch, *, attended: bool, alignment: bool
) -> Iterator[CrossModal]:
    """Collect what is asked for while a forward of `batch` runs inside the block."""
    found = CrossModal(batch)
    if not (attended or alignment):
        yield found
        return
    text = batch.inputs["attention_mask"].bool() & ~batch.image
    asks = batch.instruction & text
    rows = packed(text)
    images = batch.image.sum(1).tolist()
    looking = list(self_attention(vlm))
    first = looking[0]

    def see(layer: int, samples: torch.Tensor, block: torch.Tensor) -> None:
        if alignment:
            if found.total is None:
                found.total = block.new_zeros(len(text), *block.shape[1:])
            found.total[samples] += block
        if attended and layer == first:
            # The mean over the instruction's tokens, of which there may be none.
            asked = (rows.take(asks) & rows.there)[samples, : block.shape[1]]
            means = ((block * asked[..., None]).sum(1) / asked.sum(1).clamp_min(1)[:, None]).cpu()
            for sample, mean in zip(samples.tolist(), means, strict=True):
                found.weights[sample] = mean[: images[sample]]

    def after_first(_: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        found.states = token_states(output).detach()

    layers = frozenset(looking if alignment else [first])
    with ExitStack() as stack:
        stack.enter_context(watching(vlm, text, batch.image, layers, see))
        if attended:
            handle = vlm.decoder_layers[first].register_forward_hook(after_first)
            stack.callback(handle.remove)
        yield found
