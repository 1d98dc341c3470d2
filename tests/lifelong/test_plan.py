"""From what a recipe's words need to the passes that give it."""

from __future__ import annotations

import numpy as np
import pytest

from lifelong.errors import UsageError
from lifelong.measure.passes import AnswerPass, BlindPass, ReadPass
from lifelong.measure.plan import SIGNALS, layer_numbers, passes_of, plan
from lifelong.measure.projectors import CountSketch, NormsOnly, Trak
from lifelong.models.load import VisionLanguageModel
from policies import registry
from policies.scorers.base import FREE_SIGNALS, Scorer
from policies.vectors import Gradient, Hidden, NoVectors
from tests.conftest import mixed


def scorer(name: str) -> Scorer:
    return registry.build("scorers", name)


def test_the_union_of_what_scorers_and_vectors_need() -> None:
    word = Gradient(layer="last", dim=64)
    made = plan([scorer("el2n"), scorer("grounding"), scorer("grand")], word)
    assert made.signals == {"el2n", "nll", "nll_blind", "gradient_norm", "gradient"}
    assert made.gradient is word
    assert made.passes == ("forward + backward", "forward without images")


@pytest.mark.parametrize(
    ("scorers", "vectors", "passes"),
    [
        (["random"], NoVectors(), ()),
        (["el2n", "entropy"], NoVectors(), ("forward",)),
        (["random"], Hidden(), ("forward",)),
        (["grand"], NoVectors(), ("forward + backward",)),
        (["random"], Gradient(), ("forward + backward",)),
        (["grounding"], Hidden(), ("forward", "forward without images")),
        (["ifd"], NoVectors(), ("forward", "forward of the answers alone")),
    ],
)
def test_the_cheapest_passes(scorers: list[str], vectors: NoVectors, passes: tuple[str, ...]) -> None:
    assert plan(map(scorer, scorers), vectors).passes == passes


@pytest.mark.parametrize(
    "name", ["el2n", "entropy", "grand", "grounding", "ifd", "perplexity", "random", "uniqueness"]
)
def test_every_expert_that_reads_the_model_can_be_measured(vlm: VisionLanguageModel, name: str) -> None:
    needed = set(scorer(name).needs)
    made = plan([scorer(name)], Gradient(dim=16) if "vectors" in needed else NoVectors())
    found = {name for each in passes_of(made, vlm, 0) for name in each(mixed()[:2])}
    assert made.signals <= found
    assert needed - set(FREE_SIGNALS) <= made.signals


def test_an_unknown_signal_names_the_scorer_and_the_signal() -> None:
    class Wishful(Scorer):
        name = "wishful"
        needs = ("nll", "truth")

        def score(self, signals: object, rng: object) -> np.ndarray:
            raise NotImplementedError

    with pytest.raises(UsageError, match=r"'wishful' needs the signal 'truth'.*signals are .*el2n"):
        plan([Wishful()], NoVectors())
    assert "truth" not in SIGNALS


def test_a_scorer_of_vectors_wants_a_recipe_that_has_them() -> None:
    with pytest.raises(UsageError, match="'uniqueness' needs vectors, and the recipe has none"):
        plan([scorer("uniqueness")], NoVectors())
    assert plan([scorer("uniqueness")], Hidden()).signals == {"hidden"}


def test_no_signal_means_that_samples_are_only_read(vlm: VisionLanguageModel) -> None:
    (only,) = passes_of(plan([scorer("random")], NoVectors()), vlm, 0)
    assert isinstance(only, ReadPass)


def test_vectors_word_decides_layer_projector_and_length(vlm: VisionLanguageModel) -> None:
    def answer_pass(word: Gradient | NoVectors, *names: str) -> AnswerPass:
        first, *_ = passes_of(plan(map(scorer, names), word), vlm, 7)
        assert isinstance(first, AnswerPass)
        return first

    middle = answer_pass(Gradient(dim=99))
    assert (middle.layers, middle.hidden) == ((1,), None)
    assert isinstance(middle.projector, CountSketch)
    assert middle.projector.dim == 99
    assert isinstance(answer_pass(Gradient(layer="last", projector="trak")).projector, Trak)
    assert answer_pass(Gradient(layer="last")).layers == (2,)
    norms = answer_pass(NoVectors(), "grand")
    assert isinstance(norms.projector, NormsOnly)
    assert norms.layers == (0, 1, 2)
    forward = answer_pass(NoVectors(), "el2n")
    assert (forward.projector, forward.layers) == (None, ())


def test_a_blind_pass_only_where_it_is_needed(vlm: VisionLanguageModel) -> None:
    kinds = [type(each) for each in passes_of(plan([scorer("grounding")], NoVectors()), vlm, 0)]
    assert kinds == [AnswerPass, BlindPass]
    kinds = [type(each) for each in passes_of(plan([scorer("el2n")], NoVectors()), vlm, 0)]
    assert kinds == [AnswerPass]


def test_vectors_depend_on_the_runs_seed_alone(vlm: VisionLanguageModel) -> None:
    made = plan([], Gradient(dim=32))
    first, again, other = (passes_of(made, vlm, seed)[0](mixed()[:2])["gradient"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=0.05)


def test_layers() -> None:
    assert layer_numbers("all", 4) == [0, 1, 2, 3]
    assert [layer_numbers(word, 5) for word in ("middle", "last", 0, 3)] == [[2], [4], [0], [3]]
    assert layer_numbers("middle", 32) == [16]
    with pytest.raises(UsageError, match=r"gradient\[layer=5\]: the model has 5 layers, 0 to 4"):
        layer_numbers(5, 5)
