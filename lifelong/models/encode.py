"""From conversations to padded batches, with the token spans that measuring and training need.

The spans come from the processor: the chat template is rendered up to each turn, which gives every
turn's characters, and the tokenizer's offsets, corrected by the processor's own record of how it
expanded each image placeholder, turn characters into tokens. Nothing is searched for in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

import torch

from lifelong.errors import InputError, ModelError

if TYPE_CHECKING:
    from PIL.Image import Image

Message = Mapping[str, Any]
_NAME = re.compile(r"\w*(image|img|vision|video|audio|patch|tile)\w*_token|[be]o[ia]_token")
_THOUGHT = ("enable_thinking", "thinking")
"""What templates call the choice of a thought before the answer (Qwen's and GLM's; Kimi's and DeepSeek's)."""
_MARK = re.compile(r"[<\[].*(image|img|vision|video|audio|row_\d+_col_\d+).*[>\]]", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the processor is given of one sample: its messages and its decoded images."""

    messages: Sequence[Message]
    images: Sequence[Image] = ()

    def blinded(self) -> Conversation:
        """The same conversation with its images taken out."""
        messages = [
            # Some templates (Idefics3's) look at a turn's first part, so one of images alone keeps an empty text.
            {
                **message,
                "content": [part for part in message["content"] if part["type"] != "image"]
                or [{"type": "text", "text": ""}],
            }
            for message in self.messages
        ]
        return Conversation(messages)

    def alone(self) -> Conversation:
        """The answers alone: every other message is empty, and there are no images."""
        empty = [{"type": "text", "text": ""}]
        messages = [
            message if message["role"] == "assistant" else {**message, "content": empty}
            for message in self.messages
        ]
        return Conversation(messages)

    def prompt(self) -> Conversation:
        """All but the last answer."""
        return Conversation(self.messages[:-1], self.images)


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch of b conversations of at most t tokens.

    inputs: what the model's `forward` takes (`input_ids`, `attention_mask`: (b, t) int64, pixel tensors).
    answer, instruction, image: (b, t) bool: tokens of the answers with their end-of-turn token; of the
    user's words, without what the template puts around them; of the images.
    """

    inputs: dict[str, torch.Tensor]
    answer: torch.Tensor
    instruction: torch.Tensor
    image: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        moved = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(moved, self.answer.to(device), self.instruction.to(device), self.image.to(device))

    def labels(self) -> torch.Tensor:
        """(b, t) int64: the token ids of the answers, -100 elsewhere."""
        return self.inputs["input_ids"].masked_fill(~self.answer, -100)


@dataclass(frozen=True, slots=True)
class _Rendered:
    """One conversation as text; spans are (start, end) in characters of that text."""

    text: str
    answers: list[tuple[int, int]]
    questions: list[tuple[int, int]]


class Encoder:
    """Turns conversations into batches with a model's own processor.

    max_length: longest sequence in tokens that the model takes; longer samples are an error, since
    cutting them would cut images or answers.
    """

    def __init__(self, processor: Any, image_token_id: int, max_length: int) -> None:
        if not getattr(processor.tokenizer, "is_fast", False):
            raise InputError(
                f"{type(processor.tokenizer).__name__} has no character offsets; "
                "convert the model's tokenizer to a fast one (tokenizer.json)"
            )
        if not getattr(processor, "chat_template", None):
            raise InputError(
                f"{type(processor).__name__} has no chat template, so a conversation cannot be put to the model; "
                "put the template that it was trained with into chat_template.jinja in the model's folder"
            )
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = image_token_id
        self.max_length = max_length
        image_token = self.tokenizer.convert_ids_to_tokens(image_token_id)
        # What stands for an image in the text may be another token (Gemma 3's <start_of_image>) than the image's own.
        self._placeholder = str(getattr(processor, "image_token", None) or image_token)
        self._image_tokens = {self._placeholder, image_token}
        marks = sorted(self._image_tokens | _marks_of(processor), key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, marks)))
        # Of templates that can ask for a thought first, the prompt that asks for the answer.
        asks = [name for name in _THOUGHT if re.search(rf"\b{name}\b", str(processor.chat_template))]
        self._options: dict[str, Any] = dict.fromkeys(asks, False)
        self._start = self._put_in_front()
        self.closing = self._closing()

    def training(self, conversations: Sequence[Conversation]) -> Batch:
        """A right-padded batch of whole conversations with the spans of their answers.

        Raises:
            InputError: the template refuses a conversation or does not put turns one after the other, a text
                contains one of the model's own tokens for images, or a sample is longer than `max_length` tokens.
        """
        self._refuse_marks(conversations)
        rendered = [self._render(conversation.messages) for conversation in conversations]
        features, replaced = self._process([r.text for r in rendered], conversations, side="right")
        ids = features["input_ids"]
        offsets = features.pop("offset_mapping")
        visible = features["attention_mask"].bool()
        special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))
        image = (ids == self.image_token_id) & visible
        answer = _inside(offsets, [r.answers for r in rendered], replaced) & visible & ~image
        instruction = (
            _inside(offsets, [r.questions for r in rendered], replaced) & visible & ~special & ~image
        )
        return Batch(features, answer, instruction, image)

    def prompts(self, conversations: Sequence[Conversation]) -> dict[str, torch.Tensor]:
        """A left-padded batch of prompts that end where the model is to answer."""
        self._refuse_marks(conversations)
        texts = [self._template(list(c.messages), prompt=True) for c in conversations]
        features, _ = self._process(texts, conversations, side="left")
        features.pop("offset_mapping")
        return features

    def _put_in_front(self) -> str:
        """The token that the processor puts before a text that does not start with it (Molmo2's), or "" for none."""
        for token in ("", self.tokenizer.bos_token, self.tokenizer.eos_token):
            if token is not None:
                try:
                    found = self.processor(
                        text=[f"{token}a"], add_special_tokens=not token, return_offsets_mapping=True
                    )
                except Exception:  # a processor that does not take words alone says so in its own way
                    return ""
                if max(end for _, end in found["offset_mapping"][0]) == len(token) + 1:
                    return token
        return ""

    def _closing(self) -> int | None:
        """The special token that the template puts behind an answer; None where it puts none (LLaVA-1.5's).

        Raises: InputError if the template is not one for content parts.
        """
        turns = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in (("user", "?"), ("assistant", "\x00"))
        ]
        try:
            text = self._template(turns)
        except InputError:  # it wants an image: each conversation is looked at by itself
            return None
        if "\x00" not in text:
            raise InputError(
                'the model\'s chat template does not write out content parts ({"type": "text", …}), as that of a '
                "text-only model does not; put the one that the model was trained with into chat_template.jinja"
            )
        behind = text.rpartition("\x00")[2].strip()
        ids = self.tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
        special = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return ids[0] if ids and ids[0] in special else None

    def _refuse_marks(self, conversations: Sequence[Conversation]) -> None:
        """Raises: InputError if a text has what the tokenizer takes for a part of an image, a video or a sound."""
        for conversation in conversations:
            for number, message in enumerate(conversation.messages, 1):
                for part in message["content"]:
                    found = self._marks.search(part["text"]) if part["type"] == "text" else None
                    if found is not None:
                        raise InputError(
                            f"turn {number} ({message['role']}) holds {found.group()!r}, the model's own token for "
                            "images, video or sound; the token may not be written out in a message: write <image> "
                            "where an image belongs, and leave it out or spell it otherwise elsewhere"
                        )

    def _render(self, messages: Sequence[Message]) -> _Rendered:
        turns = list(messages)
        text = self._template(turns)
        answers, questions = [], []
        for position, message in enumerate(turns):
            if message["role"] == "assistant":
                answers.append(self._answer(text, turns, position))
            elif message["role"] == "user":
                questions += self._words(text, turns, position)
        eos = self.tokenizer.eos_token
        stripped = text.rstrip()
        answered = turns[-1]["role"] == "assistant"
        if eos and answered and self.closing is None and not stripped.endswith(eos):
            # Some templates (LLaVA-1.5's) never close the answer: without it the model learns no end.
            text = stripped + eos
            answers[-1] = (answers[-1][0], len(text))
        return _Rendered(text, answers, questions)

    def _answer(self, text: str, turns: list[Message], position: int) -> tuple[int, int]:
        """Where one turn's answer stands with what closes it: from the prompt's end to the end of the turn."""
        try:
            first = len(self._prefix(text, turns[:position], prompt=True))
            if position + 1 == len(turns):
                return first, len(text.rstrip())
            return first, len(self._prefix(text, turns[: position + 1]).rstrip())
        except InputError:
            if position + 1 == len(turns):
                raise
            # Some templates (Qwen3.5's) give an empty thought to the last answer alone.
            spans = self._words(text, turns, position)
            said = [part["text"].strip() for part in turns[position]["content"]]
            if [text[low:high].strip() for low, high in spans] != said:
                raise
            end = spans[-1][1]
            closing = self.tokenizer.convert_ids_to_tokens(self.closing) if self.closing is not None else ""
            behind = text[end:].lstrip()
            return spans[0][0], len(text) - len(behind.removeprefix(closing))

    def _words(self, text: str, turns: list[Message], position: int) -> list[tuple[int, int]]:
        """Where the texts of one turn stand: what differs once a mark is put in their place."""
        spans = []
        content = turns[position]["content"]
        for number, part in enumerate(content):
            if part["type"] == "text":
                marked = [*content[:number], {**part, "text": "\x00"}, *content[number + 1 :]]
                turn = {**turns[position], "content": marked}
                other = self._template([*turns[:position], turn, *turns[position + 1 :]])
                after = len(commonprefix([text[::-1], other[::-1]]))
                spans.append((len(commonprefix([text, other])), len(text) - after))
        return spans

    def _template(self, turns: list[Message], prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            text = self.processor.apply_chat_template(
                turns, add_generation_prompt=prompt, tokenize=False, **self._options
            )
            return text if text.startswith(self._start) else self._start + text
        except (TemplateError, TypeError) as error:
            raise InputError(f"the model's chat template refuses the conversation: {error}") from error

    def _prefix(self, text: str, turns: list[Message], prompt: bool = False) -> str:
        prefix = self._template(turns, prompt)
        if not text.startswith(prefix):
            # The space before an answer may belong to the turn or to the answer.
            prefix = prefix.rstrip()
        if not text.startswith(prefix):
            raise InputError(
                "the model's chat template does not render a conversation as its turns one after the other, so "
                f"the answers cannot be found; after {len(turns)} turns it gives {prefix[-60:]!r}. "
                "Use a template whose prefix stays the same when turns are added"
            )
        return prefix

    def _process(
        self, texts: list[str], conversations: Sequence[Conversation], side: str
    ) -> tuple[dict[str, torch.Tensor], list[list[dict[str, Any]]]]:
        from transformers import BatchFeature

        for text, conversation in zip(texts, conversations, strict=True):
            for token in self._image_tokens:
                expected = len(conversation.images) if token == self._placeholder else 0
                if text.count(token) != expected:
                    raise InputError(
                        f"the text holds {text.count(token)} image tokens {token!r} for {expected} images; "
                        "the token may not be written out in a message"
                    )
        images = [list(c.images) for c in conversations]
        bos = self._start or self.tokenizer.bos_token
        # Ovis2's processor reads its image processor's arrays as tensors.
        options: dict[str, Any] = (
            {"return_text_replacement_offsets": True, "images_kwargs": {"return_tensors": "pt"}}
            if any(images)
            else {}
        )
        if bos and texts[0].startswith(bos):
            options["add_special_tokens"] = False
        raw = self.processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            padding_side=side,
            return_offsets_mapping=True,
            **options,
        )
        replaced = raw.pop("text_replacement_offsets", None) or [[] for _ in texts]
        features = dict(BatchFeature(dict(raw), tensor_type="pt"))
        for text, record, offsets in zip(texts, replaced, features["offset_mapping"], strict=True):
            if int(offsets.max()) > _expanded(len(text), record):
                raise ModelError(
                    f"{type(self.processor).__name__} adds more to the text of the chat template than it tells of, "
                    "so the answers cannot be found in it; take a model whose processor keeps a record of what it puts "
                    "in (return_text_replacement_offsets)"
                )
        longest = int(features["attention_mask"].sum(1).max())
        if longest > self.max_length:
            raise InputError(f"a sample of {longest} tokens is longer than the model's {self.max_length}")
        return features, replaced


