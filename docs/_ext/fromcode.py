"""Reference pages from the code: the directive `from-code` with `commands`, `configuration` or `words`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from inspect import getdoc
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SLOTS = {
    "candidates": "which samples may be trained on",
    "vectors": "what stands for a sample where samples are compared",
    "clusters": "pseudo-skills",
    "router": "which expert decides a cluster",
    "budget": "how the budget is shared among clusters",
    "sample": "which samples of a cluster are taken",
    "prune": "which samples leave the pool for good",
    "start": "the weights that training starts from",
}


class FromCode(SphinxDirective):
    """`{from-code} commands`: a part of the reference."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        text = "\n".join(PARTS[self.arguments[0]]())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def commands() -> Iterator[str]:
    """Every command of the command line, with its arguments and options as `--help` has them."""
    import typer

    from lifelong.cli import app

    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield from _command(f"lifelong {name}", command, "##")
        else:
            yield from ["", f"## lifelong {name}", "", command.help]
            for word, each in inner.items():
                yield from _command(f"lifelong {name} {word}", each, "###")


def _command(name: str, command: Any, level: str) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    words = [each.metavar or each.name.upper() for each in arguments]
    required = [f"{each.opts[0]} …" for each in options if each.required]
    yield from ["", f"{level} {name}", "", _plain(command.help or ""), ""]
    line = " ".join([name, *words, *required, *(["[OPTIONS]"] if len(options) > len(required) else [])])
    yield from ["```text", line, "```", ""]
    explained = [
        (word, each) for word, each in zip(words, arguments, strict=True) if getattr(each, "help", None)
    ]
    if explained or options:
        yield from ["| | |", "| --- | --- |"]
    yield from (f"| `{word}` | {_plain(each.help)} |" for word, each in explained)
    for each in options:
        default = each.default
        shown = default not in (None, "", False, ()) and not callable(default) and not each.required
        value = getattr(default, "value", default)
        must = " Required." if each.required else ""
        yield (
            f"| `{'`, `'.join(each.opts)}` | {_plain(each.help)}{must}"
            + (f" Default: `{value}`." if shown else "")
            + " |"
        )


def configuration() -> Iterator[str]:
    """Every field of the configuration: type, default, meaning."""
    from pydantic import BaseModel

    from lifelong.config import RunConfig

    plain = {n: f for n, f in RunConfig.model_fields.items() if not _is_model(f.annotation, BaseModel)}
    yield from ["", "## Top level", "", RunConfig.__doc__ or "", ""]
    yield from _fields(plain, RunConfig())
    for name, field in RunConfig.model_fields.items():
        if name not in plain:
            section = field.annotation
            yield from ["", f"## {name}", "", section.__doc__ or "", ""]
            yield from _fields(section.model_fields, getattr(RunConfig(), name))


def _is_model(annotation: Any, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)


def _fields(declared: dict[str, Any], defaults: Any) -> Iterator[str]:
    yield from ["| field | default | meaning |", "| --- | --- | --- |"]
    for name, field in declared.items():
        default = getattr(defaults, name)
        shown = (
            "empty"
            if default in ("", (), {})
            else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        choices = _choices(field.annotation)
        yield f"| `{name}` | {shown} | {_plain(field.description or '')}{choices} |"


def _choices(annotation: Any) -> str:
    from typing import Literal, get_args, get_origin

    if get_origin(annotation) is Literal:
        return " One of " + ", ".join(f"`{each}`" for each in get_args(annotation)) + "."
    return ""


def words() -> Iterator[str]:
    """Every installed word of every slot, every expert, every recipe."""
    from policies import registry

    for slot, meaning in SLOTS.items():
        yield from ["", f"## {slot}", "", f"{meaning.capitalize()}.", ""]
        yield from _words(slot)
    yield from ["", "## Experts", "", "What a router names: `always[el2n]`, `entropy[el2n perplexity]`.", ""]
    yield from _words("scorers")
    yield from ["", "## Recipes", "", "| recipe | sentence |", "| --- | --- |"]
    for name, recipe in registry.recipes().items():
        yield f"| `{name}` | {_plain(recipe.summary)}. {recipe.paper}<br>`{_cell(recipe.sentence())}` |"


def _words(slot: str) -> Iterator[str]:
    from policies import registry

    yield from ["| word | options | what it does |", "| --- | --- | --- |"]
    for name in registry.names(slot):
        cls = registry.find(slot, name)
        options = ", ".join(_option(each) for each in fields(cls) if each.init)
        told = (getdoc(cls) or "").split("\n\n")[0]
        yield f"| `{name}` | {options} | {_plain(told)} |"


def _option(declared: Field[Any]) -> str:
    default = declared.default
    return f"`{declared.name}`" if default is MISSING else f"`{declared.name}={default}`"


def _plain(text: str) -> str:
    """A docstring's paragraph in a table's cell."""
    return _cell(" ".join(text.split()).replace("*", "\\*").replace("<", "&lt;").replace("[", "\\["))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PARTS = {"commands": commands, "configuration": configuration, "words": words}


def literal_examples(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """An indented paragraph of a docstring is an example: literal, as in the source."""
    for number in range(len(lines) - 1, 1, -1):
        before, blank, line = lines[number - 2 : number + 1]
        if line.startswith("    ") and not blank.strip() and before.strip() and not before.startswith(" "):
            lines[number - 1 : number] = ["", "::", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("from-code", FromCode)
    app.connect("autodoc-process-docstring", literal_examples, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
