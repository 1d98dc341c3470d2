"""Where words come from: entry points, ours and those of any installed package alike.

A new scorer is one file and one line in its package's metadata:

    [project.entry-points."lifelong.scorers"]
    ofa = "my_package.ofa:OFA"
"""

from __future__ import annotations

import math
import types
import warnings
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from policies.errors import GrammarError, PolicyError
from policies.grammar import Recipe, Value, Word, parse_word, unknown

GROUPS = {
    "candidates": "lifelong.candidates",
    "vectors": "lifelong.vectors",
    "clusters": "lifelong.clusterers",
    "router": "lifelong.routers",
    "budget": "lifelong.allocators",
    "sample": "lifelong.samplers",
    "prune": "lifelong.pruners",
    "start": "lifelong.starts",
    "scorers": "lifelong.scorers",
    "recipes": "lifelong.recipes",
}
BASES = {
    "candidates": ("policies.candidates", "Candidates", ("name",)),
    "vectors": ("policies.vectors", "Vectors", ("name", "signal")),
    "clusters": ("policies.clusterers", "Clusterer", ("name",)),
    "router": ("policies.routers", "Router", ("name", "scorers")),
    "budget": ("policies.allocators", "Allocator", ("name", "needs")),
    "sample": ("policies.samplers", "Sampler", ("name", "needs")),
    "prune": ("policies.pruners", "Pruner", ("name",)),
    "start": ("policies.starts", "Start", ("name", "from_base")),
    "scorers": ("policies.scorers.base", "Scorer", ("name", "needs", "paper", "passes")),
}
"""Of each slot the class that its words are made of, and what they must say of themselves."""
PLAIN = (int, float, bool, str, type(None))
"""Types of options that a text can be read as."""


def names(slot: str) -> list[str]:
    """The known words of a slot (or of "scorers", "recipes", or a group such as "lifelong.samplers")."""
    return sorted({point.name for point in entry_points(group=_group(slot))})


def find(slot: str, name: str) -> type:
    """The class of a word. Raises GrammarError if no installed package has it, or if its import fails."""
    return _load(slot, name)


def recipe(name: str) -> Recipe:
    """A recipe by name. Raises GrammarError if no installed package has it, or if it is no recipe."""
    found = _load("recipes", name)
    if not isinstance(found, Recipe):
        raise GrammarError(
            f"recipes {name!r} is a {type(found).__name__}, not a recipe: make it with policies.grammar.Recipe.parse"
        )
    return found


def recipes() -> dict[str, Recipe]:
    """Every recipe that can be loaded; one that cannot is left out with a warning that says why."""
    loaded: dict[str, Recipe] = {}
    for name in names("recipes"):
        try:
            loaded[name] = recipe(name)
        except GrammarError as error:
            warnings.warn(str(error), stacklevel=2)
    return loaded


def build(slot: str, word: str | Word) -> Any:
    """The instance that a word describes, its options checked against the fields of its class.

    Positional arguments fill the fields in order; a `tuple[str, ...]` field takes all that are left.
    Raises GrammarError that names the option, the word, and the options that it knows with their defaults.
    """
    word = parse_word(word) if isinstance(word, str) else word
    cls = usable(slot, word.name)
    hints = _hints(slot, word.name, cls)
    declared = {f.name: f for f in fields(cls) if f.init}

    def refuse(problem: str) -> GrammarError:
        return GrammarError(f"{slot} {word}: {problem}. {_usage(word.name, declared, hints)}")

    given: dict[str, Value | tuple[str, ...]] = {}
    args = list(word.args)
    for name in declared:
        if not args:
            break
        if get_origin(hints[name]) is tuple:
            given[name], args = tuple(args), []
        else:
            given[name] = args.pop(0)
    if args:
        raise refuse(f"does not take {' '.join(map(repr, args))}")
    for name, value in word.options.items():
        if name not in declared:
            raise refuse(unknown("option", name, list(declared)))
        if name in given:
            raise refuse(f"option {name!r} is given twice, by position and by name")
        given[name] = value
    for name, f in declared.items():
        if name not in given and f.default is MISSING and f.default_factory is MISSING:
            raise refuse(f"option {name!r} is missing")
    try:
        return cls(**{name: _coerce(name, value, hints[name]) for name, value in given.items()})
    except (ValueError, TypeError) as error:  # PolicyError is a ValueError
        raise refuse(str(error)) from error


