"""From a row's own spelling of a conversation to messages with content parts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from lifelong.formats.answers import ANSWERS, answers_in, most_given
from lifelong.formats.faults import Limits, RowError
from lifelong.formats.unread import (
    is_image_name,
    refuse_images_in_text,
    refuse_images_of_turn,
    refuse_parts_of_turn,
)

TAG = "<image>"
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
CONVERSATION_KEYS = ("conversations", "messages")
IMAGE_KEYS = ("images", "image")
READ_KEYS = {*IMAGE_KEYS, *CONVERSATION_KEYS}
"""Where images are looked for; what names one elsewhere refuses the row."""
OTHER_KEYS = ("texts", "prompt", "question", "query", "instruction")
"""The Cauldron and FineVision: {"user", "assistant"} a round; the others with what answers them, see PAIRS."""
PAIRS = {"prompt": "completion", "question": "answer", "query": "response", "instruction": "output"}
"""TRL, VQA sets, ms-swift, Alpaca (whose "input" comes after its "instruction")."""
_UNREAD = re.compile(
    r"[A-Fa-f]|hints?|context|passage|article|story|paragraph|table|instructions?|history|candidates"
    r"|(multiple_?|answer_?|candidate_?)?(?:choice|option)(?!_answer)\w*",
    re.IGNORECASE,
)
"""Keys of a row with a question that belong to what is asked, and that are not read."""
_TELLING = re.compile(
    r"label|target|solution|correct\w*|(answer|gt|ground_?truth)(_?(idx|index|id|key|label|number))?",
    re.IGNORECASE,
)
"""Keys that say which of a row's "answers" is right."""
_OF_IMAGE = re.compile(r"([Ii]mage|[Ii]mg|picture)(?![a-z])")
_RENAME = 'add the turns under one of these, or rename the columns (`datasets`: rename_column); read are "texts", %s'
ASK_FOR_CAPTION = (
    'a caption answers no question: write one with it, {"question": "Describe the image.", "answer": …}'
)
_FIXES = {
    "answers": 'name what they answer "question", or write the one to be learnt as "answer"',
    "caption": ASK_FOR_CAPTION,
    "captions": ASK_FOR_CAPTION.replace('"answer": …', '"answers": […]'),
    "problem": 'rename "problem" to "question" and "solution" to "answer" (`datasets`: rename_column)',
}
Message = dict[str, Any]
MAX_ID_CHARS = 4096
MAX_TURN_CHARS = 4 * 2**20
"""Beyond which a turn is not even searched for tags; far above what `Limits` lets through."""


def check_json(value: Any, limits: Limits) -> None:
    """Refuse what Python's JSON reader lets through and other readers do not.

    Raises: RowError on NaN or Infinity, on half a surrogate pair in any string, on nesting beyond the limit.
    """
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > limits.max_depth:
            raise too_deep(limits)
        level = [child for container in level for child in _containers(container)]


def too_deep(limits: Limits) -> RowError:
    """The fault of a row with too many levels."""
    return RowError(f"nested deeper than {limits.max_depth} levels", "flatten or remove the nested field")


def _containers(value: Any) -> list[Any]:
    """Check the scalars directly inside `value`; return the lists and objects there."""
    if isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    else:
        children = value if isinstance(value, list) else [value]
    for child in children:
        if isinstance(child, str):
            if child.isascii():
                continue
            try:
                child.encode()
            except UnicodeEncodeError as error:
                reason = f"half a surrogate pair ({child[error.start]!a}) in a text"
                raise RowError(reason, "remove the broken character or write the pair whole") from None
        elif isinstance(child, float) and not math.isfinite(child):
            raise RowError(f"a number that is not finite ({child})", "write null or a finite number")
    return [child for child in children if isinstance(child, (dict, list))]


def source_id(fields: Any) -> str | None:
    """The row's own id as text; None if it has none, or "". Integers become text, also those written as 1.0.

    Raises: RowError if the id is neither text nor an integer, or longer than `MAX_ID_CHARS`.
    """
    found = fields.get("id") if isinstance(fields, Mapping) else None
    if found is None or found == "":
        return None
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, (str, int)) or not _is_plain(str(found)):
        raise RowError(
            f"id {str(found)[:80]!r} is neither text nor an integer", "give the row a plain text id"
        )
    if len(str(found)) > MAX_ID_CHARS:
        raise RowError(f"the id has {len(str(found)):,} characters", f"keep it under {MAX_ID_CHARS:,}")
    return str(found)


