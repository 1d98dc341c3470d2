"""The options of a multiple-choice question, written as its reference answer is written.

>>> options_of("Which one?\\nA. red\\nB. blue", "B")
['A', 'B']
>>> options_of("Which one? Options: red, blue", "blue")
['red', 'blue']
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

_LETTERED = re.compile(r"\s*(\(?([A-Z])[.:)])\s+(\S.*?)\s*")  # "A. text", "A: text", "(A) text"
_ANY_CASE = re.compile(_LETTERED.pattern, re.IGNORECASE)
_MARK = re.compile(r"\(([A-Z])\)\s+")  # "(A) red (B) blue" on one line
_NUMBERED = re.compile(r"\s*(\(?(\d{1,2})[.)])\s+(\S.*?)\s*")  # "1. text", "1) text", "(1) text"
_NUMBER_MARK = re.compile(r"\((\d{1,2})\)\s+")  # "(1) red (2) blue" on one line
_TOLD = re.compile(r"\b(?:options?|choices?|alternatives?|multiple[- ]choice)\b", re.IGNORECASE)
_PICKS = re.compile(r"\b(?:which|choose|select|pick)\b", re.IGNORECASE)
_COUNTS = re.compile(
    r"\bhow \w+|\b(?:count|numbers?|total|sum|value|calculate|compute|solve|equals?)\b|=", re.IGNORECASE
)
_BEFORE = re.compile(r"(?:the )?answer(?: is)?:\s*(?=\S)", re.IGNORECASE)  # of a reference "Answer: B"
_BULLET = re.compile(r"\s*[-*•]\s+(\S.*?)\s*")  # "- text"
_INLINE = re.compile(r"\boptions?:[ \t]*(\S.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)  # "Options: a, b, c"


def options_of(question_text: str, reference: str, row_options: Any = None) -> list[str]:
    """The answers to choose from, in the question's order; `reference` is one of them.

    question_text: the user's text, line breaks kept. Understood: lines "A. text", "A: text", "(A) text" or "a) text",
    also with empty lines between them, and "(A) text (B) text" on one line (the reference may be the letter, the letter
    with its punctuation, the text or the whole line), bullet lines "- text", and "Options: a, b, c" on one line; and,
    where there is none of these, "1. text", "1) text" or "(1) text" in the same ways, of which the reference may be the
    number alone only where the question tells of options, or asks to pick and not for a quantity. A reference
    "Answer: B" makes every option one with "Answer: " before it.
    row_options: the row's own `options` field, which wins over the text: a list of texts or numbers, the same
    written as one text ("['a', 'b']"), or an object, whose keys or values they are. Where the text lists the same ones
    by letter, the reference may be the letter.
    Raises ValueError if no options are found, the field holds anything else, or the reference is not among them
    (exactly, white space at the ends apart), or is a number that may mean something else.
    """
    wanted = reference.strip()
    where = f"question {_shorten(question_text)!r}"
    readings = [_stripped(reading) for reading in _readings(question_text)]
    numbered = [] if any(map(_is_list, readings)) else _numbered(question_text)
    told = row_options is not None or _tells_of_options(question_text, numbered)
    by_number = [_stripped(reading) for reading in _lettered(numbered)]
    if row_options is not None:
        own = [_stripped(reading) for reading in _readings_of_field(row_options)]
        listed = any(sorted(reading) == sorted(each) for reading in [*readings, *by_number] for each in own)
        readings, numbered = own + (readings if listed else []), numbered if listed else []
    before = _BEFORE.match(wanted)
    for prefix in ["", *([before.group()] if before else [])]:
        bare = wanted.removeprefix(prefix)
        _refuse_ambiguous(bare, numbered, told, f"{where}: the reference {reference!r}")
        for options in [*readings, *(by_number if numbered else [])]:
            if bare in options:
                return [prefix + option for option in options]
    readings = readings or by_number
    if not readings:
        raise ValueError(
            f'{where}: no options found; list them as lines "A. text", "1. text" or "- text", {_ELSE}'
        )
    raise ValueError(
        f"{where}: the reference {reference!r} is not one of the options {readings[0]}; "
        f'write it as one of them, or list others: "A. text" or "- text" on lines, {_ELSE}'
    )


def _stripped(reading: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(option.strip() for option in reading))


_ELSE = (
    'as "Options: a, b", or in an `options` field beside `conversations` or `messages` (a row of `question` and '
    "`answer` has them in its question)"
)


def _is_list(reading: list[str]) -> bool:
    """Whether a reading has several options, and is not "Options: (1) red (2) blue" cut at its commas."""
    return len(reading) > 1 and not any(map(_NUMBERED.fullmatch, reading))


def _numbered(text: str) -> list[tuple[str, str, str]]:
    """(mark, number, text) of the last options of a text that are numbered from 1 or 0, on lines or in a line."""
    lines = [line for line in text.splitlines() if line.strip()]
    inside = (_lettered_in(line, _NUMBER_MARK) for line in reversed(lines))
    return _last_lettered_block(lines, _NUMBERED) or next(filter(None, inside), [])


def _tells_of_options(text: str, numbered: list[tuple[str, str, str]]) -> bool:
    """Whether what is around numbered options says that one of them is to be picked, and not counted."""
    for mark, _, option in numbered:
        text = re.sub(rf"{re.escape(mark)}\s+{re.escape(option)}", "", text, count=1)
    return bool(_TOLD.search(text) or (_PICKS.search(text) and not _COUNTS.search(text)))


def _refuse_ambiguous(wanted: str, numbered: list[tuple[str, str, str]], told: bool, what: str) -> None:
    """Raises: ValueError if a reference is the number of an option, and may as well be something else."""
    named = next((option for option in numbered if option[1] == wanted.removesuffix(".")), None)
    if named is None or all(number == text for _, number, text in numbered):
        return
    fix = f'write it as "{named[0]} {named[2]}" or as the text of the one that is meant'
    if any(text == wanted for _, _, text in numbered):
        raise ValueError(f"{what} is both the number of an option and the text of one; {fix}")
    if not told:
        fix += ', or "Options:" above the list'
        raise ValueError(f"{what} may be a number in the question's list, or a quantity; {fix}")


def _readings_of_field(field: Any) -> list[list[str]]:
    """Every way to read options out of a row's own field."""
    if isinstance(field, Mapping):
        # A Parquet file gives every row the keys of all.
        there = {str(key): value for key, value in field.items() if value is not None}
        return [list(there), _texts(list(there.values()))]
    return [_texts(_literal(field) if isinstance(field, str) else field)]


