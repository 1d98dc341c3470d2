"""Token spans: what is an answer, what are the user's words, what is an image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlavaProcessor

from lifelong.errors import InputError
from lifelong.models.encode import Batch, Conversation, Encoder
from lifelong.models.load import VisionLanguageModel
from lifelong.models.processors import load_processor
from tests.conftest import IMAGE, Loader, chat, message, mixed
from tests.tiny_models import LLAVA_TEMPLATE

CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t")
TEXT = st.text(CHARACTERS, min_size=1, max_size=30).map(str.strip)
WORDS = TEXT.filter(lambda text: text and "<" not in text)

# What a family's template writes around an answer: before, after an inner one, after the last one.
AROUND = {
    "llava": (" ", "", "</s>"),
    "qwen2_5_vl": ("", "<|im_end|>", "<|im_end|>"),
    "idefics3": (" ", "<end_of_utterance>", "<end_of_utterance>"),
}
IMAGE_TOKEN = {"llava": "<image>", "qwen2_5_vl": "<|image_pad|>", "idefics3": "<image>"}


def decoded(vlm: VisionLanguageModel, batch: Batch, mask: torch.Tensor) -> list[str]:
    """The tokens of each row that are in the mask, as text."""
    rows = zip(batch.inputs["input_ids"], mask, strict=True)
    return [vlm.encoder.tokenizer.decode(ids[kept], clean_up_tokenization_spaces=False) for ids, kept in rows]


def words_of(conversation: Conversation, role: str) -> list[str]:
    return [
        "".join(part["text"] for part in turn["content"] if part["type"] == "text")
        for turn in conversation.messages
        if turn["role"] == role
    ]


def answers_of(family: str, conversation: Conversation) -> str:
    before, inner, last = AROUND[family]
    *earlier, final = words_of(conversation, "assistant")
    return "".join(before + answer + inner for answer in earlier) + before + final + last


def image_tokens(family: str, vlm: VisionLanguageModel, batch: Batch) -> list[int]:
    """Tokens of each image of the batch, from the model's configuration and the images' sizes."""
    config = vlm.model.config
    vision = config.vision_config
    if family == "qwen2_5_vl":
        grids = batch.inputs.get("image_grid_thw", torch.empty(0, 3))
        return [int(grid.prod()) // vision.spatial_merge_size**2 for grid in grids]
    if family == "llava":
        return [(vision.image_size // vision.patch_size) ** 2] * len(batch.inputs["pixel_values"])
    return [(vision.image_size // vision.patch_size // config.scale_factor) ** 2] * 100


def test_answers_decode_to_the_answers(family: str, vlm: VisionLanguageModel) -> None:
    conversations = mixed()
    batch = vlm.encoder.training(conversations)
    assert decoded(vlm, batch, batch.answer) == [answers_of(family, each) for each in conversations]


def test_instruction_is_the_users_words(vlm: VisionLanguageModel) -> None:
    conversations = mixed()
    batch = vlm.encoder.training(conversations)
    for found, conversation in zip(decoded(vlm, batch, batch.instruction), conversations, strict=True):
        # A tokenizer may put the space before a word into its token.
        assert found.replace(" ", "") == "".join(words_of(conversation, "user")).replace(" ", "")


def test_images_have_the_tokens_that_the_config_says(family: str, vlm: VisionLanguageModel) -> None:
    conversations = mixed()
    batch = vlm.encoder.training(conversations)
    sizes = iter(image_tokens(family, vlm, batch))
    expected = [sum(next(sizes) for _ in conversation.images) for conversation in conversations]
    assert batch.image.sum(1).tolist() == expected
    assert len(set(expected)) > 1
    assert (batch.inputs["input_ids"][batch.image] == vlm.model.config.image_token_id).all()


def test_masks_are_disjoint_and_leave_padding_out(vlm: VisionLanguageModel) -> None:
    batch = vlm.encoder.training(mixed())
    padding = ~batch.inputs["attention_mask"].bool()
    assert padding.any()
    assert int((torch.stack([batch.answer, batch.instruction, batch.image, padding]).sum(0)).max()) == 1


def test_labels_are_the_answers_tokens(vlm: VisionLanguageModel) -> None:
    batch = vlm.encoder.training(mixed())
    labels = batch.labels()
    assert labels[batch.answer].equal(batch.inputs["input_ids"][batch.answer])
    assert (labels[~batch.answer] == -100).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(WORDS, st.booleans(), WORDS), min_size=1, max_size=3))
def test_any_text_in_any_turn(
    family: str, vlm: VisionLanguageModel, turns: list[tuple[str, bool, str]]
) -> None:
    texts = [text for words, seen, answer in turns for text in ((IMAGE if seen else "") + words, answer)]
    conversation = chat(*texts)
    batch = vlm.encoder.training([conversation])
    assert decoded(vlm, batch, batch.answer) == [answers_of(family, conversation)]
    (words,) = decoded(vlm, batch, batch.instruction)
    assert words.replace(" ", "") == "".join(words_of(conversation, "user")).replace(" ", "")


def test_answer_that_repeats_the_question(family: str, vlm: VisionLanguageModel) -> None:
    conversation = chat("yes", "yes", "yes", "yes")
    batch = vlm.encoder.training([conversation])
    assert decoded(vlm, batch, batch.answer) == [answers_of(family, conversation)]
    assert int(batch.instruction.sum()) == 2 * len(vlm.encoder.tokenizer("yes")["input_ids"])


def test_a_system_message_is_neither_words_nor_answer(vlm: VisionLanguageModel) -> None:
    asked = chat("what?", "this")
    conversation = Conversation([message("system", "answer in one word"), *asked.messages])
    batch = vlm.encoder.training([conversation])
    (words,) = decoded(vlm, batch, batch.instruction)
    assert words.strip() == "what?"
    assert "one word" not in decoded(vlm, batch, batch.answer)[0]


def test_a_message_that_writes_out_the_image_token_is_refused(family: str, vlm: VisionLanguageModel) -> None:
    token = IMAGE_TOKEN[family]
    written = {"role": "user", "content": [{"type": "text", "text": f"what is {token}?"}]}
    answer = message("assistant", "a token")
    for conversation in (
        Conversation([written, answer]),
        Conversation([message("user", f"{IMAGE}hm"), answer, written, answer], chat(IMAGE).images),
    ):
        with pytest.raises(InputError, match="may not be written out in a message"):
            vlm.encoder.training([conversation])
        with pytest.raises(InputError, match="may not be written out in a message"):
            vlm.encoder.prompts([conversation.prompt()])


def test_a_sample_that_is_too_long_is_refused(vlm: VisionLanguageModel) -> None:
    conversation = chat(f"{IMAGE}what?", "a circle")
    length = vlm.encoder.training([conversation]).answer.shape[1]
    fits, cuts = (
        Encoder(vlm.encoder.processor, vlm.encoder.image_token_id, limit) for limit in (length, length - 1)
    )
    assert fits.training([conversation]).answer.any()
    with pytest.raises(InputError, match=f"{length} tokens is longer than the model's {length - 1}"):
        cuts.training([conversation])


def test_prompts_are_what_comes_before_the_answer(vlm: VisionLanguageModel) -> None:
    conversations = mixed()
    batch = vlm.encoder.training(conversations)
    prompts = vlm.encoder.prompts([conversation.prompt() for conversation in conversations])
    for row, conversation in enumerate(conversations):
        whole = batch.inputs["input_ids"][row]
        visible = prompts["attention_mask"][row].bool()
        assert visible[int((~visible).sum()) :].all(), "the padding is on the left"
        prompt = prompts["input_ids"][row][visible]
        assert prompt.equal(whole[: len(prompt)])
        answer = batch.answer[row].clone()
        answer[: len(prompt)] = False
        (found,) = decoded(vlm, Batch({"input_ids": whole[None]}, *[batch.answer] * 3), answer[None])
        assert answer[len(prompt)], "the answer starts where the prompt ends"
        assert words_of(conversation, "assistant")[-1] in found


def test_blinded_takes_the_images_and_nothing_else(vlm: VisionLanguageModel) -> None:
    conversation = chat(f"{IMAGE}what? ", "a circle", f"and {IMAGE}", "this").blinded()
    assert conversation.images == ()
    assert words_of(conversation, "user") == ["what? ", "and "]
    batch = vlm.encoder.training([conversation])
    assert not batch.image.any()
    assert "pixel_values" not in batch.inputs


def test_blinded_turn_of_an_image_alone(family: str, vlm: VisionLanguageModel) -> None:
    conversation = chat(IMAGE, "a circle").blinded()
    batch = vlm.encoder.training([conversation])
    assert decoded(vlm, batch, batch.answer) == [answers_of(family, conversation)]
    assert not batch.instruction.any()


def encoder_with(template: str, family: str, folders: dict[str, Path], vlm: VisionLanguageModel) -> Encoder:
    processor: Any = load_processor(str(folders[family]))
    processor.chat_template = template
    return Encoder(processor, vlm.encoder.image_token_id, 2048)


TRL_TEMPLATES = Path(trl.__file__).parent / "chat_templates"


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6"])
def test_answers_are_found_in_what_the_released_template_makes(
    name: str, model_folders: dict[str, Path], load_tiny: Loader
) -> None:
    vlm = load_tiny("qwen2_5_vl")
    template = (TRL_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    encoder = encoder_with(template, "qwen2_5_vl", model_folders, vlm)
    for conversation in (chat("what?", "blue"), chat("what?", "blue", "and?", "red", "why?", "so")):
        batch = encoder.training([conversation])
        said = "".join(f"{answer}<|im_end|>" for answer in words_of(conversation, "assistant"))
        assert decoded(vlm, batch, batch.answer) == [said]
    assert encoder.closing == vlm.encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_2", "gemma"])
def test_the_template_of_a_text_only_model_is_refused(
    name: str, model_folders: dict[str, Path], load_tiny: Loader
) -> None:
    template = (TRL_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="the model's chat template"):
        encoder_with(template, "qwen2_5_vl", model_folders, load_tiny("qwen2_5_vl")).training(
            [chat("a", "b")]
        )


def test_an_answer_ends_with_the_token_that_the_template_closes_it_with(
    family: str, vlm: VisionLanguageModel
) -> None:
    closing = vlm.encoder.closing
    ends = {"llava": None, "qwen2_5_vl": "<|im_end|>", "idefics3": "<end_of_utterance>"}
    assert (closing and vlm.encoder.tokenizer.convert_ids_to_tokens(closing)) == ends[family]


def test_a_template_that_turns_the_conversation_round_is_refused(
    family: str, model_folders: dict[str, Path], vlm: VisionLanguageModel
) -> None:
    backwards = "{% for m in messages[::-1] %}{{ m['role'] }}: {{ m['content'][0]['text'] }}\n{% endfor %}"
    encoder = encoder_with(backwards, family, model_folders, vlm)
    with pytest.raises(InputError, match="does not render a conversation as its turns one after the other"):
        encoder.training([chat("what?", "this", "and?", "that")])


@pytest.mark.parametrize("space", ["", " "])
def test_the_space_before_an_answer_may_be_the_prompts(
    space: str, model_folders: dict[str, Path], load_tiny: Loader
) -> None:
    vlm = load_tiny("llava")
    asking = LLAVA_TEMPLATE.replace("ASSISTANT:{% endif %}", f"ASSISTANT:{space}{{% endif %}}")
    encoder = encoder_with(asking, "llava", model_folders, vlm)
    conversation = chat(f"{IMAGE}what?", "blue", "and?", "red")
    batch = encoder.training([conversation])
    assert decoded(vlm, batch, batch.answer) == [answers_of("llava", conversation)]


def test_the_token_that_a_processor_puts_in_front_is_no_part_of_an_answer(
    model_folders: dict[str, Path], load_tiny: Loader
) -> None:
    class Leading(LlavaProcessor):
        """As Molmo2's."""

        def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
            led = [each if each.startswith("<s>") else f"<s>{each}" for each in text]
            return super().__call__(images=images, text=led, **options)

    vlm = load_tiny("llava")
    processor = load_processor(str(model_folders["llava"]))
    processor.__class__ = Leading
    encoder = Encoder(processor, vlm.encoder.image_token_id, vlm.encoder.max_length)
    conversations = [chat(f"{IMAGE}what?", "blue", "and?", "red"), chat("say", "it")]
    batch = encoder.training(conversations)
    assert decoded(vlm, batch, batch.answer) == [answers_of("llava", each) for each in conversations]
    for conversation in conversations:
        ids = encoder.prompts([conversation.prompt()])["input_ids"][0].tolist()
        assert ids[0] == vlm.encoder.tokenizer.bos_token_id
        assert ids.count(ids[0]) == 1


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_a_template_is_asked_for_the_answer_without_a_thought(
    name: str, model_folders: dict[str, Path], load_tiny: Loader
) -> None:
    vlm = load_tiny("llava")
    thought = f"{{% if {name} is defined and not {name} %}}<think></think>{{% else %}}<think>{{% endif %}}"
    template = LLAVA_TEMPLATE.replace("ASSISTANT: {%", "ASSISTANT:<think></think> {%")
    template = template.replace("ASSISTANT:{% endif %}", f"ASSISTANT:{thought}{{% endif %}}")
    encoder = encoder_with(template, "llava", model_folders, vlm)
    conversation = chat(f"{IMAGE}what?", "blue", "and?", "red")
    batch = encoder.training([conversation])
    assert decoded(vlm, batch, batch.answer) == [answers_of("llava", conversation)]