def _is_plain(text: str) -> bool:
    """Whether it is some text, without NUL and halves of surrogate pairs."""
    return text != "" and not any(mark == "\0" or "\ud800" <= mark <= "\udfff" for mark in text)


def image_references(fields: Mapping[str, Any]) -> list[Any]:
    """The row's images in order, from `images` (list), or else `image` (one, or a list as LLaVA allows).

    Raises: RowError if both are given and `images` lacks what is under `image`.
    """
    several, one = _listed(fields.get("images")), _listed(fields.get("image"))
    if several and any(reference and reference not in several for reference in one):
        raise RowError('"image" names an image that "images" does not', 'name all of them under "images"')
    return several or one


def image_of_folder(fields: Mapping[str, Any]) -> list[Any]:
    """The image of a row without `image` and `images` that has its name under `file_name`, as imagefolder's do."""
    found = fields.get("file_name")
    return [found] if is_image_name(found) else []


def _listed(found: Any) -> list[Any]:
    if found is None or found == "":
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def messages_of(fields: Mapping[str, Any]) -> tuple[list[Message], list[Any]]:
    """Return the messages with content parts, and the image references found inside the parts.

    Raises: RowError if a turn, a role or a text is not what a conversation needs.
    """
    for key in ("video", "videos", "audio", "audios"):
        if fields.get(key):
            raise RowError(f'"{key}" is not supported', "keep rows of images and text only")
    turns = next((fields[key] for key in CONVERSATION_KEYS if fields.get(key) is not None), None)
    if turns is None:
        turns = _turns_of_others(fields)
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
    if system := _system_of(fields):
        messages.insert(0, {"role": "system", "content": _text_parts(system, "system", 0)})
    _check_order([message["role"] for message in messages])
    return messages, references


def _system_of(fields: Mapping[str, Any]) -> str:
    """What a row says to the model under a key of its own; "" if nothing. Raises: RowError if it is no text."""
    if not fields.get("system") and not fields.get("system_prompt"):
        return ""
    given = {key: fields[key] for key in ("system", "system_prompt") if fields.get(key)}
    for key, value in given.items():
        if not isinstance(value, str):
            raise RowError(f'"{key}" is not a text', "write it as a string, or drop the key")
    said = [value for value in dict.fromkeys(given.values()) if value.strip()]
    if len(said) > 1:
        raise RowError('"system" and "system_prompt" differ', "keep one of the two")
    return said[0] if said else ""


def _turns_of_others(fields: Mapping[str, Any]) -> Any:
    """The turns of a row that spells them in one of OTHER_KEYS."""
    rounds = fields.get("texts")
    if isinstance(rounds, list):
        return _turns_of_rounds(rounds)
    for asking, answering in PAIRS.items():
        asked, said = fields.get(asking), fields.get(answering)
        if asked is None:
            continue
        if said is None and asking == "question" and fields.get(ANSWERS) is not None:
            said = _answer_of_several(fields)
        if said is None:
            continue
        _refuse_beside(fields, asking)
        if asking != "prompt":
            asked, said = _text_of(asked, asking), _text_of(said, answering)
        elif not (_is_turns(asked) and _is_turns(said)):
            reason = '"prompt" and "completion" are neither texts nor lists of turns'
            raise RowError(reason, "write them as one of both")
        if asking == "instruction" and fields.get("input"):
            asked += "\n" + _text_of(fields["input"], "input")
        asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
        return [*asked, *said]
    raise _no_turns(fields)


def _answer_of_several(fields: Mapping[str, Any]) -> str:
    """The answer to learn of a row with "answers". Raises: RowError if another key says which is right."""
    telling = next(
        (key for key, value in fields.items() if _TELLING.fullmatch(str(key)) and value is not None), None
    )
    if telling is not None:
        reason = f'"{telling}" beside "{ANSWERS}" is not read'
        raise RowError(
            reason, f'write the right one of "{ANSWERS}" as "answer", or drop "{telling}" if all are right'
        )
    return most_given(answers_in(fields[ANSWERS]))


