"""What is installed: recipes as sentences, experts with their papers, signals and cost."""

from __future__ import annotations

from typing import Any

from lifelong.config import RunConfig
from lifelong.recipes.files import read_recipe
from lifelong.recipes.method import method
from policies import registry


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """Every recipe and every scorer."""
    recipes = [
        {
            "name": name,
            "summary": recipe.summary,
            "paper": recipe.paper,
            "passes": list(method(recipe).measures.passes),
            "sentence": recipe.sentence(),
        }
        for name, recipe in registry.recipes().items()
    ]
    scorers = []
    for name in registry.names("scorers"):
        scorer = registry.find("scorers", name)
        scorers.append(
            {"name": name, "paper": scorer.paper, "signals": list(scorer.needs), "passes": scorer.passes}
        )
    return {"recipes": recipes, "scorers": scorers}


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
    return "\n".join(lines)