def usable(slot: str, name: str) -> type:
    """The class of a word, which is what a word of its slot must be.

    Raises GrammarError as `find`, and if it is no dataclass of its slot's base, or lacks what all have.
    """
    cls = find(slot, name)
    module, base, said = BASES[slot]
    if not isinstance(cls, type) or not issubclass(cls, getattr(import_module(module), base)):
        raise GrammarError(f"{slot} {name!r} is {cls!r}, not a class made of {module}.{base}")
    if not is_dataclass(cls):
        raise GrammarError(
            f"{slot} {name!r} is no dataclass: write @dataclass(frozen=True, slots=True) above it"
        )
    known = {*dir(cls), *(field.name for field in fields(cls))}
    missing = sorted(cls.__abstractmethods__) + [each for each in said if each not in known]
    if missing:
        raise GrammarError(f"{slot} {name!r} lacks {', '.join(missing)}, which {module}.{base} describes")
    needs = getattr(cls, "needs", ())
    if isinstance(needs, str):
        raise GrammarError(f"{slot} {name!r}: needs is {needs!r}; write ({needs!r},), with the comma")
    return cls


def _hints(slot: str, name: str, cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError as error:
        raise GrammarError(f"{slot} {name!r}: the type of an option cannot be read: {error}") from error


def _group(slot: str) -> str:
    if slot in GROUPS:
        return GROUPS[slot]
    if slot in GROUPS.values():
        return slot
    raise GrammarError(unknown("slot", slot, list(GROUPS)))


def _load(slot: str, name: str) -> Any:
    points = {point.value: point for point in entry_points(group=_group(slot), name=name)}
    if not points:
        raise GrammarError(unknown(f"word in {slot}", name, names(slot)))
    if len(points) > 1:
        origins = " and ".join(sorted(_origin(point) for point in points.values()))
        raise GrammarError(f"{slot} {name!r} is defined more than once, by {origins}: uninstall one of them")
    (point,) = points.values()
    try:
        return point.load()
    except Exception as error:  # whatever a plug-in's import raises must not reach the other words
        problem = f"{type(error).__name__}: {error}"
        raise GrammarError(f"{slot} {name!r} of {_origin(point)} cannot be imported: {problem}") from error


def _origin(point: EntryPoint) -> str:
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
    return f"{distribution} ({point.value})"


def _usage(name: str, declared: dict[str, Field[Any]], hints: dict[str, Any]) -> str:
    if not declared:
        return f"{name} takes no options"
    shown = []
    for option, f in declared.items():
        kind = _kind(hints[option])
        shown.append(
            f"{option} ({kind}, required)" if f.default is MISSING else f"{option}={f.default} ({kind})"
        )
    return f"Options of {name}: {', '.join(shown)}"


def _kind(hint: Any) -> str:
    """How a field's type is said in a message: `int | Literal["auto"]` is "int or auto"."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "names"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(hint))
    return "none" if hint is type(None) else hint.__name__


def _coerce(option: str, value: Value | tuple[str, ...], hint: Any) -> Any:
    """A value as the annotation of its field asks. Raises PolicyError when it cannot be read so."""
    if get_origin(hint) is tuple:
        values = value if isinstance(value, tuple) else (value,)
        return tuple(_coerce(option, each, get_args(hint)[0]) for each in values)
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for part in parts:
        if part not in PLAIN and get_origin(part) is not Literal:
            raise PolicyError(
                f"option {option!r} is of the type {part}, which no text can be read as: "
                "use int, float, bool, str, Literal or tuple[str, ...]"
            )
    for part in parts:
        try:
            return _as(part, value)
        except ValueError:
            continue
    raise PolicyError(f"option {option!r} is {value!r}, not {_kind(hint)}")


def _as(kind: Any, value: Any) -> Any:
    """`value` as one plain kind; ValueError when it is not one, and nothing is rounded or guessed."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
    elif kind is type(None):
        choices = {"none": None}
    elif kind is bool:
        choices = {"true": True, "false": False}
    elif kind is str:
        return text
    else:
        number = kind(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    if text not in choices:
        raise ValueError(text)
    return choices[text]
