"""The passes: every signal against its formula, and none of them depends on the batch."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import one_hot

from lifelong.measure.attention import token_states
from lifelong.measure.passes import (
    AlonePass,
    AnswerPass,
    Arrays,
    BlindPass,
    Pass,
    ReadPass,
    answer_nll,
    narrowed,
)
from lifelong.measure.projectors import CountSketch, NormsOnly
from lifelong.models.encode import Batch, Conversation
from lifelong.models.load import VisionLanguageModel
from tests.conftest import IMAGE, Loader, assert_close, chat, disturb, mixed

VECTORS = {"gradient", "hidden"}


@torch.no_grad()
def explicit(vlm: VisionLanguageModel, conversation: Conversation, layer: int) -> dict[str, np.ndarray]:
    """The signals of one conversation, from the logits of the whole sequence."""
    batch = vlm.encoder.training([conversation])
    output = vlm.model(**batch.inputs, labels=batch.labels(), output_hidden_states=True)
    answer = batch.answer[0, 1:]
    p = torch.softmax(output.logits[0, :-1][answer].double(), -1)
    labels = batch.inputs["input_ids"][0, 1:][answer]
    hidden = output.hidden_states[layer + 1][0].mean(0)
    return {
        "nll": output.loss.numpy(),
        "el2n": (p - one_hot(labels, p.shape[1])).norm(dim=1).mean().numpy(),
        "entropy": -torch.special.xlogy(p, p).sum(-1).mean().numpy(),
        "answer_tokens": np.array(float(len(labels))),
        "tokens": np.array(float(batch.inputs["input_ids"].shape[1])),
        "hidden": (hidden / hidden.norm()).numpy(),
    }


def test_signals_are_those_of_the_formulas(vlm: VisionLanguageModel) -> None:
    conversations = mixed()
    found = AnswerPass(vlm, hidden=1)(conversations)
    expected = [explicit(vlm, conversation, layer=1) for conversation in conversations]
    assert found.keys() == expected[0].keys()
    for name, values in found.items():
        assert values.dtype == np.float32
        assert_close(values, np.stack([each[name] for each in expected]), 1e-4)


def one_by_one(measure: Pass, conversations: list[Conversation]) -> Arrays:
    parts = [measure([conversation]) for conversation in conversations]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_no_signal_depends_on_the_batch(vlm: VisionLanguageModel) -> None:
    conversations = [*mixed()[:15], chat(f"{IMAGE}{'and then? ' * 60}", "a long one " * 20)]
    order = np.random.default_rng(0).permutation(16)
    passes = (AnswerPass(vlm, (0, 1, 2), CountSketch(256, 0), hidden=1), BlindPass(vlm), AlonePass(vlm))
    for measure in passes:
        alone = one_by_one(measure, conversations)
        together = measure(conversations)
        shuffled = measure([conversations[i] for i in order])
        assert alone.keys() == together.keys()
        for name, expected in alone.items():
            there = np.isfinite(expected)
            assert there.all() or name == "nll_blind"
            for found in (together[name], shuffled[name][np.argsort(order)]):
                assert (np.isfinite(found) == there).all()
                assert_close(np.where(there, found, 0), np.where(there, expected, 0), 1e-4)


def padded_left(batch: Batch) -> Batch:
    """The same batch with each row's padding before it."""
    visible = batch.inputs["attention_mask"]
    shifts = (visible.shape[1] - visible.sum(1)).tolist()

    def rolled(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([row.roll(shift, 0) for row, shift in zip(rows, shifts, strict=True)])

    inputs = {
        name: rolled(tensor) if tensor.shape[:2] == visible.shape else tensor
        for name, tensor in batch.inputs.items()
    }
    return Batch(inputs, rolled(batch.answer), rolled(batch.instruction), rolled(batch.image))


def test_no_signal_depends_on_the_side_of_the_padding(vlm: VisionLanguageModel) -> None:
    measure = AnswerPass(vlm, (0, 1, 2), CountSketch(256, 0), hidden=1, attended=True, alignment=True)
    batch = vlm.encoder.training(mixed())
    assert not batch.inputs["attention_mask"].bool().all()
    right, left = measure.signals(batch), measure.signals(padded_left(batch))
    assert right.keys() == left.keys()
    for name, expected in right.items():
        there = np.isfinite(expected)
        assert (np.isfinite(left[name]) == there).all()
        assert_close(np.where(there, left[name], 0), np.where(there, expected, 0), 1e-4)


def test_all_signals_of_one_backward(vlm: VisionLanguageModel) -> None:
    found = AnswerPass(vlm, (1,), CountSketch(64, 0), hidden=1)(mixed()[:5])
    shapes = {name: values.shape for name, values in found.items()}
    width = vlm.head.weight.shape[1]
    assert shapes == {
        "nll": (5,),
        "el2n": (5,),
        "entropy": (5,),
        "answer_tokens": (5,),
        "tokens": (5,),
        "gradient_norm": (5,),
        "gradient": (5, 64),
        "hidden": (5, width),
    }
    for name in VECTORS:
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1.0, rtol=1e-5)
    assert AnswerPass(vlm, (1,), NormsOnly())(mixed()[:5])["gradient"].shape == (5, 0)


