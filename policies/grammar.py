"""Every method is a sentence in one grammar: eight slots, one word in each.

    vectors gradient · clusters kmeans[k=10] · router entropy[el2n perplexity grounding] · sample ccs

A word is `name` or `name[arguments]`; arguments are separated by spaces, positional ones before `key=value`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from policies.errors import GrammarError

SLOTS = ("candidates", "vectors", "clusters", "router", "budget", "sample", "prune", "start")

Value = int | float | bool | str

_TOKEN = re.compile(r"[^\s\[\]=;·]+")
_WORD = re.compile(r"(?P<name>[^\s\[\]=;·]+)(?:\[(?P<arguments>[^\[\]]*)\])?")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def unknown(kind: str, name: str, known: tuple[str, ...] | list[str]) -> str:
    """The line that an unknown name deserves: the nearest known one, then all of them."""
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none is installed'}"


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(text: str) -> Value:
    """The value that a text stands for. "007" stays text: as an integer it would not come back the same."""
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and not re.fullmatch("[+-]?[0-9]+", text) and math.isfinite(float(text)):
        return float(text)
    return text


@dataclass(frozen=True, slots=True)
class Word:
    """One word: what fills a slot. `str(word)` is its text, and `parse_word` reads it back.

    An option given as a string is kept as the value that its text stands for ("50" is the integer 50).
    """

    name: str
    args: tuple[str, ...] = ()
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for token in (self.name, *self.args, *self.options, *map(_text, self.options.values())):
            if not _TOKEN.fullmatch(token):
                raise GrammarError(f"word {self.name!r}: {token!r} is empty or has one of: space [ ] = ; ·")
        object.__setattr__(self, "args", tuple(self.args))
        object.__setattr__(self, "options", {key: _value(_text(v)) for key, v in self.options.items()})

    def __str__(self) -> str:
        arguments = [*self.args, *(f"{key}={_text(value)}" for key, value in self.options.items())]
        return f"{self.name}[{' '.join(arguments)}]" if arguments else self.name


def parse_word(text: str) -> Word:
    """Read `name` or `name[a b key=value]`. Raises GrammarError when the text is not a word."""
    match = _WORD.fullmatch(text.strip())
    if match is None:
        raise GrammarError(f"{text!r} is not a word: write name or name[arguments], e.g. kmeans[k=10]")
    args: list[str] = []
    options: dict[str, Value] = {}
    for token in (match["arguments"] or "").split():
        key, equals, value = token.partition("=")
        if equals and key in options:
            raise GrammarError(f"{text!r} gives {key} twice")
        if not equals and options:
            raise GrammarError(f"{text!r}: {token!r} stands after an option; put it before key=value")
        if equals:
            options[key] = value
        else:
            args.append(token)
    return Word(match["name"], tuple(args), options)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole method: one word for each slot, the paper it is from and a line that says what it does."""

    name: str
    candidates: Word = Word("pool")
    vectors: Word = Word("none")
    clusters: Word = Word("one")
    router: Word = Word("always", ("random",))
    budget: Word = Word("whole")
    sample: Word = Word("top")
    prune: Word = Word("none")
    start: Word = Word("continue")
    paper: str = ""
    summary: str = ""

    @classmethod
    def parse(cls, name: str, sentence: str, paper: str = "", summary: str = "") -> Recipe:
        """Read `slot word · slot word` (or `;` between). A slot that is left out takes its default."""
        words: dict[str, str] = {}
        for clause in filter(None, map(str.strip, re.split("[·;]", sentence))):
            slot, *rest = clause.split(maxsplit=1)
            if not rest:
                raise GrammarError(f"recipe {name}: slot {slot!r} has no word; write e.g. sample top")
            if slot in words:
                raise GrammarError(f"recipe {name}: slot {slot!r} is filled twice")
            words[slot] = rest[0]
        return cls.from_dict(name, words, paper, summary)

    @classmethod
    def from_dict(
        cls, name: str, words: Mapping[str, str | Word], paper: str = "", summary: str = ""
    ) -> Recipe:
        """The inverse of `to_dict`: {slot: text of its word}, as a recipe file holds it."""
        return cls(name, paper=paper, summary=summary).replace(**words)

    def replace(self, **words: str | Word) -> Recipe:
        """The same recipe with other words, e.g. `recipe.replace(sample="top")`: an ablation."""
        for slot in words:
            if slot not in SLOTS:
                raise GrammarError(f"recipe {self.name}: {unknown('slot', slot, SLOTS)}")
        parsed: dict[str, Any] = {
            slot: w if isinstance(w, Word) else parse_word(w) for slot, w in words.items()
        }
        return replace(self, **parsed)

    def word(self, slot: str) -> Word:
        """The word that fills a slot."""
        if slot not in SLOTS:
            raise GrammarError(f"recipe {self.name}: {unknown('slot', slot, SLOTS)}")
        return getattr(self, slot)

    def to_dict(self) -> dict[str, str]:
        """{slot: text of its word}, every slot in order."""
        return {slot: str(self.word(slot)) for slot in SLOTS}

    def sentence(self) -> str:
        """Every slot and its word, defaults included, so that it says the same under later defaults."""
        return " · ".join(f"{slot} {word}" for slot, word in self.to_dict().items())