def test_a_word_that_is_no_token_may_be_written(model_folders: dict[str, Path], load_tiny: Loader) -> None:
    vlm = load_tiny("llava")
    processor = load_processor(str(model_folders["llava"]))
    processor.tile_token = "TILE"  # Aya Vision's
    encoder = Encoder(processor, vlm.encoder.image_token_id, vlm.encoder.max_length)
    assert encoder.training([chat(f"{IMAGE}is it a TILE?", "a TILE")]).answer.any()


def test_a_processor_without_chat_template_is_refused(
    family: str, model_folders: dict[str, Path], vlm: VisionLanguageModel
) -> None:
    with pytest.raises(InputError, match=r"no chat template.*put .* into chat_template\.jinja"):
        encoder_with("", family, model_folders, vlm)


def test_a_template_that_refuses_a_conversation_is_an_input_error(
    family: str, model_folders: dict[str, Path], vlm: VisionLanguageModel
) -> None:
    strict = "{{ raise_exception('roles must alternate') }}"
    encoder = encoder_with(strict, family, model_folders, vlm)
    with pytest.raises(InputError, match="refuses the conversation: roles must alternate"):
        encoder.training([chat("what?", "this")])


def test_a_tokenizer_without_offsets_is_refused() -> None:
    slow = SimpleNamespace(tokenizer=SimpleNamespace(is_fast=False))
    with pytest.raises(InputError, match="convert the model's tokenizer to a fast one"):
        Encoder(slow, 0, 10)
