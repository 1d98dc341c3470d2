"""Per-sample gradients of LoRA parameters from one batched forward and backward.

For an adapted linear layer y = W x + s · B h, h = A x (Hu et al. 2021, https://arxiv.org/abs/2106.09685, §4.1)
and one sample with tokens t:

    ∂L/∂B = s · Σ_t (∂L/∂y_t) h_tᵀ        ∂L/∂A = Σ_t (∂L/∂h_t) x_tᵀ

so the layers' x and h and the gradients at y and h, which the backward pass computes anyway, are all that is
needed: the gradient of the whole model is never built, and the pass stops at the lowest layer asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

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
            for part, hook in _hooks(name, module, tape, take):
                stack.callback(part.register_forward_hook(hook).remove)
        with torch.no_grad():
            yield tape


def _start_graph(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    torch.set_grad_enabled(True)
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}


def _hooks(name: str, module: Any, tape: Tape, take: Take) -> list[tuple[nn.Module, Any]]:
    """What is to be hooked of an adapted layer, with the hooks: of its A, which runs first, and of the whole.

    A gradient is formed the moment that the backward pass has it, so that no two layers' need be held at once.
    """
    (adapter,) = module.active_adapters
    scale = float(module.scaling[adapter])
    held: list[torch.Tensor] = []

    def after_a(_: nn.Module, args: tuple[Any, ...], h: torch.Tensor) -> None:
        if h.requires_grad:
            held[:] = [h.detach()]
            tape.hidden.append(h)
            h.register_hook(partial(at_h, args[0].detach()))

    def after(_: nn.Module, args: tuple[Any, ...], y: torch.Tensor) -> None:
        if held:
            y.register_hook(partial(at_y, held.pop()))

    def at_h(x: torch.Tensor, gradient: torch.Tensor) -> None:
        take(f"{name}.A", _summed_outer(gradient, x))

    def at_y(h: torch.Tensor, gradient: torch.Tensor) -> None:
        take(f"{name}.B", _summed_outer(gradient, h * scale))

    return [(module.lora_A[adapter], after_a), (module, after)]


def _summed_outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(b, m · n) float32: for each sample Σ_t left_t right_tᵀ, of (b, t, m) and (b, t, n)."""
    return torch.bmm(left.transpose(1, 2), right).flatten(1).float()
