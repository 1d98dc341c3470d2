"""One forward + backward that gives every signal, and forwards without the images or without the questions.

A sample's signals do not depend on its batch mates: padding is masked in the model and left out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch

from lifelong.measure.answers import mean_by_sample, token_signals
from lifelong.measure.attention import self_attention, token_states
from lifelong.measure.crossmodal import cross_modal
from lifelong.measure.gradients import recording
from lifelong.measure.projectors import NormsOnly, Projector
from lifelong.models.encode import Batch, Conversation
from lifelong.models.load import VisionLanguageModel

Arrays = dict[str, np.ndarray]

NARROW_SHARE = 0.75
"""Share of the positions from which on taking them apart costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The hidden states that predict the n answer tokens of a batch.

    hidden: (n, h); labels: (n,) tokens to predict; sample: (n,) row in the batch; count: (b,) answer tokens.
    """

    hidden: torch.Tensor
    labels: torch.Tensor
    sample: torch.Tensor
    count: torch.Tensor


@contextmanager
def predictions(
    vlm: VisionLanguageModel, batch: Batch, also: Literal["attention", "output"] | None = None
) -> Iterator[list[Predictions]]:
    """Catch the hidden states before the head, and let the head see one position only.

    The list holds one item after the model's forward has run inside the block. The last layer works on the
    predicting positions only, beyond its keys and values, since nothing else is read of it; but in training, for its
    dropout's draws and its checkpointing. also: what is read of the last layer at other positions too.
    """
    caught: list[Predictions] = []
    ids = batch.inputs["input_ids"]
    predicts = torch.zeros_like(batch.answer)
    predicts[:, :-1] = batch.answer[:, 1:]
    rows, columns = predicts.nonzero(as_tuple=True)
    positions = rows * predicts.shape[1] + columns

    def before_head(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (hidden,) = args
        predicting = hidden.flatten(0, 1).index_select(0, positions)
        caught.append(Predictions(predicting, ids[rows, columns + 1], rows, batch.answer.sum(1).float()))
        return (hidden[:, :1],)

    with ExitStack() as stack:
        stack.callback(vlm.head.register_forward_pre_hook(before_head).remove)
        if also != "output" and not vlm.model.training:
            names = ("o_proj", "mlp") if also else ("q_proj", "o_proj", "mlp")
            parts = [part for name, part in vlm.last_layer.items() if name.rpartition(".")[2] in names]
            stack.enter_context(narrowed(parts, predicts))
        yield caught


@contextmanager
def narrowed(modules: Sequence[torch.nn.Module], wanted: torch.Tensor) -> Iterator[None]:
    """Have modules that work on each position by itself do so at the `wanted` (b, t) ones only.

    Their output is one elsewhere: at zero, the norms of some models (Gemma 3n's) have no gradient. What they see still
    has a row for each sample. Where nearly all are wanted, all are worked on.
    """
    width = int(wanted.sum(1).max())
    if width > NARROW_SHARE * wanted.shape[1]:
        yield
        return
    rows, columns = wanted.nonzero(as_tuple=True)
    slots = (wanted.cumsum(1) - 1)[rows, columns]
    # Samples with fewer wanted positions than others repeat their first, which then counts for nothing.
    index = columns.new_zeros(len(wanted), width)
    index[rows, slots] = columns
    counts = torch.zeros_like(index, dtype=torch.bool)
    counts[rows, slots] = True
    # Whole rows of flat tensors: indexing by two dimensions is ten times slower on its way back.
    first = torch.arange(len(wanted), device=wanted.device)[:, None] * wanted.shape[1]
    positions = (first + index).flatten()

    def before(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states = args[0]
        taken = states.flatten(0, 1).index_select(0, positions)
        return taken.view(len(wanted), width, states.shape[-1]), *args[1:]

    def after(_: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        full = (~wanted).flatten()[:, None].to(output.dtype).repeat(1, output.shape[-1])
        full = full.index_add(0, positions, (output * counts[..., None]).flatten(0, 1))
        return full.view(*wanted.shape, output.shape[-1])

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield


class Pass(Protocol):
    """Gives some signals of a few conversations."""

    def __call__(self, conversations: Sequence[Conversation]) -> Arrays:
        """Arrays of one row per conversation."""
        ...


@dataclass(frozen=True, slots=True)
class AnswerPass:
    """One forward, with one backward if gradients are wanted: signals of the answers, vectors.

    layers: decoder layers whose LoRA gradients are projected; projector: None for no backward;
    hidden: decoder layer whose pooled output is wanted, or None; attended, alignment: whether these
    signals of the attention are wanted.
    """

    vlm: VisionLanguageModel
    layers: tuple[int, ...] = ()
    projector: Projector | None = None
    hidden: int | None = None
    attended: bool = False
    alignment: bool = False
    modules: dict[str, Any] = field(init=False, repr=False)
    """The adapted modules of `layers`, by layer and name."""

    def __post_init__(self) -> None:
        modules = {
            f"{layer}.{name}": module
            for layer in self.layers
            for name, module in self.vlm.adapted(layer).items()
        }
        object.__setattr__(self, "modules", modules)

    def __call__(self, conversations: Sequence[Conversation]) -> Arrays:
        """nll, el2n, entropy, answer_tokens, tokens, and if asked gradient_norm, alignment: (b,) float32; gradient:
        (b, dim) and hidden: (b, h) float32, rows L2-normalised; attended: (b, h) float32. What is of the
        image is NaN for conversations that have none.

        The gradient is that of a sample's mean answer-token loss. The pooled hidden state is the mean over
        its tokens, padding excepted.
        """
        return self.signals(self.vlm.encoder.training(conversations))

    def signals(self, batch: Batch) -> Arrays:
        """The same of a batch that is encoded already."""
        vlm = self.vlm
        batch = batch.to(vlm.device)
        first = vlm.decoder_layers[min(self.layers)] if self.layers else None
        projection = (self.projector or NormsOnly()).batch(len(batch.answer), vlm.device)
        with (
            recording(first, self.modules, projection.add) as tape,
            pooling(vlm, self.hidden, batch) as pooled,
            cross_modal(vlm, batch, attended=self.attended, alignment=self.alignment) as bound,
            predictions(vlm, batch, self._of_last_layer()) as caught,
        ):
            vlm.model(**batch.inputs, use_cache=False)
        (found,) = caught
        weights = (1.0 / found.count)[found.sample] if self.projector else None
        signals = token_signals(vlm.logits, vlm.vocabulary, found.hidden, found.labels, weights)
        arrays = {
            "nll": mean_by_sample(signals.negative_log_likelihood, found.sample, found.count),
            "el2n": mean_by_sample(signals.el2n, found.sample, found.count),
            "entropy": mean_by_sample(signals.entropy, found.sample, found.count),
            "answer_tokens": found.count,
            "tokens": batch.inputs["attention_mask"].sum(1),
        }
        if self.projector and signals.hidden_gradient is not None:
            tape.backward(found.hidden, signals.hidden_gradient)
            vectors, arrays["gradient_norm"] = projection.vectors()
            arrays["gradient"] = _unit_rows(vectors)
        if pooled:
            arrays["hidden"] = _unit_rows(pooled[0])
        if self.attended:
            arrays["attended"] = bound.attended()
        if self.alignment:
            arrays["alignment"] = bound.alignment()
        return {name: _array(tensor) for name, tensor in arrays.items()}

    def _of_last_layer(self) -> Literal["attention", "output"] | None:
        """What is read of all positions of the last layer."""
        last = len(self.vlm.decoder_layers) - 1
        if self.hidden == last or (self.attended and last == min(self_attention(self.vlm))):
            return "output"
        return "attention" if self.alignment else None


@contextmanager
def pooling(vlm: VisionLanguageModel, layer: int | None, batch: Batch) -> Iterator[list[torch.Tensor]]:
    """Catch a decoder layer's output averaged over each sample's tokens: one (b, h) float32 tensor."""
    caught: list[torch.Tensor] = []

    def after_layer(_: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states = token_states(output)
        visible = batch.inputs["attention_mask"][..., None].float()
        caught.append((states.detach().float() * visible).sum(1) / visible.sum(1))

    if layer is None:
        yield caught
        return
    handle = vlm.decoder_layers[layer].register_forward_hook(after_layer)
    try:
        yield caught
    finally:
        handle.remove()


@dataclass(frozen=True, slots=True)
class AlignmentPass:
    """One forward, for the alignment of text and image alone."""

    vlm: VisionLanguageModel

    @torch.no_grad()
    def __call__(self, conversations: Sequence[Conversation]) -> Arrays:
        """alignment: (b,) float32, NaN for conversations that have no image."""
        batch = self.vlm.encoder.training(conversations).to(self.vlm.device)
        with (
            cross_modal(self.vlm, batch, attended=False, alignment=True) as bound,
            predictions(self.vlm, batch, "attention"),
        ):
            self.vlm.model(**batch.inputs, use_cache=False)
        return {"alignment": _array(bound.alignment())}


@dataclass(frozen=True, slots=True)
class ReadPass:
    """No model at all: only the processor, which may refuse a sample."""

    vlm: VisionLanguageModel

    def __call__(self, conversations: Sequence[Conversation]) -> Arrays:
        """answer_tokens, tokens: (b,) float32."""
        batch = self.vlm.encoder.training(conversations)
        tokens = batch.inputs["attention_mask"].sum(1)
        return {"answer_tokens": _array(batch.answer.sum(1)), "tokens": _array(tokens)}


@dataclass(frozen=True, slots=True)
class BlindPass:
    """One forward of the conversations without their images."""

    vlm: VisionLanguageModel

    def __call__(self, conversations: Sequence[Conversation]) -> Arrays:
        """nll_blind: (b,) float32, NaN for conversations that have no image."""
        blind = np.full(len(conversations), np.nan, dtype=np.float32)
        seeing = [row for row, conversation in enumerate(conversations) if conversation.images]
        if seeing:
            blind[seeing] = answer_nll(self.vlm, [conversations[row].blinded() for row in seeing])
        return {"nll_blind": blind}


@dataclass(frozen=True, slots=True)
class AlonePass:
    """One forward of the answers alone, which are short."""

    vlm: VisionLanguageModel

    def __call__(self, conversations: Sequence[Conversation]) -> Arrays:
        """nll_alone: (b,) float32."""
        return {"nll_alone": answer_nll(self.vlm, [conversation.alone() for conversation in conversations])}


def answer_nll(vlm: VisionLanguageModel, conversations: Sequence[Conversation]) -> np.ndarray:
    """(b,) float32: mean negative log-likelihood of each conversation's answer tokens, nats."""
    return batch_nll(vlm, vlm.encoder.training(conversations))


@torch.no_grad()
def batch_nll(vlm: VisionLanguageModel, batch: Batch) -> np.ndarray:
    """The same of a batch that is encoded already."""
    batch = batch.to(vlm.device)
    with predictions(vlm, batch) as caught:
        vlm.model(**batch.inputs, use_cache=False)
    (found,) = caught
    signals = token_signals(vlm.logits, vlm.vocabulary, found.hidden, found.labels)
    return _array(mean_by_sample(signals.negative_log_likelihood, found.sample, found.count))


def _unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; a row of zeros stays."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
