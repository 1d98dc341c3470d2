"""Recipes as files: what `recipe show` prints is what `--recipe` reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifelong.cli import invoke
from lifelong.config import read_config
from lifelong.recipes.files import read_recipe
from lifelong.recipes.method import method, resolve
from policies import registry
from policies.grammar import SLOTS

BENCHMARKED = Path(__file__).resolve().parents[2] / "benchmarks" / "recipes"
Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", registry.names("recipes"))
def test_what_is_shown_is_read_and_is_the_same_method(name: str, tmp_path: Path, capsys: Captured) -> None:
    assert invoke(["recipe", "show", name]) == 0
    shown = capsys.readouterr().out
    path = tmp_path / "my.yaml"
    path.write_text(shown)
    recipe = resolve(read_recipe(str(path)))
    assert recipe.name == name
    assert f"# {registry.recipe(name).sentence()}\n" in shown
    for slot in SLOTS:
        assert registry.build(slot, recipe.word(slot)) == registry.build(
            slot, registry.recipe(name).word(slot)
        )
    assert invoke(["recipe", "show", str(path)]) == 0
    again = capsys.readouterr().out
    assert again.partition("\nname:")[2] == shown.partition("\nname:")[2]


def test_a_changed_recipe_says_what_is_changed_unless_it_has_words_of_its_own(
    tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: adapt-inf\nsample: top\nstart: base\n")
    recipe = resolve(read_recipe(path))
    assert recipe.summary == "adapt-inf with sample top, start base"
    assert resolve(read_recipe(str(path))) == recipe
    assert resolve({"recipe": "adapt-inf"}).summary == registry.recipe("adapt-inf").summary
    path.write_text("recipe: adapt-inf\nsample: top\nsummary: 'Mine: all of it'\npaper: arXiv 0\n")
    recipe = resolve(read_recipe(str(path)))
    assert (recipe.name, recipe.summary, recipe.paper) == ("mine", "Mine: all of it", "arXiv 0")
    assert invoke(["recipe", "show", str(path)]) == 0
    path.write_text(capsys.readouterr().out)
    again = resolve(read_recipe(str(path)))
    assert (again.name, again.summary, again.paper) == ("mine", "Mine: all of it", "arXiv 0")
    assert invoke(["methods", "--recipe", str(path)]) == 0
    assert "summary: Mine: all of it\n" in capsys.readouterr().out


def test_a_run_takes_a_recipe_file_whole(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: adapt-inf\nsample: top\nclusters: kmeans[k=3]\n")
    assert invoke(["init", str(tmp_path / "run"), "--recipe", str(path)]) == 0
    path.unlink()  # the run does not look at it again
    recipe = read_config(tmp_path / "run" / "config.yaml").recipe
    built = method(recipe)
    assert (built.recipe.name, str(built.recipe.sample), str(built.recipe.clusters)) == (
        "mine",
        "top",
        "kmeans[k=3]",
    )
    assert built.recipe.router == registry.recipe("adapt-inf").router


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "recipe: adapt-inf\nsampel: top\n",
            "unknown slot 'sampel'; did you mean 'sample'? Known: candidates",
        ),
        ("sample: tpo\n", "unknown word in sample 'tpo'; did you mean 'top'? Known: bottom, ccs"),
        ("sample: ccs[strat=3]\n", "unknown option 'strat'; did you mean 'strata'?"),
        ("recipe: adaptinf\n", "did you mean 'adapt-inf'?"),
        ("router: always[el2m]\n", "did you mean 'el2n'?"),
        ("sentence: sample top · budget wholy\n", "unknown word in budget 'wholy'; did you mean 'whole'?"),
        ("sample: 3\n", "sample is 3; write a word"),
        ("", "holds no words"),
    ],
)
def test_a_fault_is_named_with_the_file_and_the_nearest_word(
    text: str, words: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert invoke(["init", str(tmp_path / "run"), "--recipe", str(path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "mine" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted(BENCHMARKED.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_study_can_be_read_and_are_named_after_their_files(path: Path) -> None:
    words = read_recipe(str(path))
    assert isinstance(words, dict)
    assert words["name"] == path.stem
    method(words)
