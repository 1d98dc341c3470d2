"""Test a model on a skill's eval set: greedy answers, or the likelihood of each option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lifelong.errors import InputError, ModelError
from lifelong.evaluate.lmms import is_external
from lifelong.evaluate.metrics import METRICS, Metric
from lifelong.measure.passes import answer_nll
from lifelong.measure.pool import REFUSED
from lifelong.models.encode import Conversation, Encoder
from lifelong.models.load import VisionLanguageModel


@dataclass(frozen=True, slots=True)
class Item:
    """One eval sample. conversation: without its last answer; options: of a multiple choice, else empty; accepted: all
    answers that are right, the reference among them; empty where it alone is."""

    sample_id: str
    conversation: Conversation
    reference: str
    options: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and its score in [0, 1]. accepted: as an `Item` has them."""

    sample_id: str
    prediction: str
    reference: str
    score: float
    accepted: tuple[str, ...] = ()


def evaluate(
    vlm: VisionLanguageModel,
    items: Sequence[Item],
    metric: Metric,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """Answers to `items` in their order. Batches are cut from that order, `batch_size` at a time."""
    answers: list[Answer] = []
    with vlm.evaluating(), torch.no_grad():
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            said = (
                _choose(vlm, batch, batch_size) if metric.kind == "choice" else _generate(vlm, batch, metric)
            )
            for item, prediction in zip(batch, said, strict=True):
                score = float(metric.against(prediction, item.accepted or [item.reference]))
                answers.append(Answer(item.sample_id, prediction, item.reference, score, item.accepted))
            progress(len(answers), len(items))
    return answers


def refusal(encoder: Encoder, item: Item, metric: Metric) -> str:
    """Why the model's processor cannot take a sample, whatever the adapter is; "" where it can.

    Raises: ModelError if the model, not the sample, is at fault.
    """
    try:
        if metric.kind == "choice":
            encoder.training([_answered(item.conversation, option) for option in item.options])
        else:
            encoder.prompts([item.conversation])
    except ModelError:
        raise
    except REFUSED as error:
        return f"the model's processor cannot take it: {error}"
    return ""


def metric_named(name: str) -> Metric:
    """Raises: InputError with the names there are."""
    if is_external(name):
        raise InputError(f"metric {name!r} has its own eval set: name a skill of its own, and no eval file")
    if name not in METRICS:
        raise InputError(
            f"there is no metric {name!r}; choose one of {', '.join(sorted(METRICS))}, lmms_eval:TASK"
        )
    return METRICS[name]


def _generate(vlm: VisionLanguageModel, items: Sequence[Item], metric: Metric) -> list[str]:
    prompts = vlm.encoder.prompts([item.conversation for item in items])
    inputs: dict[str, Any] = {name: tensor.to(vlm.device) for name, tensor in prompts.items()}
    length = inputs["input_ids"].shape[1]
    tokenizer = vlm.encoder.tokenizer
    generated = vlm.model.generate(
        **inputs,
        max_new_tokens=metric.max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=_ends(vlm),
    )
    return [text.strip() for text in tokenizer.batch_decode(generated[:, length:], skip_special_tokens=True)]


def _ends(vlm: VisionLanguageModel) -> list[int]:
    """Tokens that end an answer: the template's or the tokenizer's, which training teaches, and those the model came
    with."""
    own = vlm.model.generation_config.eos_token_id
    own = [own] if isinstance(own, int) else own or []
    return sorted({*own, vlm.encoder.tokenizer.eos_token_id, vlm.encoder.closing} - {None})


def _choose(vlm: VisionLanguageModel, items: Sequence[Item], batch_size: int) -> list[str]:
    """The option whose tokens are likeliest on average (the end of the answer included)."""
    asked = [(row, option) for row, item in enumerate(items) for option in item.options]
    conversations = [_answered(items[row].conversation, option) for row, option in asked]
    nll = np.concatenate(
        [answer_nll(vlm, conversations[i : i + batch_size]) for i in range(0, len(asked), batch_size)]
    )
    best = [(np.inf, "") for _ in items]
    for (row, option), value in zip(asked, nll, strict=True):
        if value < best[row][0]:
            best[row] = (float(value), option)
    return [option for _, option in best]


def _answered(conversation: Conversation, answer: str) -> Conversation:
    reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return Conversation([*conversation.messages, reply], conversation.images)
