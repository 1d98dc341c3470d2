"""How others take a sample's gradient, on the same model and samples: what `lifelong` is compared with.

`one_by_one` and `reference` are the loop of the released Adapt-∞ and LESS, as their code has it: one sample a
forward, its flat gradient, a dense Rademacher projection by TRAK every 16 samples. `trak` is TRAK's functional
path (torch.func, one batch at a time) over the adapter's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from lifelong.models.encode import Batch
from lifelong.models.load import VisionLanguageModel

PROJECTED_EVERY = 16


def one_by_one(vlm: VisionLanguageModel, singles: Sequence[Batch], layers: Sequence[int]) -> torch.Tensor:
    """(n, size) exact gradients of each sample's mean answer loss, by autograd, one sample at a time.

    singles: batches of one sample.
    """
    parameters = adapter_parameters(vlm, layers)
    rows = []
    for batch in singles:
        loss = vlm.model(**batch.inputs, labels=batch.labels(), use_cache=False).loss
        gradients = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]).float())
    return torch.stack(rows)


def reference(
    vlm: VisionLanguageModel, singles: Sequence[Batch], layers: Sequence[int], dim: int, seed: int
) -> torch.Tensor:
    """(n, dim) vectors as the released loop makes them."""
    parameters = adapter_parameters(vlm, layers)
    projector = trak_projector(sum(p.numel() for p in parameters), dim, seed, vlm.device)
    held: list[torch.Tensor] = []
    projected: list[torch.Tensor] = []
    for batch in singles:
        loss = vlm.model(**batch.inputs, labels=batch.labels(), use_cache=False).loss
        loss.backward()
        held.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        vlm.model.zero_grad()
        if len(held) == PROJECTED_EVERY:
            projected.append(projector.project(torch.stack(held), model_id=0))
            held.clear()
    if held:
        projected.append(projector.project(torch.stack(held), model_id=0))
    return torch.cat(projected)


def trak(
    vlm: VisionLanguageModel, batches: Sequence[Batch], layers: Sequence[int], dim: int, seed: int
) -> torch.Tensor:
    """(n, dim) vectors by torch.func's per-sample gradients, a batch at a time."""
    from torch.func import functional_call, grad, vmap

    decoder = vlm.model.get_base_model().get_decoder()
    wanted = {id(p) for p in adapter_parameters(vlm, layers)}
    named = {name: p.detach() for name, p in decoder.named_parameters() if id(p) in wanted}
    projector = trak_projector(sum(p.numel() for p in named.values()), dim, seed, vlm.device)

    def loss(
        parameters: dict[str, torch.Tensor], embedded: Any, mask: Any, ids: Any, answer: Any
    ) -> torch.Tensor:
        arguments = {"inputs_embeds": embedded[None], "attention_mask": mask[None], "use_cache": False}
        hidden = functional_call(decoder, parameters, (), arguments).last_hidden_state[0]
        log_p = torch.log_softmax(vlm.logits(hidden[:-1]).float(), -1)
        predicted = answer[1:].float()
        return -(log_p.gather(1, ids[1:, None])[:, 0] * predicted).sum() / predicted.sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0), randomness="same")
    projected = []
    for batch in batches:
        embedded, mask = _embedded(vlm, batch)
        found = per_sample(named, embedded, mask, batch.inputs["input_ids"], batch.answer)
        flat = torch.cat([gradient.flatten(1) for gradient in found.values()], dim=1)
        projected.append(projector.project(flat, model_id=0))
    return torch.cat(projected)


@torch.no_grad()
def _embedded(vlm: VisionLanguageModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What enters the decoder, (b, t, h), and a causal mask over visible tokens, (b, 1, t, t) additive.

    torch.func cannot follow the making of the mask that transformers does itself.
    """
    caught: list[torch.Tensor] = []

    def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        caught.append(kwargs["inputs_embeds"])
        raise _CaughtError

    handle = vlm.model.get_base_model().get_decoder().register_forward_pre_hook(before, with_kwargs=True)
    try:
        vlm.model(**batch.inputs, use_cache=False)
    except _CaughtError:
        pass
    finally:
        handle.remove()
    (embedded,) = caught
    visible = batch.inputs["attention_mask"].bool()
    length = visible.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    allowed = causal[None] & visible[:, None]
    lowest = torch.finfo(embedded.dtype).min
    mask = torch.zeros(allowed.shape, dtype=embedded.dtype, device=visible.device)
    return embedded, mask.masked_fill(~allowed, lowest)[:, None]


class _CaughtError(Exception):
    pass


def adapter_parameters(vlm: VisionLanguageModel, layers: Sequence[int]) -> list[torch.Tensor]:
    """The LoRA parameters of decoder layers."""
    return [
        p
        for layer in layers
        for name, p in vlm.decoder_layers[layer].named_parameters()
        if "lora_" in name and p.requires_grad
    ]


def trak_projector(size: int, dim: int, seed: int, device: torch.device) -> Any:
    """TRAK's projector of flat gradients: `fast_jl` on a GPU where it is installed, else drawn block by block."""
    from trak.projectors import BasicProjector, CudaProjector, ProjectionType

    options = {"grad_dim": size, "proj_dim": dim, "seed": seed, "proj_type": ProjectionType.rademacher}
    if device.type == "cuda" and find_spec("fast_jl"):
        return CudaProjector(**options, device=device, max_batch_size=PROJECTED_EVERY)
    return BasicProjector(**options, device=device, dtype=torch.float32)
