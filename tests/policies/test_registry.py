"""Plug-ins here are real: a module and its metadata in a folder on the path, as an installer leaves them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from policies import registry
from policies.clusterers import KMeans
from policies.errors import GrammarError
from policies.grammar import SLOTS, Recipe
from policies.routers import Always, ByEntropy
from policies.scorers import Scorer
from policies.vectors import Gradient


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not registry.names("scorers"):
        pytest.skip("the entry points of lifelong are not installed; run pip install -e .")


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs entry points of a package of that name, and the module they point to."""

    def install(name: str, group: str, points: str, code: str = "") -> None:
        metadata = tmp_path / f"{name}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{points}\n")
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name.replace("-", "_"), raising=False)

    return install


def test_every_word_of_every_slot_is_found_under_its_own_name() -> None:
    for slot in SLOTS:
        assert registry.names(slot), slot
        for name in registry.names(slot):
            assert registry.find(slot, name).name == name  # type: ignore[attr-defined]


def test_every_scorer_says_what_it_needs() -> None:
    for name in registry.names("scorers"):
        scorer = registry.build("scorers", name)
        assert isinstance(scorer, Scorer)
        assert scorer.name == name
        assert scorer.needs
        assert scorer.passes


def test_every_recipe_is_built_of_known_words() -> None:
    recipes = registry.recipes()
    assert set(recipes) == set(registry.names("recipes"))
    for name, recipe in recipes.items():
        assert recipe.name == name
        assert recipe.summary
        for slot in SLOTS:
            registry.build(slot, recipe.word(slot))
        for scorer in registry.build("router", recipe.router).scorers:
            registry.find("scorers", scorer)


def test_adapt_inf_is_the_sentence_of_the_paper() -> None:
    assert registry.recipe("adapt-inf").sentence() == (
        "candidates pool · vectors gradient · clusters kmeans[k=10]"
        " · router entropy[el2n perplexity grounding ofa scalselect xmas mmssr]"
        " · budget even · sample ccs · prune semdedup"
        " · start continue"
    )


def test_options_take_the_type_of_their_field() -> None:
    assert registry.build("clusters", "kmeans[k=auto spherical=false]") == KMeans(k="auto", spherical=False)
    assert registry.build("clusters", "kmeans[4]") == KMeans(k=4)
    assert registry.build("router", "entropy[el2n grounding bins=20]") == ByEntropy(("el2n", "grounding"), 20)
    assert registry.build("router", "always[el2n]") == Always("el2n")
    assert registry.build("vectors", "gradient[layer=last]") == Gradient(layer="last")
    assert registry.build("vectors", "gradient[layer=3]") == Gradient(layer=3)
    assert isinstance(registry.build("sample", "ccs[tails=0]").tails, float)
    assert registry.build("prune", "semdedup[threshold=none]").threshold is None
    assert registry.build("prune", "semdedup[threshold=0.9]").threshold == 0.9


@pytest.mark.parametrize(
    ("slot", "word", "said"),
    [
        (
            "sample",
            "tpo",
            r"unknown word in sample 'tpo'; did you mean 'top'\? Known: bottom, ccs, d2, .*middle",
        ),
        ("smaple", "top", "unknown slot 'smaple'; did you mean 'sample'"),
        ("sample", "ccs[starta=4]", r"ccs\[starta=4\]: unknown option 'starta'; did you mean 'strata'"),
        (
            "sample",
            "ccs[strata=many]",
            r"'strata' is 'many', not int.*strata=50 \(int\), tails=0.05 \(float\)",
        ),
        ("sample", "ccs[strata=2.5]", "'strata' is 2.5, not int"),
        ("sample", "ccs[strata=true]", "'strata' is True, not int"),
        ("sample", "ccs[tails=nan]", "'tails' is 'nan', not float"),
        ("sample", "ccs[tails=0.7]", "tails at least 0 and under 0.5"),
        ("sample", "top[3]", "does not take '3'. top takes no options"),
        ("clusters", "kmeans[4 k=5]", "'k' is given twice"),
        ("clusters", "kmeans[k=some]", "'k' is 'some', not int or auto"),
        ("router", "always", r"'scorer' is missing. Options of always: scorer \(str, required\)"),
        ("router", "entropy", "'scorers' is missing"),
        ("vectors", "gradient[projector=dense]", "'projector' is 'dense', not sketch or trak"),
    ],
)
def test_a_wrong_word_is_told_what_would_be_right(slot: str, word: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said):
        registry.build(slot, word)