def answers_left(fields: Mapping[str, Any]) -> bool:
    """Whether a row that was read has several answers, of which one was taken."""
    if fields.get(ANSWERS) is None or fields.get("answer") is not None or fields.get("question") is None:
        return False
    if not spelled_otherwise(fields) or fields.get("texts") or fields.get("completion"):
        return False
    return len(set(answers_in(fields[ANSWERS]))) > 1


def _turns_of_rounds(rounds: list[Any]) -> list[Message]:
    for number, one in enumerate(rounds, 1):
        if not isinstance(one, Mapping) or not {"user", "assistant"} <= one.keys():
            reason = f'round {number} of "texts" has no "user" and "assistant"'
            raise RowError(reason, 'write rounds as {"user": …, "assistant": …}')
    return [{"role": role, "content": one[role]} for one in rounds for role in ("user", "assistant")]


def _is_turns(value: Any) -> bool:
    return isinstance(value, (str, list))


def _text_of(value: Any, key: str) -> str:
    """A question or an answer. Raises: RowError if it is not a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise RowError(f'"{key}" is {value} instead of text', 'write it as text, e.g. "yes" or "no"')
    if isinstance(value, (int, float)):
        fix = f'write it as text, e.g. "{value}"; if it counts the options, write the one that is meant'
        raise RowError(f'"{key}" is a number ({value})', fix)
    if isinstance(value, list):
        fix = "write one of it as text, or a row for each"
        fix += f'; or name it "{ANSWERS}", if each of them is right by itself' if key == "answer" else ""
        raise RowError(f'"{key}" is a list', fix)
    raise RowError(f'"{key}" holds a value of type {type(value).__name__}', "write it as text")


def _refuse_beside(fields: Mapping[str, Any], asking: str) -> None:
    for key, value in fields.items():
        if key != asking and _UNREAD.fullmatch(str(key)) and _says(value):
            fix = "write it into the question, as asked, and drop the key"
            raise RowError(f'"{key}" beside "{asking}" is not read', fix)


def _says(value: Any) -> bool:
    """Whether a value holds anything: not where it is null, empty, a list of such values, or "[]"."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_says, value))
    return value.strip() not in ("", "[]") if isinstance(value, str) else bool(value)


def _no_turns(fields: Mapping[str, Any]) -> RowError:
    """The fault of a row without turns that are read: what it has instead, and what to call it."""
    read = ", ".join(f'"{asking}" with "{answering}"' for asking, answering in PAIRS.items())
    for asking, answering in PAIRS.items():
        if fields.get(asking) is not None and fields.get(ANSWERS) is None:
            reason = f'no "conversations" and no "messages"; "{asking}" without "{answering}"'
            several = next((key for key in ("references", "captions") if fields.get(key)), None)
            if asking == "question" and several:
                return RowError(
                    reason, f'rename "{several}" to "{ANSWERS}", if each of them is a right answer'
                )
            return RowError(reason, _RENAME % read)
    for key in _FIXES:
        if fields.get(key):
            return RowError(f'no "conversations" and no "messages"; "{key}" is not read', _FIXES[key])
    return RowError('no "conversations" and no "messages"', _RENAME % read)


def spelled_otherwise(fields: Mapping[str, Any]) -> bool:
    """Whether a row has its turns in one of OTHER_KEYS."""
    usual = any(fields.get(key) is not None for key in CONVERSATION_KEYS)
    return not usual and any(fields.get(key) is not None for key in OTHER_KEYS)


def show_first(fields: Mapping[str, Any], messages: list[Message], images: int) -> None:
    """Put the images before the first question, where a row that spells its turns in OTHER_KEYS shows none itself.

    So do those that read these rows: TRL (data_utils.prepare_multimodal_messages), and the trainers of The Cauldron.

    Raises: RowError if the row has no images, and a key that speaks of one.
    """
    if not spelled_otherwise(fields):
        return
    if images and not images_in(messages):
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = [*({"type": "image"} for _ in range(images)), *first["content"]]
    if not images and not any(key in fields for key in IMAGE_KEYS):
        named = next((key for key, value in fields.items() if value and _OF_IMAGE.match(str(key))), None)
        if named is not None:
            raise RowError(f'"{named}" is not read', 'name the image under "image", or drop the key')


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
