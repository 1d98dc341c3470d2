"""Families beside the three that all other tests run: what is measured of them is what they themselves compute."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.config import LoraConfig, ModelConfig
from lifelong.errors import InputError
from lifelong.measure.passes import AlonePass, AnswerPass, answer_nll
from lifelong.measure.projectors import CountSketch
from lifelong.models.encode import Conversation
from lifelong.models.load import VisionLanguageModel, load
from lifelong.training.train import answer_loss
from tests.conftest import IMAGE, assert_close, chat, disturb, one_at_a_time
from tests.tiny_models import build

FAMILIES = (
    "qwen3_vl",
    "qwen3_5",
    "llava_next",
    "llava_onevision",
    "granite4_vision",
    "ovis2",
    "internvl",
    "gemma3",
    "gemma4",
)
CLOSED = ("<|im_end|>", "</s>", "<end_of_turn>", "<turn|>")


def load_folder(folder: Path, **config: Any) -> VisionLanguageModel:
    vlm = load(ModelConfig(path=str(folder), device="cpu", **config), LoraConfig(rank=4, alpha=8), 0)
    vlm.model.eval()
    disturb(vlm)
    return vlm


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def vlm(folder: Path) -> VisionLanguageModel:
    return load_folder(folder)


def conversations() -> list[Conversation]:
    """One image, two, none, two in a conversation of two turns, and words before the image."""
    return [
        chat(f"{IMAGE}what color?", "red", seed=1),
        chat(f"{IMAGE}and {IMAGE}? {'please ' * 30}", f"{'a long answer ' * 5}so", seed=2),
        chat("say", "it"),
        chat(f"{IMAGE}{IMAGE}which?", "left", "sure?", "yes", seed=3),
        chat(f"what is it? {IMAGE}", "a shape", seed=4),
    ]


def test_no_signal_depends_on_the_batch(vlm: VisionLanguageModel) -> None:
    measure = AnswerPass(vlm, (0, 1, 2), CountSketch(256, 0), hidden=1, attended=True, alignment=True)
    together = measure(conversations())
    for row, conversation in enumerate(conversations()):
        for name, expected in measure([conversation]).items():
            found = together[name][row : row + 1]
            assert (np.isfinite(found) == np.isfinite(expected)).all()
            assert np.isfinite(expected).all() or not conversation.images
            assert_close(np.nan_to_num(found), np.nan_to_num(expected), 1e-3)


def with_images(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages as a processor takes them by itself."""
    images = iter(conversation.images)
    return [
        {
            **turn,
            "content": [
                {**part, "image": next(images)} if part["type"] == "image" else part
                for part in turn["content"]
            ],
        }
        for turn in conversation.messages
    ]