def _marks_of(processor: Any) -> set[str]:
    """Tokens that a processor and its tokenizer keep for images, video and sound, or for what stands around them."""
    tokenizer = processor.tokenizer
    named = {**tokenizer.special_tokens_map, **vars(processor)}
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    # Aya Vision's tile_token is the word "TILE", which is no token.
    marks = {str(token) for name, token in named.items() if _NAME.fullmatch(name)} & added
    marks |= {token for token in added if _MARK.fullmatch(token)}
    return marks - {
        "",
        "None",
        *(str(getattr(tokenizer, f"{name}_token")) for name in ("bos", "eos", "pad", "unk")),
    }


def _inside(
    offsets: torch.Tensor,
    spans: list[list[tuple[int, int]]],
    replaced: list[list[dict[str, Any]]],
) -> torch.Tensor:
    """(b, t) bool: tokens that start inside one of their conversation's spans, or before it and reach into it.

    A word's token may start with the space before it, which a template may give to the prompt.

    offsets: (b, t, 2) character offsets in the text with its image placeholders expanded;
    spans: in characters of the text before that; replaced: the processor's record of the expansion.
    """
    start, end = offsets[..., 0], offsets[..., 1]
    inside = torch.zeros(start.shape, dtype=torch.bool)
    for row, row_spans in enumerate(spans):
        for first, last in row_spans:
            low, high = (_expanded(position, replaced[row]) for position in (first, last))
            inside[row] |= (end[row] > low) & (start[row] < high) & (end[row] > start[row])
    return inside


def _expanded(position: int, replaced: list[dict[str, Any]]) -> int:
    gained = 0
    for replacement in replaced:
        if replacement["span"][1] <= position:
            gained = replacement["new_span"][1] - replacement["span"][1]
    return position + gained
