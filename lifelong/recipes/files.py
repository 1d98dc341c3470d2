"""Recipes as files: read one, and show one with every default spelled out, in the form that is read."""

from __future__ import annotations

import math
from dataclasses import fields
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from lifelong.errors import UsageError
from policies import registry
from policies.errors import PolicyError
from policies.grammar import SLOTS, Recipe, Word, parse_word, unknown

SUFFIXES = (".yaml", ".yml")
BASE, NAME, SENTENCE = "recipe", "name", "sentence"
"""Keys of a recipe file beside its slots: what the file changes words of, its own name, all words in one line."""
NOTES = ("paper", "summary")


def read_recipe(text: str | PathLike[str] | dict[str, str]) -> str | dict[str, str]:
    """What `--recipe` names: a recipe's name as it is, or the words of a recipe file, checked one by one.

    text: a name, a file, or words, which are returned as they are.

    A file holds `recipe: NAME` of the recipe that it starts from, or none, and a word for each slot that it changes;
    or all of them as `sentence:`; and its own `name:`, `paper:` and `summary:`.

    Raises:
        UsageError: the file cannot be read, or a slot or a word is unknown; names the file and the nearest known one.
    """
    if isinstance(text, PathLike):
        text = fspath(text)
    if not isinstance(text, str) or not text.endswith(SUFFIXES):
        return text
    values = _values(Path(text))
    try:
        return _words(Path(text), values)
    except PolicyError as error:
        raise UsageError(f"{text}: {error}") from error


def show_recipe(text: str) -> str:
    """A recipe (a name or a file) as a recipe file: its sentence, and every option of every word, defaults included.

    Raises:
        UsageError: there is no such recipe.
    """
    from lifelong.recipes.method import method, resolve

    try:
        recipe = resolve(read_recipe(text))
        words = {slot: _in_full(slot, recipe.word(slot)) for slot in SLOTS}
    except PolicyError as error:
        raise UsageError(str(error)) from error
    built = method(recipe)
    lines = [f"# {recipe.sentence()}", f"name: {recipe.name}"]
    lines += [_line(note, text) for note in NOTES if (text := getattr(recipe, note))]
    width = max(map(len, SLOTS)) + 1
    for slot, word in words.items():
        others = [name for name in registry.names(slot) if name != word.name]
        lines.append(f"{slot + ':':<{width}} {word}")
        lines.append(f"{'':<{width}}   # or {', '.join(others)}" if others else "")
    lines.append(f"# experts: {', '.join(built.scorers)}")
    for name, scorer in built.scorers.items():
        options = ", ".join(f"{key}={value}" for key, value in _options(type(scorer), scorer).items())
        lines += [f"#   experts.{name}: {options}"] if options else []
    lines.append(f"# passes over the pool in each timestep: {' + '.join(built.measures.passes) or 'none'}")
    return "\n".join(line for line in lines if line.strip())


def _line(key: str, text: str) -> str:
    import yaml

    line: str = yaml.safe_dump({key: text}, allow_unicode=True, width=math.inf)
    return line.rstrip("\n")


def _values(path: Path) -> dict[str, Any]:
    import yaml

    from lifelong.plainyaml import read_yaml

    try:
        values = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(values, dict) or not values:
        raise UsageError(
            f"{path} holds no words; `lifelong recipe show adapt-inf` prints a file to start from"
        )
    for key, value in values.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} is {value!r}; write a word, such as kmeans[k=10]")
    return values


def _words(path: Path, values: dict[str, str]) -> dict[str, str]:
    known = (*SLOTS, BASE, NAME, SENTENCE, *NOTES)
    for key in values:
        if key not in known:
            raise UsageError(f"{path}: {unknown('slot', key, SLOTS)}")
    words = {slot: values[slot] for slot in SLOTS if slot in values}
    if SENTENCE in values:
        words = Recipe.parse(values.get(NAME, path.stem), values[SENTENCE]).to_dict() | words
    for slot, word in words.items():
        built = registry.build(slot, parse_word(word))
        for expert in built.scorers if slot == "router" else ():
            registry.find("scorers", expert)
    if BASE in values:
        registry.recipe(values[BASE])
        words[BASE] = values[BASE]
    notes = {note: values[note] for note in NOTES if note in values}
    return {NAME: values.get(NAME, path.stem), **notes, **words}


def _in_full(slot: str, word: Word) -> Word:
    """A word with each of its options, those left out too."""
    built = registry.build(slot, word)
    options = _options(type(built), built)
    names = next((value for value in options.values() if isinstance(value, tuple)), ())
    plain = {key: value for key, value in options.items() if not isinstance(value, tuple) and value != ""}
    return Word(word.name, tuple(map(str, names)), plain)


def _options(cls: type, of: Any) -> dict[str, Any]:
    found = {field.name: getattr(of, field.name) for field in fields(cls) if field.init}
    return {name: "none" if value is None else value for name, value in found.items()}