@torch.no_grad()
def test_the_answers_are_as_likely_as_the_model_says_of_its_processors_tokens(
    vlm: VisionLanguageModel,
) -> None:
    found = answer_nll(vlm, conversations())
    for row, conversation in enumerate(conversations()):
        inputs = vlm.encoder.processor.apply_chat_template(
            with_images(conversation), tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = inputs["input_ids"][0]
        batch = vlm.encoder.training([conversation])
        # The template may write a line's end after the last answer.
        length = int(batch.answer[0].nonzero()[-1]) + 1
        assert ids[:length].equal(batch.inputs["input_ids"][0][:length])
        assert (batch.inputs["input_ids"][0][batch.image[0]] == vlm.model.config.image_token_id).all()
        place = batch.answer[0].nonzero()[:, 0]
        spoken = vlm.encoder.tokenizer.decode(ids[place])
        for token in CLOSED:
            spoken = spoken.replace(token, "")
        answers = [turn["content"][0]["text"] for turn in conversation.messages[1::2]]
        assert "".join(spoken.split()) == "".join("".join(answers).split())
        log_p = torch.log_softmax(vlm.model(**inputs).logits[0].double(), -1)
        expected = -log_p[place - 1, ids[place]].mean()
        assert_close(found[row], expected, 1e-4)


def test_answers_alone_are_found_whatever_the_template(vlm: VisionLanguageModel) -> None:
    for conversation in conversations():
        whole, alone = (vlm.encoder.training([each]) for each in (conversation, conversation.alone()))
        answers = [batch.inputs["input_ids"][batch.answer].tolist() for batch in (whole, alone)]
        assert answers[0] == answers[1]
    assert np.isfinite(AlonePass(vlm)(conversations())["nll_alone"]).all()


def test_the_gradients_are_those_of_autograd(vlm: VisionLanguageModel) -> None:
    found = AnswerPass(vlm, (0, 1, 2), CountSketch(8, 0))(conversations())["gradient_norm"]
    gradients = one_at_a_time(vlm, conversations(), [0, 1, 2])
    assert_close(found, torch.cat(list(gradients.values()), 1).norm(dim=1), 1e-4)


@torch.no_grad()
def test_what_is_looked_at_is_what_eager_attention_says(folder: Path, vlm: VisionLanguageModel) -> None:
    twin = load_folder(folder, attention="eager")
    found = AnswerPass(vlm, attended=True, alignment=True)(conversations())
    for row, conversation in enumerate(conversations()):
        if not conversation.images:
            continue
        batch = vlm.encoder.training([conversation])
        told = twin.model(**batch.inputs, output_attentions=True, output_hidden_states=True, use_cache=False)
        maps = [each[0].double().mean(0) for each in told.attentions]
        image, instruction = batch.image[0], batch.instruction[0]
        alignment = torch.linalg.svdvals(sum(maps)[~image][:, image])[:5].sum()
        assert_close(found["alignment"][row], alignment, 1e-4)
        first = 0 if len(maps) == 3 else 1  # of Qwen3.5 the second layer alone has attention
        weights = maps[0][instruction][:, image].sum(0)
        kept = weights.argsort(descending=True, stable=True)
        if weights.sum() > 0:
            reached = (weights[kept] / weights.sum()).cumsum(0)
            kept = kept[: int((reached <= 0.9).sum()) + 1]
        states = told.hidden_states[first + 1][0].double()
        attended = states[image.nonzero()[:, 0][kept]].mean(0)
        assert_close(found["attended"][row][None], attended[None], 1e-4)


def test_the_images_matter(vlm: VisionLanguageModel) -> None:
    nll = answer_nll(vlm, [chat(f"{IMAGE}what color?", "red", seed=seed) for seed in (1, 2)])
    assert abs(nll[0] - nll[1]) > 1e-5


def test_steps_lower_the_loss(folder: Path) -> None:
    vlm = load_folder(folder)
    batch = vlm.encoder.training(conversations())
    vlm.model.train()
    optimizer = torch.optim.Adam([w for w in vlm.model.parameters() if w.requires_grad], 1e-2)
    losses = []
    for _ in range(4):
        loss = answer_loss(vlm, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


def test_an_answer_is_asked_for_where_the_prompt_ends(vlm: VisionLanguageModel) -> None:
    prompts = vlm.encoder.prompts([each.prompt() for each in conversations()])
    length = prompts["input_ids"].shape[1]
    told = vlm.model.generate(**prompts, max_new_tokens=2, do_sample=False)
    assert told.shape[0] == len(conversations())
    assert told[:, :length].equal(prompts["input_ids"])


MARKS = {
    "qwen3_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "llava_onevision": ["<video>"],
    "internvl": ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
    "gemma3": ["<start_of_image>", "<end_of_image>", "<image_soft_token>"],
    "gemma4": ["<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio>"],
    "idefics3": ["<fake_token_around_image>", "<global-img>", "<row_1_col_2>"],
}


@pytest.mark.parametrize("family", MARKS)
def test_no_token_of_the_models_images_may_be_written_out(tmp_path: Path, family: str) -> None:
    encoder = load_folder(build(family, tmp_path)).encoder
    for token in MARKS[family]:
        answered = chat(f"{IMAGE}what is it?", f"a {token}")
        with pytest.raises(
            InputError, match=r"turn 2 \(assistant\) holds .*may not be written out in a message"
        ):
            encoder.training([chat("say", "it"), answered])
        for asked in (chat(f"{IMAGE}is it {token}?", "no"), chat(f"say {token}", "no")):
            with pytest.raises(InputError, match=r"turn 1 \(user\) holds .*: write <image> where"):
                encoder.training([asked])
            with pytest.raises(InputError, match=rf"{re.escape(repr(token))}.*may not be written out"):
                encoder.prompts([asked.prompt()])
    plain = chat(f"{IMAGE}where is the image, <|box_start|>(1,2)<|box_end|> or <b>video</b>?", "[IMAGE 1]")
    assert encoder.training([plain]).answer.any()


@pytest.mark.parametrize(
    ("family", "fault"),
    [("mllama", "looks at images by cross-attention"), ("paligemma", "has no chat template")],
)
def test_a_family_that_cannot_be_measured_is_refused(tmp_path: Path, family: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        load_folder(build(family, tmp_path))


def test_a_processor_that_writes_a_text_of_its_own_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] or '<image>' }}{% endfor %}{% endfor %}"
    (build("paligemma", tmp_path) / "chat_template.jinja").write_text(template, encoding="utf-8")
    vlm = load_folder(tmp_path)
    with pytest.raises(InputError, match="adds more to the text of the chat template than it tells of"):
        vlm.encoder.training([chat(f"{IMAGE}what is it?", "a circle")])


def test_layers_that_mix_samples_have_no_gradients(tmp_path: Path) -> None:
    folder = build("qwen3_5_moe", tmp_path)
    with pytest.raises(InputError, match=r"shared_expert.*leave it out with lora\.targets"):
        AnswerPass(load_folder(folder), (0,), CountSketch(8, 0))(conversations())
    lora = LoraConfig(rank=4, alpha=8, targets=("q_proj", "v_proj"))
    vlm = load(ModelConfig(path=str(folder), device="cpu"), lora, 0)
    vlm.model.eval()
    found = AnswerPass(vlm, (1,), CountSketch(8, 0))(conversations())["gradient_norm"]
    gradients = one_at_a_time(vlm, conversations(), [1])
    assert_close(found, torch.cat(list(gradients.values()), 1).norm(dim=1), 1e-4)