def _literal(text: str) -> Any:
    """The list that a text spells, as JSON or as Python; None if it spells none."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list) else _refuse_field(text)
    return _refuse_field(text)


def _texts(found: Any) -> list[str]:
    """Options as texts. Raises: ValueError unless they are a list of texts and numbers."""
    if not isinstance(found, (list, tuple)) or not found:
        _refuse_field(found)
    for option in found:
        if isinstance(option, bool) or not isinstance(option, (str, int, float)):
            _refuse_field(found)
    return [str(option) for option in found]


def _refuse_field(found: Any) -> NoReturn:
    raise ValueError(
        f'its `options` are {_shorten(repr(found))}; write a list of texts, such as ["red", "blue"]'
    )


def _readings(text: str) -> Iterator[list[str]]:
    """Every way to read options out of the text, the most explicit first."""
    lines = text.splitlines()
    yield from _lettered(_last_lettered_block(lines, _LETTERED))
    bullets = _last_bullet_block(lines)
    if bullets:
        yield bullets
    inline = _INLINE.findall(text)
    if inline:
        yield [option.strip() for option in inline[-1].removesuffix(".").split(",")]
    yield from _lettered(_last_lettered_block([line for line in lines if line.strip()], _ANY_CASE))
    for line in reversed(lines):
        yield from _lettered(_lettered_in(line))


def _lettered(block: list[tuple[str, str, str]]) -> Iterator[list[str]]:
    """The ways to name the options of a block of (mark, letter or number, text)."""
    if block:
        marks, letters, texts = zip(*block, strict=True)
        yield from (list(letters), list(texts), list(marks))
        yield [f"{mark} {option}" for mark, option in zip(marks, texts, strict=True)]


def _lettered_in(line: str, mark: re.Pattern[str] = _MARK) -> list[tuple[str, str, str]]:
    """(mark, letter, text) of "(A) text (B) text" in one line; at least two, in order from A."""
    marks = list(mark.finditer(line))
    ends = [*(mark.start() for mark in marks[1:]), len(line)]
    block = [
        (mark.group().strip(), mark.group(1), line[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=False)
    ]
    if len(block) < 2 or not all(text for *_, text in block):
        return []
    places = [_place(letter) for _, letter, _ in block]
    in_order = places[0] in _FIRST and places == list(range(places[0], places[0] + len(block)))
    return block if in_order else []


def _last_lettered_block(lines: list[str], pattern: re.Pattern[str]) -> list[tuple[str, str, str]]:
    """(mark, letter, text) of the last run of lines lettered A, B, C… (or numbered) in order; at least two lines.

    Empty if the run goes on behind another line: it is not known what belongs to it.
    """
    last: list[tuple[str, str, str]] = []
    block: list[tuple[str, str, str]] = []
    for line in lines:
        match = pattern.fullmatch(line)
        if match is None:
            block = []
            continue
        mark, letter, option = match.groups()
        place = _place(letter)
        if block and place == _place(block[-1][1]) + 1:
            block = [*block, (mark, letter, option)]
        else:
            block = [(mark, letter, option)] if place in _FIRST else []
            if last and place == _place(last[-1][1]) + 1:
                last = []
        if len(block) >= 2:
            last = block
    return last


_FIRST = (-1, 0)
"""Places at which a list begins: 0, or A and 1."""


def _place(label: str) -> int:
    """Which option a letter is, from A; or a number, from 1."""
    return int(label) - 1 if label.isdecimal() else ord(label.upper()) - ord("A")


def _last_bullet_block(lines: list[str]) -> list[str]:
    """Texts of the last run of bullet lines; at least two lines."""
    last: list[str] = []
    block: list[str] = []
    for line in lines:
        match = _BULLET.fullmatch(line)
        block = [*block, match.group(1)] if match else []
        if len(block) >= 2:
            last = block
    return last


def _shorten(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
