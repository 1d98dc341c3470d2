"""The page on methods says of every installed recipe and expert what the code says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from lifelong.recipes.method import method
from policies import registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"


def rows(heading: str) -> dict[str, list[str]]:
    """First cell → the others, of the table under a heading."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[2:]}


@pytest.mark.parametrize("name", registry.names("recipes"))
def test_a_recipe_is_on_the_page_with_its_paper_signals_and_passes(name: str) -> None:
    recipe, measures = registry.recipe(name), method(name).measures
    signals, passes = ", ".join(sorted(measures.signals)), " + ".join(measures.passes)
    assert rows("Recipes")[name][:3] == [recipe.paper, signals or "none", passes or "none"]


@pytest.mark.parametrize("name", registry.names("scorers"))
def test_an_expert_is_on_the_page_with_its_paper_and_signals(name: str) -> None:
    scorer = registry.build("scorers", name)
    assert rows("Experts")[name][:2] == [scorer.paper, ", ".join(scorer.needs)]


def test_the_page_names_nothing_that_is_not_installed() -> None:
    assert list(rows("Recipes")) == registry.names("recipes")
    assert list(rows("Experts")) == registry.names("scorers")


def test_what_the_page_imports_is_there() -> None:
    imports = re.findall(
        r"^from (policies\S+) import ([\w, ]+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(imports) > 5
    for module, names in imports:
        for name in names.split(","):
            assert callable(getattr(importlib.import_module(module), name.strip()))
