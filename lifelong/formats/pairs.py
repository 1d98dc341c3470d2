"""Rows that spell their turns as a question and its answer: The Cauldron, FineVision, TRL, VQA sets, Alpaca."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lifelong.formats.answers import ANSWERS, answers_in, most_given
from lifelong.formats.faults import RowError
from lifelong.formats.fields import CONVERSATION_KEYS, IMAGE_KEYS
from lifelong.formats.turns import Message, images_in

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


def turns_of_pair(fields: Mapping[str, Any]) -> list[Message]:
    """The turns of a row that spells them in one of OTHER_KEYS. Raises: RowError if it does not, or not as is read."""
    if isinstance(rounds := fields.get("texts"), list):
        return _turns_of_rounds(rounds)
    asking = _asking(fields)
    if asking is None:
        raise _no_turns(fields)
    asked, said = fields[asking], fields.get(PAIRS[asking])
    if said is None:
        said = _answer_of_several(fields)
    _refuse_beside(fields, asking)
    if asking != "prompt":
        asked, said = _text_of(asked, asking), _text_of(said, PAIRS[asking])
    elif not (_is_turns(asked) and _is_turns(said)):
        reason = '"prompt" and "completion" are neither texts nor lists of turns'
        raise RowError(reason, "write them as one of both")
    if asking == "instruction" and fields.get("input"):
        asked += "\n" + _text_of(fields["input"], "input")
    asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
    return [*asked, *said]


def answers_left(fields: Mapping[str, Any]) -> bool:
    """Whether a row that was read has several answers, of which one was taken."""
    if not spelled_otherwise(fields) or isinstance(fields.get("texts"), list):
        return False
    several = _asking(fields) == "question" and fields.get(PAIRS["question"]) is None
    return several and len(set(answers_in(fields[ANSWERS]))) > 1


def _asking(fields: Mapping[str, Any]) -> str | None:
    """The first key of PAIRS that is answered; a question may be by several ANSWERS."""
    for asking, answering in PAIRS.items():
        several = asking == "question" and fields.get(ANSWERS) is not None
        if fields.get(asking) is not None and (several or fields.get(answering) is not None):
            return asking
    return None


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
