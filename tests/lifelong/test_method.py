"""A recipe's sentence as objects."""

from __future__ import annotations

import pytest

from lifelong.errors import UsageError
from lifelong.recipes.method import method, resolve
from policies import registry
from policies.grammar import SLOTS, Recipe
from policies.samplers import CCS, Top
from policies.vectors import Gradient, NoVectors


def test_adapt_inf() -> None:
    built = method("adapt-inf")
    assert built.vectors == Gradient()
    assert built.sample == CCS()
    assert {"el2n", "perplexity", "grounding"} <= set(built.scorers)
    assert tuple(built.scorers) == built.router.scorers
    assert all(scorer.name == name for name, scorer in built.scorers.items())
    assert {"el2n", "nll", "nll_blind", "gradient"} <= built.measures.signals


def test_one_word_changed_is_an_ablation() -> None:
    base, changed = method("adapt-inf"), method({"recipe": "adapt-inf", "sample": "top"})
    assert changed.sample == Top()
    for slot in set(SLOTS) - {"sample"}:
        assert changed.recipe.word(slot) == base.recipe.word(slot)


def test_words_without_a_base_and_a_recipe_as_it_is() -> None:
    built = method({"vectors": "none", "router": "always[el2n]", "sample": "top"})
    assert list(built.scorers) == ["el2n"]
    assert built.vectors == NoVectors()
    assert built.measures.passes == ("forward",)
    recipe = Recipe.parse("mine", "router always[grand]")
    assert resolve(recipe) is recipe
    assert method(recipe).measures.signals == {"gradient_norm"}


def test_the_words_given_are_left_as_they_are() -> None:
    words = {"recipe": "adapt-inf", "sample": "top"}
    method(words)
    assert words == {"recipe": "adapt-inf", "sample": "top"}


@pytest.mark.parametrize("name", registry.names("recipes"))
def test_every_installed_recipe_can_be_built(name: str) -> None:
    assert method(name).recipe == registry.recipe(name)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("adapt-in", "unknown word in recipes 'adapt-in'; did you mean 'adapt-inf'"),
        ({"recipe": "nothing"}, "unknown word in recipes 'nothing'.*adapt-inf"),
        ({"recipe": "adapt-inf", "smaple": "top"}, "unknown slot 'smaple'; did you mean 'sample'"),
        ({"recipe": "adapt-inf", "sample": "tpo"}, "unknown word in sample 'tpo'; did you mean 'top'"),
        ({"recipe": "adapt-inf", "sample": "top["}, "'top.' is not a word"),
        ({"recipe": "adapt-inf", "vectors": "gradient[size=4]"}, "unknown option 'size'.*dim"),
        ({"recipe": "adapt-inf", "vectors": "gradient[dim=0]"}, "dim is 0; it must be 1 or more"),
        ({"router": "always[truth]"}, "unknown word in scorers 'truth'"),
        ({"router": "always[uniqueness]"}, "'uniqueness' needs vectors, and the recipe has none"),
        ({"recipe": "random", "clusters": "kmeans"}, r"recipe random: clusters kmeans compares vectors"),
        (
            {"recipe": "random", "prune": "semdedup"},
            "prune semdedup compares vectors, and the recipe has none",
        ),
        ({"recipe": "random", "budget": "density"}, "budget density compares vectors"),
    ],
)
def test_faults_are_usage_errors_that_name_the_word(recipe: str | dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        method(recipe)