def test_a_scorer_of_another_package_is_found(plug_in) -> None:
    plug_in("my-scorers", "lifelong.scorers", "mine = my_scorers:Mine", "class Mine:\n    name = 'mine'\n")
    assert "mine" in registry.names("scorers")
    assert registry.find("scorers", "mine").__module__ == "my_scorers"


def test_a_broken_plug_in_breaks_only_itself(plug_in) -> None:
    plug_in("broken", "lifelong.recipes", "torn = broken:TORN", "import no_such_module\n")
    with pytest.warns(UserWarning, match="recipes 'torn' of broken 1.2"):
        recipes = registry.recipes()
    assert "torn" not in recipes
    assert isinstance(recipes["adapt-inf"], Recipe)
    with pytest.raises(GrammarError, match=r"'torn' of broken 1.2 \(broken:TORN\).*No module named"):
        registry.recipe("torn")


def test_two_packages_with_the_same_word_are_both_named(plug_in) -> None:
    plug_in("rival", "lifelong.samplers", "top = rival:Top", "class Top: ...\n")
    with pytest.raises(GrammarError, match=r"'top' is defined more than once, by .*rival 1.2 \(rival:Top\)"):
        registry.find("sample", "top")


HEADING = """
from dataclasses import dataclass
from policies.samplers import Sampler
from policies.scorers.base import Scorer
"""
SCORER = """
    name = "odd"
    needs = ("nll",)
    paper = ""
    passes = "one forward"
    def score(self, signals, rng):
        return signals["nll"]
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def Odd(): ...", "not a class made of policies.scorers.base.Scorer"),
        ("class Odd: ...", "not a class made of policies.scorers.base.Scorer"),
        ("class Odd(Sampler): ...", "not a class made of policies.scorers.base.Scorer"),
        (f"class Odd(Scorer):{SCORER}", "'odd' is no dataclass"),
        ("@dataclass\nclass Odd(Scorer): name = 'odd'", "lacks score, needs, paper, passes"),
        (f"@dataclass\nclass Odd(Scorer):{SCORER}    needs = 'nll'", r"needs is 'nll'; write \('nll',\)"),
        (f"@dataclass\nclass Odd(Scorer):{SCORER}    x: 'Nowhere' = 1", "'Nowhere' is not defined"),
    ],
)
def test_a_class_that_is_no_word_is_told_what_it_lacks(plug_in, code: str, said: str) -> None:
    plug_in("odd-one", "lifelong.scorers", "odd = odd_one:Odd", HEADING + code)
    with pytest.raises(GrammarError, match=said):
        registry.build("scorers", "odd")


OPTIONS = f"""
@dataclass
class Odd(Scorer):{SCORER}
    power: float = 1.0
    pairs: list[int] | None = None
    shares: tuple[float, ...] = ()
    def __post_init__(self):
        if self.power < 0:
            raise ValueError("power must be 0 or more")
"""


def test_options_of_other_types_are_refused_and_numbers_of_a_tuple_are_numbers(plug_in) -> None:
    plug_in("optional", "lifelong.scorers", "odd = optional:Odd", HEADING + OPTIONS)
    with pytest.raises(
        GrammarError, match=r"'pairs' is of the type list\[int\], which no text can be read as"
    ):
        registry.build("scorers", "odd[pairs=3]")
    with pytest.raises(GrammarError, match=r"power must be 0 or more\. Options of odd: power=1\.0"):
        registry.build("scorers", "odd[power=-1]")
    assert registry.build("scorers", "odd[shares=0.5]").shares == (0.5,)


def test_what_is_no_recipe_is_told_as_such(plug_in) -> None:
    plug_in("unread", "lifelong.recipes", "text = unread:TEXT", "TEXT = 'router always[el2n]'\n")
    with pytest.raises(GrammarError, match="'text' is a str, not a recipe"):
        registry.recipe("text")
