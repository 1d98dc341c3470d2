"""A recipe made ready to run: every word of the sentence built, and the experts that it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lifelong.config import SELECTOR, RunConfig
from lifelong.errors import UsageError
from lifelong.measure.plan import FROZEN, TRAJECTORY, VALIDATION, MeasurePlan, plan
from policies import registry
from policies.allocators import Allocator
from policies.candidates import Candidates
from policies.clusterers import Clusterer, OfSelector
from policies.errors import PolicyError
from policies.grammar import Recipe, Word
from policies.pruners import Pruner
from policies.routers import Router
from policies.samplers import Sampler
from policies.scorers.base import FittedScorer, Scorer
from policies.starts import Start
from policies.vectors import Vectors


@dataclass(frozen=True, slots=True)
class Method:
    """The words of a recipe as objects, one per slot."""

    recipe: Recipe
    candidates: Candidates
    vectors: Vectors
    clusters: Clusterer
    router: Router
    budget: Allocator
    sample: Sampler
    prune: Pruner
    start: Start
    scorers: dict[str, Scorer]
    """The experts that the router chooses among, by name, in the sentence's order; then those that stand in."""
    skipped: dict[str, str]
    """The experts of the sentence that cannot be asked, and why."""

    @property
    def measures(self) -> MeasurePlan:
        """The signals that this method needs and the passes that give them."""
        return plan([*self.scorers.values(), self.sample], self.vectors)


def method(recipe: str | dict[str, str] | Recipe, config: RunConfig | None = None) -> Method:
    """Build a method from a recipe's name, or from {recipe: name, slot: word, …}.

    config: has the options of experts, and says which sources of signals there are; an expert that
    reads from a source that is not there is left out of a router that has others to choose among.
    None: every source is there.

    Raises:
        UsageError: naming the slot, the word and the words that there are.
    """
    try:
        resolved = resolve(recipe)
        words: dict[str, Any] = {
            slot: registry.build(slot, resolved.word(slot))
            for slot in ("candidates", "vectors", "clusters", "router", "budget", "sample", "prune", "start")
        }
        options = config.experts if config else {}
        scorers = {name: _expert(name, options.get(name, {})) for name in words["router"].scorers}
        skipped = _without_source(scorers, config)
        if skipped and len(skipped) < len(scorers):
            scorers = {name: scorer for name, scorer in scorers.items() if name not in skipped}
            words["router"] = replace(words["router"], scorers=tuple(scorers))
        elif skipped:
            raise UsageError("; ".join(f"expert {name!r}: {why}" for name, why in skipped.items()))
        for name in [each.stand_in for each in scorers.values() if each.stand_in not in ("", *scorers)]:
            scorers[name] = _expert(name, options.get(name, {}))
        _check_selector(words["clusters"], scorers)
        _check_vectors(resolved, words)
        built = Method(resolved, scorers=scorers, skipped=skipped, **words)
        _without = _lacking(built.measures.signals, config)
        if _without:
            raise UsageError(f"recipe {resolved.name}: {_without}")
        return built
    except PolicyError as error:
        raise UsageError(str(error)) from error


def _expert(name: str, options: Mapping[str, Any]) -> Scorer:
    """An expert with its options; the artefact of a fitted one is read by the loop, not by the expert."""
    given, cls = dict(options), registry.find("scorers", name)
    if isinstance(cls, type) and issubclass(cls, FittedScorer):
        given.pop(SELECTOR, None)
    return registry.build("scorers", Word(name, options=given))


def _check_selector(word: Clusterer, scorers: Mapping[str, Scorer]) -> None:
    if isinstance(word, OfSelector) and not isinstance(scorers.get(word.expert), FittedScorer):
        raise UsageError(
            f"clusters selector[{word.expert}] reads the centroids of expert {word.expert!r}, which the router "
            "does not name: write e.g. router always[ofa], clusters selector[ofa]"
        )


def _check_vectors(recipe: Recipe, words: Mapping[str, Any]) -> None:
    """What would show only when a timestep comes to it, after hours of measuring or training, shows here."""
    if words["vectors"].signal is None:
        for slot in ("clusters", "budget", "prune"):
            if words[slot].needs_vectors:
                raise UsageError(
                    f"recipe {recipe.name}: {slot} {recipe.word(slot)} compares vectors, and the recipe has none; "
                    "write e.g. vectors gradient"
                )


def _without_source(scorers: Mapping[str, Scorer], config: RunConfig | None) -> dict[str, str]:
    """The experts that read from a source which the configuration does not have, and what to set."""
    lacking = {name: _lacking(frozenset(scorer.needs), config) for name, scorer in scorers.items()}
    return {name: why for name, why in lacking.items() if why}


def _lacking(signals: frozenset[str], config: RunConfig | None) -> str:
    """What to configure before these signals can be had; "" if nothing."""
    if config is None:
        return ""
    if signals & (FROZEN["encoder"] | {"encoded"}) and config.encoder.kind == "none":
        return "reads a frozen encoder, and none is configured: set encoder.kind"
    if signals & FROZEN["rater"] and not (config.rater.model or config.rater.ratings):
        return "reads ratings, and there is no rater: set rater.model or rater.ratings"
    if signals & TRAJECTORY and not config.measure.trajectory:
        return (
            "reads trajectories, and training keeps no checkpoints: set measure.trajectory, for example to 7"
        )
    if "nll_before" in signals and config.measure.refresh != "all":
        return (
            "compares each sample with the timestep before, and samples keep earlier signals: set measure.refresh to "
            "all"
        )
    if signals & VALIDATION and not config.measure.validation:
        return "compares with a validation set, and none is named: set measure.validation"
    return ""


def resolve(recipe: str | dict[str, str] | Recipe) -> Recipe:
    """The recipe of a name, or of a base recipe with some words changed: {recipe: adapt-inf, sample: top}.

    A `name`, a `paper` and a `summary` among the words are those of the recipe itself; without a summary of its own, a
    changed recipe's says what is changed.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str):
        return registry.recipe(recipe)
    words = dict(recipe)
    base = words.pop("recipe", None)
    told = {key: words.pop(key) for key in ("name", "paper", "summary") if key in words}
    if base is None:
        return replace(Recipe("custom").replace(**words), **told)
    if words:
        changed = ", ".join(f"{slot} {word}" for slot, word in words.items())
        told = {"summary": f"{base} with {changed}"} | told
    return replace(registry.recipe(base).replace(**words), **told)


def called(recipe: str | Mapping[str, str]) -> str:
    """What a configuration's recipe is called, whether or not its words are installed."""
    if isinstance(recipe, str):
        return recipe
    return recipe.get("name") or recipe.get("recipe") or "of its own"
