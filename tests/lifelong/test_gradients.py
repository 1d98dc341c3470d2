"""Per-sample LoRA gradients of one batched pass against autograd, one sample at a time."""

from __future__ import annotations

import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lifelong.measure.answers import token_signals
from lifelong.measure.gradients import recording
from lifelong.measure.passes import AnswerPass, predictions
from lifelong.measure.projectors import NormsOnly
from lifelong.models.encode import Conversation
from lifelong.models.load import VisionLanguageModel
from tests.conftest import Gradients, Loader, assert_close, mixed, one_at_a_time


def batched(vlm: VisionLanguageModel, conversations: list[Conversation], layers: list[int]) -> Gradients:
    """As measuring computes them: {"layer.module.A": (b, size)}."""
    batch = vlm.encoder.training(conversations)
    modules = {f"{n}.{name}": module for n in layers for name, module in vlm.adapted(n).items()}
    found_gradients: Gradients = {}
    with (
        recording(vlm.decoder_layers[min(layers)], modules, found_gradients.__setitem__) as tape,
        predictions(vlm, batch) as caught,
    ):
        vlm.model(**batch.inputs, use_cache=False)
    (found,) = caught
    weights = (1.0 / found.count)[found.sample]
    signals = token_signals(vlm.logits, vlm.vocabulary, found.hidden, found.labels, weights)
    tape.backward(found.hidden, signals.hidden_gradient)
    return found_gradients


@pytest.mark.parametrize("layers", [[0], [1], [2], [0, 1, 2]], ids=str)
def test_equal_to_autograd(vlm: VisionLanguageModel, layers: list[int]) -> None:
    conversations = mixed()[:6]
    found, expected = (method(vlm, conversations, layers) for method in (batched, one_at_a_time))
    assert found.keys() == expected.keys()
    for name in expected:
        assert expected[name].norm(dim=1).min() > 0, name
        assert_close(found[name], expected[name], 1e-4)


def test_of_a_fresh_adapter(family: str, load_tiny: Loader) -> None:
    vlm = load_tiny(family)
    conversations = mixed()[:3]
    found, expected = (method(vlm, conversations, [0, 1, 2]) for method in (batched, one_at_a_time))
    for name in expected:
        if name.endswith(".A"):
            assert (found[name] == 0).all()
        else:
            assert expected[name].norm(dim=1).min() > 0
            assert_close(found[name], expected[name], 1e-4)


def test_tokens_may_have_a_dimension_of_heads() -> None:
    """DeepSeek's latent keys have one of one head: (b, 1, t, r)."""
    model = get_peft_model(nn.Sequential(nn.Linear(3, 5)), LoraConfig(r=2, target_modules=["0"]))
    layer = model.get_base_model()[0]
    layer.lora_B["default"].weight.data.normal_(generator=torch.Generator().manual_seed(0))
    states = torch.randn(2, 1, 4, 3, generator=torch.Generator().manual_seed(1))
    found: dict[str, torch.Tensor] = {}
    with recording(None, {"l": layer}, found.__setitem__) as tape, torch.enable_grad():
        output = layer(states)
        tape.backward(output, torch.ones_like(output))
    for row, state in enumerate(states):
        weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        for name, gradient in zip("AB", torch.autograd.grad(layer(state).sum(), weights), strict=True):
            assert_close(found[f"l.{name}"][row][None], gradient.flatten()[None], 1e-5)


@pytest.mark.parametrize("layers", [(1,), (0, 1, 2)], ids=str)
def test_gradient_norm_is_that_of_the_whole_gradient(
    vlm: VisionLanguageModel, layers: tuple[int, ...]
) -> None:
    conversations = mixed()[:6]
    norms = AnswerPass(vlm, layers, NormsOnly())(conversations)["gradient_norm"]
    pieces = one_at_a_time(vlm, conversations, list(layers)).values()
    assert_close(norms, torch.cat(list(pieces), dim=1).norm(dim=1), 1e-4)


def hooks(vlm: VisionLanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())


def test_the_pass_leaves_no_hook_and_no_gradient_behind(vlm: VisionLanguageModel) -> None:
    # The first forward lets transformers put hooks of its own in place.
    AnswerPass(vlm)(mixed()[:2])
    before = hooks(vlm)
    AnswerPass(vlm, (1,), NormsOnly(), hidden=1)(mixed()[:2])
    assert torch.is_grad_enabled()
    assert hooks(vlm) == before
    assert all(weight.grad is None for weight in vlm.model.parameters())


def test_hooks_go_when_the_forward_fails(vlm: VisionLanguageModel) -> None:
    before = hooks(vlm)

    def fail() -> None:
        with recording(vlm.decoder_layers[0], vlm.adapted(0), lambda name, piece: None):
            assert hooks(vlm) == before + 1
            assert all("forward" in vars(module) for module in vlm.adapted(0).values())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.is_grad_enabled()
    assert hooks(vlm) == before
    assert not any("forward" in vars(module) for module in vlm.model.modules())


def test_nothing_below_the_lowest_layer_enters_the_graph(vlm: VisionLanguageModel) -> None:
    below = {f"1.{name}": module for name, module in vlm.adapted(1).items()}
    inside = {f"2.{name}": module for name, module in vlm.adapted(2).items()}
    found: Gradients = {}
    graph: dict[str, bool] = {}
    watched = [
        module.register_forward_hook(lambda m, args, y, name=name: graph.update({name: y.requires_grad}))
        for name, module in (below | inside).items()
    ]
    batch = vlm.encoder.training(mixed()[:2])
    with (
        recording(vlm.decoder_layers[2], below | inside, found.__setitem__) as tape,
        predictions(vlm, batch) as caught,
    ):
        vlm.model(**batch.inputs, use_cache=False)
    tape.backward(caught[0].hidden, torch.ones_like(caught[0].hidden))
    for handle in watched:
        handle.remove()
    assert graph == {**dict.fromkeys(below, False), **dict.fromkeys(inside, True)}
    assert found.keys() == {f"{name}.{part}" for name in inside for part in "AB"}


def test_a_gradient_is_let_go_once_it_is_taken(vlm: VisionLanguageModel) -> None:
    """No two modules' gradients are alive at once: memory does not grow with the number of layers."""
    modules = {f"{n}.{name}": module for n in (0, 1, 2) for name, module in vlm.adapted(n).items()}
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def take(name: str, piece: torch.Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(piece))
        most = max(most, sum(each() is not None for each in alive))

    batch = vlm.encoder.training(mixed()[:4])
    with (
        recording(vlm.decoder_layers[0], modules, take) as tape,
        predictions(vlm, batch) as caught,
    ):
        vlm.model(**batch.inputs, use_cache=False)
    tape.backward(caught[0].hidden, torch.ones_like(caught[0].hidden))
    assert len(alive) == 2 * len(modules)
    assert most == 1
