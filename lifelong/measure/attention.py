"""Look at the model's own attention: only the rows and columns that a signal needs, of the layers asked for.

The attention function of the decoder is wrapped through transformers' attention interface, so what is seen is
what the model computes: after rotary positions, with its mask, its heads and its scale. Full maps of all
layers are never built.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lifelong.errors import ModelError
from lifelong.models.load import VisionLanguageModel

See = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Told (layer, samples, block): (s,) rows of the batch and their (s, rows, columns) float32 attention, averaged over
heads: zero where a sample has fewer rows or columns than another."""

CHUNK_ELEMENTS = 1 << 24
"""Largest number of attention weights that exist at once (64 MiB in float32)."""

_WATCHED = "lifelong_watched"


@contextmanager
def watching(
    vlm: VisionLanguageModel, rows: torch.Tensor, columns: torch.Tensor, layers: frozenset[int], see: See
) -> Iterator[None]:
    """While the block runs, tell `see` how each sample's `rows` attend to its `columns` in the decoder's `layers`.

    rows, columns: (b, t) bool tokens, in a block in their order; a sample that lacks either is not told of. Attention
    weights are those after the softmax over all tokens that the model attends to; one forward at a time.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention = self_attention(vlm)
    numbers = {id(module): number for number, module in attention.items() if number in layers}
    configs = {id(module.config): module.config for module in attention.values()}
    (base,) = {config._attn_implementation for config in configs.values()}
    attend = _function(ALL_ATTENTION_FUNCTIONS, base, next(iter(attention.values())))
    samples = (rows.any(1) & columns.any(1)).nonzero()[:, 0]
    asked, seen = packed(rows[samples]), packed(columns[samples])

    def watched(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        if id(module) in numbers and len(samples):
            scale = options.get("scaling") or query.shape[-1] ** -0.5
            with torch.no_grad():
                for part in _chunks(len(samples), query.shape[1] * asked.index.shape[1] * key.shape[2]):
                    block = _block(query, key, mask, scale, samples[part], asked[part], seen[part])
                    see(numbers[id(module)], samples[part], block)
        return attend(module, query, key, value, mask, **options)

    ALL_ATTENTION_FUNCTIONS.register(_WATCHED, watched)
    if base in ALL_MASK_ATTENTION_FUNCTIONS:
        ALL_MASK_ATTENTION_FUNCTIONS.register(_WATCHED, ALL_MASK_ATTENTION_FUNCTIONS[base])
    for config in configs.values():
        config._attn_implementation = _WATCHED
    try:
        yield
    finally:
        for config in configs.values():
            config._attn_implementation = base


def self_attention(vlm: VisionLanguageModel) -> dict[int, nn.Module]:
    """The self-attention of each decoder layer that has one (those of linear attention have none), first to last.

    Raises:
        ModelError: no layer has.
    """
    found = {}
    for number, layer in enumerate(vlm.decoder_layers):
        for name in ("self_attn", "attention", "attn"):
            if getattr(layer, name, None) is not None:
                found[number] = getattr(layer, name)
                break
    if not found:
        raise ModelError(
            f"no self-attention was found in any {type(vlm.decoder_layers[0]).__name__}, so what the model looks at "
            "(the signals attended and alignment) cannot be read; take a recipe that does not need it"
        )
    return found


def token_states(output: Any) -> torch.Tensor:
    """(b, t, h): the hidden states that a decoder layer gives; the mean of those that it keeps side by side, as Gemma
    3n's layers do: (k, b, t, h)."""
    states = output[0] if isinstance(output, tuple) else output
    return states.mean(0) if states.ndim == 4 else states


def _function(functions: Any, base: str, module: nn.Module) -> Any:
    """The attention function of an implementation; "eager" is a function of the model's own file."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return functions.get_interface(base, eager)


@dataclass(frozen=True, slots=True)
class Packed:
    """The chosen ones of each sample's t tokens, moved to the front. index: (b, m) positions, 0 where there are fewer;
    there: (b, m) bool, where there is one."""

    index: torch.Tensor
    there: torch.Tensor

    def __getitem__(self, samples: slice) -> Packed:
        return Packed(self.index[samples], self.there[samples])

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """(b, m, …) of the chosen tokens, of (b, t, …) values of all; of one that is not there, the first's."""
        sample = torch.arange(len(values), device=values.device)[:, None]
        return values[sample, self.index]


def packed(chosen: torch.Tensor) -> Packed:
    """Of (b, t) bool."""
    count = chosen.sum(1)
    order = torch.argsort(~chosen, dim=1, stable=True)
    width = int(count.max()) if len(count) else 0
    there = torch.arange(width, device=chosen.device) < count[:, None]
    return Packed(order[:, :width].masked_fill(~there, 0), there)


def _chunks(samples: int, elements: int) -> Iterator[slice]:
    """Slices of as many samples as may exist at once, each of `elements` weights."""
    step = max(1, CHUNK_ELEMENTS // elements)
    for start in range(0, samples, step):
        yield slice(start, start + step)


def _block(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    samples: torch.Tensor,
    rows: Packed,
    columns: Packed,
) -> torch.Tensor:
    """(s, rows, columns) float32: the mean over heads of the attention weights of `samples`.

    query: (b, heads, t, d); key: (b, key-value heads, t, d); mask: as the implementation has it, or None.
    """
    q = rows.take(query[samples].transpose(1, 2)).transpose(1, 2).float()
    k = key[samples].float()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = (q * scale) @ k.transpose(2, 3)
    scores = scores.masked_fill_(_blocked(mask, samples, rows, k.shape[2]), float("-inf"))
    weights = scores.softmax(-1).mean(1).transpose(1, 2)
    there = rows.there[:, :, None] & columns.there[:, None, :]
    return columns.take(weights).transpose(1, 2).masked_fill(~there, 0.0)


def _blocked(mask: torch.Tensor | None, samples: torch.Tensor, rows: Packed, length: int) -> torch.Tensor:
    """(s, 1 or heads, rows, length) bool: where a row does not attend."""
    position = torch.arange(length, device=samples.device)
    blocked = (position[None, None, :] > rows.index[:, :, None])[:, None]
    if mask is not None and mask.ndim == 2:  # flash attention: which tokens are not padding
        blocked = blocked | ~mask[samples].bool()[:, None, None, :]
    elif mask is not None:
        part = mask.expand(int(samples.max()) + 1, *mask.shape[1:]) if len(mask) == 1 else mask
        part = rows.take(part[samples].transpose(1, 2)).transpose(1, 2)[..., :length]
        blocked = ~part if part.dtype == torch.bool else part < torch.finfo(part.dtype).min / 2
    return blocked
