"""What is installed: recipes as sentences, experts with their papers, signals and cost."""

from __future__ import annotations

from typing import Any

from lifelong.config import RunConfig
from lifelong.errors import LifelongError
from lifelong.recipes.files import read_recipe
from lifelong.recipes.method import method
from policies import registry
from policies.errors import PolicyError


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """Every recipe and every scorer; under `broken` those that cannot be used, and why."""
    found: dict[str, list[dict[str, Any]]] = {"recipes": [], "scorers": [], "broken": []}
    for kind, told in (("recipes", _recipe), ("scorers", _scorer)):
        for name in registry.names(kind):
            try:
                found[kind].append(told(name))
            except (LifelongError, PolicyError) as error:
                found["broken"].append({"kind": kind, "name": name, "reason": str(error)})
    return found


def _recipe(name: str) -> dict[str, Any]:
    recipe = registry.recipe(name)
    return {
        "name": name,
        "summary": recipe.summary,
        "paper": recipe.paper,
        "passes": list(method(recipe).measures.passes),
        "sentence": recipe.sentence(),
    }


def _scorer(name: str) -> dict[str, Any]:
    scorer: Any = registry.usable("scorers", name)
    return {"name": name, "paper": scorer.paper, "signals": list(scorer.needs), "passes": scorer.passes}


def describe_recipe(name: str, config: RunConfig) -> dict[str, Any]:
    """The sentence of a recipe or recipe file, which of its experts run under a configuration, what they measure."""
    built = method(read_recipe(name), config)
    return {
        "name": built.recipe.name,
        "summary": built.recipe.summary,
        "paper": built.recipe.paper,
        **built.recipe.to_dict(),
        "experts": ", ".join(built.scorers),
        "experts left out": "; ".join(f"{name} {why}" for name, why in built.skipped.items()) or "none",
        "signals": ", ".join(sorted(built.measures.signals)) or "none",
        "passes over the pool in each timestep": " + ".join(built.measures.passes) or "none",
    }


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The catalogue in columns."""
    lines = ["RECIPES (a word for each slot; change one with --set or a recipe of your own)"]
    for recipe in found["recipes"]:
        paper = f"  [{recipe['paper']}]" if recipe["paper"] else ""
        lines.append(f"  {recipe['name']:<18} {recipe['summary']}{paper}")
        lines.append(f"  {'':<18} passes: {' + '.join(recipe['passes']) or 'none'}")
    lines.append("EXPERTS (scorers that a router chooses among)")
    for scorer in found["scorers"]:
        paper = f"  [{scorer['paper']}]" if scorer["paper"] else ""
        lines.append(f"  {scorer['name']:<18} reads {', '.join(scorer['signals']) or 'nothing'}{paper}")
        lines.append(f"  {'':<18} costs {scorer['passes']}")
    if found["broken"]:
        lines.append("CANNOT BE USED")
        lines += [f"  {each['kind']} {each['name']}: {each['reason']}" for each in found["broken"]]
    return "\n".join(lines)
