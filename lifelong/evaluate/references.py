"""The answers that an eval row accepts beside its own.

>>> accepted_of({"answers": ["St. Mary", "saint mary"]}, "St. Mary", 1)
['St. Mary', 'saint mary']
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lifelong.evaluate.metrics import normalise
from lifelong.formats.answers import ANSWERS, answers_in
from lifelong.formats.faults import RowError

CAPTIONS = "captions"
KEYS = (ANSWERS, "references", CAPTIONS)


def fields_of(raw: Any) -> Mapping[str, Any]:
    """The keys and values of a row as its reader left it, in a WebDataset those of its .json."""
    if not isinstance(raw, Mapping):
        return {}
    texts = [data for name, data in raw.items() if name.lower().endswith(".json") and isinstance(data, bytes)]
    if len(texts) != 1:
        return raw
    fields = json.loads(texts[0].decode("utf-8-sig"))
    return fields if isinstance(fields, Mapping) else {}


def accepted_of(fields: Mapping[str, Any], answer: str, rounds: int) -> list[str]:
    """All answers that the row accepts, as often as each was given; none if it has but its own.

    fields: of the row: the first of `KEYS` that holds anything is read. answer: the one that the conversation ends
    with. rounds: of the conversation.
    Raises: ValueError if they are no texts, `answer` is not one of them (captions are then taken for a description of
    the image, and left), or the conversation has several rounds.
    """
    key = next((key for key in KEYS if fields.get(key)), None)
    if key is None:
        return []
    try:
        answers = answers_in(fields[key], key)
    except RowError as fault:
        if key == CAPTIONS:
            return []
        raise ValueError(f"{fault.reason}; {fault.fix}, or drop the key") from None
    if normalise(answer) not in map(normalise, answers):
        if key == CAPTIONS or not answers:
            return []
        raise ValueError(
            f'"{key}" are the accepted answers, and the row\'s own, {answer[:80]!r}, is not one of them; add it, or '
            "drop the key"
        )
    if rounds > 1:
        raise ValueError(
            f'"{key}" beside a conversation of {rounds} rounds does not say which question they answer; write the last '
            "question as a row of its own, or drop the key"
        )
    return answers
