"""Per-sample gradients of LoRA parameters from one batched forward and backward.

For an adapted linear layer y = W x + s · B h, h = A x (Hu et al. 2021, https://arxiv.org/abs/2106.09685, §4.1)
and one sample with tokens t:

    ∂L/∂B = s · Σ_t (∂L/∂y_t) h_tᵀ        ∂L/∂A = Σ_t (∂L/∂h_t) x_tᵀ

so the layers' x and h and the gradients at y and h, which the backward pass computes anyway, are all that is
needed: the gradient of the whole model is never built, and the pass stops at the lowest layer asked for. While they
are watched, the layers compute that line and nothing beside it: peft's own forward, which chooses among many kinds
of adapters and adds B h in three passes over y, takes a tenth of a small model's time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from lifelong.errors import ModelError

Take = Callable[[str, torch.Tensor], None]
"""Is given ("name.A" | "name.B", (b, size) float32 gradients of the b samples) of one module after the other."""


@dataclass(slots=True)
class Tape:
    """One forward that can be run backwards. hidden: the h of each adapted module."""

    hidden: list[torch.Tensor] = field(default_factory=list)

    def backward(self, output: torch.Tensor, gradient: torch.Tensor) -> None:
        """From `output`, where the loss's gradient is known, down to the lowest module; each gives its gradients."""
        torch.autograd.grad(output, self.hidden, gradient, allow_unused=True)


@contextmanager
def recording(first_layer: nn.Module | None, modules: Mapping[str, Any], take: Take) -> Iterator[Tape]:
    """Record the adapted `modules` of a forward that builds a graph only from `first_layer` on.

    first_layer: None for no graph at all. take: told the gradients while `Tape.backward` runs.
    """
    tape = Tape()
    with ExitStack() as stack:
        if first_layer is not None:
            stack.callback(first_layer.register_forward_pre_hook(_start_graph, with_kwargs=True).remove)
        for name, module in modules.items():
            # An attribute of its own hides the forward of its class.
            module.forward = _watched(name, module, tape, take)
            stack.callback(delattr, module, "forward")
        with torch.no_grad():
            yield tape


def _start_graph(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    torch.set_grad_enabled(True)
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}


def _watched(name: str, module: Any, tape: Tape, take: Take) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward of an adapted layer that tells its gradients on the way back.

    A gradient is formed the moment that the backward pass has it, so that no two layers' need be held at once.
    """
    (adapter,) = module.active_adapters
    scale = float(module.scaling[adapter])
    a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight

    def forward(x: torch.Tensor) -> torch.Tensor:
        h = linear(x.to(a.dtype), a)
        y = plus(module.base_layer(x), h, b, scale)
        if h.requires_grad:
            if h.ndim < 3:
                raise ModelError(
                    f"the adapted layer {name} sees the tokens of all samples in one row, as a mixture of experts "
                    "has it, so no sample's gradient can be told; leave it out with lora.targets"
                )
            tape.hidden.append(h)
            h.register_hook(partial(at_h, x.detach()))
            y.register_hook(partial(at_y, h.detach()))
        return y

    def at_h(x: torch.Tensor, gradient: torch.Tensor) -> None:
        take(f"{name}.A", _summed_outer(gradient, x))

    def at_y(h: torch.Tensor, gradient: torch.Tensor) -> None:
        take(f"{name}.B", _summed_outer(gradient, h * scale))

    return forward


def plus(y: torch.Tensor, h: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """y + scale · B h, (…, n), in y's type; of y: (…, n), h: (…, r), B: (n, r)."""
    if y.dtype != h.dtype:  # an adapter in float32 on weights in bfloat16
        return (y + linear(h, b) * scale).to(y.dtype)
    return torch.addmm(y.flatten(0, -2), h.flatten(0, -2), b.T, alpha=scale).view(y.shape)


def _summed_outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(b, m · n) float32: for each sample Σ_t left_t right_tᵀ, of (b, t, m) and (b, t, n).

    Either may have one more dimension before its last (DeepSeek's latent keys have one head): it is summed over too.
    """
    if left.dtype != right.dtype:
        left, right = left.float(), right.float()
    return torch.bmm(left.flatten(1, -2).transpose(1, 2), right.flatten(1, -2)).flatten(1).float()
