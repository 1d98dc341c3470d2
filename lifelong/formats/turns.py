"""From turns, as any of the formats spells them, to messages with content parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from lifelong.formats.faults import RowError
from lifelong.formats.unread import refuse_images_in_text, refuse_images_of_turn, refuse_parts_of_turn

TAG = "<image>"
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
Message = dict[str, Any]
MAX_TURN_CHARS = 4 * 2**20
"""Beyond which a turn is not even searched for tags; far above what `Limits` lets through."""


def to_messages(turns: Any, system: str = "") -> tuple[list[Message], list[Any]]:
    """Return the messages with content parts, and the image references found inside the parts.

    system: what the row tells the model beside its turns; "": nothing.
    Raises: RowError if a turn, a role or a text is not what a conversation needs.
    """
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        raise RowError("the conversation is a list of turns written as text", "parse it with json.loads")
    if not isinstance(turns, list) or not turns:
        raise RowError("the conversation is empty or not a list of turns", "add a question and its answer")
    messages: list[Message] = []
    references: list[Any] = []
    shown = 0
    for number, turn in enumerate(turns, 1):
        message, own = _message(turn, number, shown)
        if message is None:
            continue
        if len(message["content"]) > 1 or message["content"][0]["type"] == "image":
            shown += images_in([message])
        messages.append(message)
        references += own
    if not messages:
        raise RowError("the conversation is empty but for its system turn", "add a question and its answer")
    if system:
        messages.insert(0, {"role": "system", "content": _text_parts(system, "system", 0)})
    _check_order([message["role"] for message in messages])
    return messages, references


def images_in(messages: list[Message]) -> int:
    """How many images the messages show."""
    return sum(part["type"] == "image" for message in messages for part in message["content"])


def _message(turn: Any, number: int, shown: int) -> tuple[Message | None, list[Any]]:
    """The turn's message, and the images that its parts name; no message for a system turn that says nothing."""
    if type(turn) is not dict and not isinstance(turn, Mapping):  # the first is asked in a third of the time
        raise RowError(f"turn {number} is not an object", 'write turns as {"role": …, "content": …}')
    spelled = turn.get("role", turn.get("from"))
    role = ROLES.get(spelled) if isinstance(spelled, str) else None
    if role is None:
        reason = f"turn {number} has the unknown role {str(spelled)[:80]!r}"
        raise RowError(reason, f"use one of {', '.join(ROLES)}")
    if len(turn) > 2:
        refuse_images_of_turn(turn, number)
        refuse_parts_of_turn(turn, role, number)
    content = turn.get("content", turn.get("value"))
    references: list[Any] = []
    if isinstance(content, str):
        if len(content) > MAX_TURN_CHARS:
            reason = (
                f"turn {number} ({role}) has {len(content):,} characters, the limit is {MAX_TURN_CHARS:,}"
            )
            raise RowError(reason, "shorten the turn, or drop the row")
        if role == "user" and "<img>" in content:
            refuse_images_in_text(content, number)
        parts = _text_parts(content, role, number)
    elif content is None and role == "system":
        return None, []
    elif isinstance(content, list):
        parts, references = _own_parts(content, role, number, shown)
    else:
        kind = "nothing" if content is None else f"a value of type {type(content).__name__}"
        raise RowError(f"turn {number} ({role}) holds {kind} instead of text", "write the turn as a string")
    if not _says_something(parts):
        if role == "system":
            return None, []
        raise RowError(f"turn {number} ({role}) is empty", "write its text, or drop the row")
    return {"role": role, "content": parts}, references


def _says_something(parts: list[dict[str, str]]) -> bool:
    return any(
        part["type"] == "image" or not (part["text"] == "" or part["text"].isspace()) for part in parts
    )


def _text_parts(text: str, role: str, number: int) -> list[dict[str, str]]:
    """Split a text at its <image> tags, each of which takes one newline before and one after it along."""
    if "\0" in text:
        raise RowError(f"turn {number} ({role}) holds a NUL character", "remove the character")
    if TAG not in text:
        return [{"type": "text", "text": text}] if text else []
    if role != "user":
        reason = f"turn {number} ({role}) holds an {TAG} tag; only a user turn can show an image"
        raise RowError(reason, "move the tag to the user's turn, or remove it")
    parts: list[dict[str, str]] = []
    pieces = text.split(TAG)
    for position, piece in enumerate(pieces):
        if position:
            parts.append({"type": "image"})
            piece = piece.removeprefix("\n")
        if position < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _own_parts(
    content: list[Any], role: str, number: int, shown: int
) -> tuple[list[dict[str, str]], list[Any]]:
    """Read content that already comes in parts; texts that follow each other become one.

    shown: images in the turns before. Some datasets number their image parts; only the order of the list is
    read.
    """
    parts: list[dict[str, str]] = []
    references: list[Any] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if kind == "text" else None
        if kind in ("image", "image_url") and role == "user":
            if part.get("index") not in (None, shown):
                reason = f"turn {number} shows image {part['index']} where image {shown} is due"
                raise RowError(reason, "list the images in the order in which the turns show them")
            shown += 1
            parts.append({"type": "image"})
            if kind == "image_url":
                found = part.get(kind)
                references.append(found.get("url") if isinstance(found, Mapping) else found)
            references += [part[key] for key in ("image", "path", "url") if part.get(key) is not None]
        elif isinstance(text, str):
            if TAG in text:
                reason = f"turn {number} ({role}) has an {TAG} tag inside a text part"
                raise RowError(reason, 'write it as a part {"type": "image"}')
            if role == "user":
                refuse_images_in_text(text, number)
            parts += _text_parts(text, role, number)
        else:
            reason = f"turn {number} ({role}) has a part of type {str(kind)[:80]!r} that is not understood"
            raise RowError(reason, 'use {"type": "text", "text": …}, and {"type": "image"} in user turns')
    return _joined(parts), references


def _joined(parts: list[dict[str, str]]) -> list[dict[str, str]]:
    joined: list[dict[str, str]] = []
    for kind, run in groupby(parts, lambda part: part["type"]):
        if kind == "image":
            joined += run
        else:
            joined.append({"type": "text", "text": "".join(part["text"] for part in run)})
    return joined


def _check_order(roles: list[str]) -> None:
    """A system turn only first; then user and assistant in turn, the assistant last."""
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if role != expected:
            place = number + 1 + len(roles) - len(turns)
            reason = f"turn {place} is by {role} where one by {expected} is due"
            raise RowError(reason, "let user and assistant alternate, the user first")
    if not turns or turns[-1] != "assistant":
        raise RowError(
            "the conversation does not end with an answer", "add the assistant's turn, or drop the row"
        )


def to_text(content: Iterable[Mapping[str, str]]) -> str:
    """Write content parts as one text with <image> tags; reading it back gives the same parts."""
    return "\n".join(TAG if part["type"] == "image" else part["text"] for part in content)