def test_weights_in_bfloat16_say_nearly_the_same(family: str, load_tiny: Loader) -> None:
    """Their rounding is 2⁻⁸; peft keeps the adapter in float32 beside them."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        vlm = load_tiny(family, dtype=dtype)
        disturb(vlm)
        every = AnswerPass(vlm, (0, 1, 2), CountSketch(512, 0), 1, True, True)
        found[dtype] = every(mixed()[:8]) | BlindPass(vlm)(mixed()[:8])
    exact, rounded = found["float32"], found["bfloat16"]
    seeing = ~np.isnan(exact["alignment"])
    # Which tokens "attended" is the mean of has a threshold, that rounding may move one of them across.
    for name, least in (("gradient", 0.999), ("hidden", 0.999), ("attended", 0.995)):
        a, b = exact[name][seeing], rounded[name][seeing]
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > least, name
    # A gradient has been rounded in every layer, on the way there and on the way back.
    for name, most in (("gradient_norm", 2**-4), *((each, 2**-6) for each in ("nll", "el2n", "entropy"))):
        assert_close(rounded[name], exact[name], most)
    for name in ("nll_blind", "alignment"):
        assert_close(rounded[name][seeing], exact[name][seeing], 2**-6)
    for name in ("nll_blind", "alignment", "attended"):
        assert np.isnan(rounded[name][~seeing]).all()


def test_a_backward_does_not_change_the_other_signals(vlm: VisionLanguageModel) -> None:
    with_backward = AnswerPass(vlm, (0,), CountSketch(64, 0), hidden=1)(mixed())
    for name, values in AnswerPass(vlm, hidden=1)(mixed()).items():
        assert_close(with_backward[name], values, 1e-5)


def test_the_images_matter(vlm: VisionLanguageModel) -> None:
    chats = [chat(f"{IMAGE}what color?", "red", seed=seed) for seed in (1, 2)]
    nll = answer_nll(vlm, chats)
    assert abs(nll[0] - nll[1]) > 1e-5
    assert (np.abs(nll - BlindPass(vlm)(chats)["nll_blind"]) > 1e-5).all()


@torch.no_grad()
def test_blind_pass_is_the_text_alone(vlm: VisionLanguageModel) -> None:
    conversations = [
        chat(f"{IMAGE}what color?", "red"),
        chat("no picture", "none"),
        chat(f"first {IMAGE} then {IMAGE}?", "both", "sure?", "yes"),
    ]
    blind = BlindPass(vlm)(conversations)["nll_blind"]
    assert np.isnan(blind[1])
    texts = [chat("what color?", "red"), chat("first  then ?", "both", "sure?", "yes")]
    # In the second the words stood in three parts, which a template may tell apart.
    texts[1].messages[0]["content"] = [{"type": "text", "text": text} for text in ("first ", " then ", "?")]
    batches = [vlm.encoder.training([text]) for text in texts]
    losses = [vlm.model(**batch.inputs, labels=batch.labels()).loss for batch in batches]
    assert_close(blind[[0, 2]], torch.stack(losses), 1e-5)


@torch.no_grad()
def test_alone_pass_is_the_answers_alone(vlm: VisionLanguageModel) -> None:
    conversations = [chat(f"{IMAGE}what color?", "red"), chat(f"first {IMAGE}?", "both", "sure?", "yes")]
    alone = AlonePass(vlm)(conversations)["nll_alone"]
    texts = [chat("?", "red"), chat("?", "both", "?", "yes")]
    for text in texts:
        for question in text.messages[::2]:
            question["content"] = [{"type": "text", "text": ""}]
    batches = [vlm.encoder.training([text]) for text in texts]
    losses = [vlm.model(**batch.inputs, labels=batch.labels()).loss for batch in batches]
    assert_close(alone, torch.stack(losses), 1e-5)
    # Whatever was asked, the answer alone is as likely.
    assert_close(AlonePass(vlm)([chat("which one?", "red")])["nll_alone"], alone[:1], 1e-5)
    assert [int(batch.answer.sum()) for batch in batches] == [
        int(vlm.encoder.training([each]).answer.sum()) for each in conversations
    ]


def test_blind_pass_of_texts_only(vlm: VisionLanguageModel) -> None:
    blind = BlindPass(vlm)([chat("say", "a"), chat("it", "b")])["nll_blind"]
    assert blind.dtype == np.float32
    assert np.isnan(blind).all()


def test_blind_pass_of_a_picture_without_words(vlm: VisionLanguageModel) -> None:
    assert np.isfinite(BlindPass(vlm)([chat(IMAGE, "a red circle")])["nll_blind"]).all()


def test_read_pass_counts_tokens_without_the_model(vlm: VisionLanguageModel) -> None:
    expected, found = AnswerPass(vlm)(mixed()), ReadPass(vlm)(mixed())
    assert found.keys() == {"answer_tokens", "tokens"}
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name])


def test_positions_that_are_left_out_have_a_gradient() -> None:
    """Gemma 3n takes the length of padding's states, whose gradient is infinite at zero."""
    layer = torch.nn.Linear(3, 3, bias=False)
    states = torch.zeros(1, 8, 3)
    states[0, 0] = 1.0
    states.requires_grad_()
    wanted = torch.zeros(1, 8, dtype=torch.bool)
    wanted[0, 0] = True
    with narrowed([layer], wanted):
        lengths = (states + layer(states)).square().mean(-1).sqrt()
    (gradient,) = torch.autograd.grad(lengths[wanted].sum(), states)
    assert gradient.isfinite().all()
    assert (gradient[~wanted] == 0).all()


def test_states_that_a_layer_keeps_side_by_side_count_alike() -> None:
    states = torch.arange(24.0).view(2, 1, 4, 3)
    assert token_states((states,)).equal(states[0] + 6)
    assert token_states(states[0]).equal(states[0])
