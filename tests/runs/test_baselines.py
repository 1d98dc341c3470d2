"""The methods that Adapt-∞ is compared with, on real data and a real model: exact, and the same anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lifelong import Run
from lifelong.account.why import tell, why
from lifelong.cli import invoke
from lifelong.errors import InputError, UsageError
from lifelong.recipes.method import method as build
from policies import registry
from tests.runs.child import Children
from tests.runs.small import decisions, entry, feed_entry, rows_of, small_entry, write_rows

METHODS = ("coincide", "d2", "less", "semdedup")
BUDGET = 14
"""15 % of the 96 rows of easyvqa, rounded half up."""


def validation(name: str = "easyvqa") -> list[str]:
    """Settings that name a dataset's eval set as validation set."""
    found = entry(name)
    settings = {"measure.validation": found["eval"], "measure.validation_images": found["images"]}
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]


def command(method: str, model: str, out: Path, *options: object, train: object = None) -> list[str]:
    found = entry("easyvqa")
    images = ["--images", found["images"]] if train is None else []
    given = ["--method", method, "--budget", "15%", "--model", model, "--out", out, "--seed", 3, "--quiet"]
    named = validation() if method == "less" else []
    return [str(each) for each in ["select", train or found["train"], *images, *given, *named, *options]]


def table(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(f"{out}.decisions.parquet").to_pylist()


def selected_by(method: str, model: str, folder: Path, *options: object, train: object = None) -> list[dict]:
    """The decisions of a selection."""
    out = folder / "out.json"
    assert invoke(command(method, model, out, *options, train=train)) == 0
    return table(out)


@pytest.mark.parametrize("method", METHODS)
def test_a_selection_is_exact_and_the_same_in_any_process_and_batch_size(
    method: str, llava: str, children: Children, tmp_path: Path
) -> None:
    outs = []
    for number, batch_size in enumerate((16, 16, 5)):
        out = tmp_path / f"{number}.json"
        ended = children.run(*command(method, llava, out, "--set", f"measure.batch_size={batch_size}"))
        assert ended.code == 0, ended.stderr
        outs.append(out)
    rows = table(outs[0])
    selected = [row for row in rows if row["selected"]]
    assert (len(rows), len(selected)) == (96, BUDGET)
    assert len({row["sample_id"] for row in selected}) == BUDGET
    assert all(row["reason"].startswith(("selected: choice", "not selected: cluster")) for row in rows)
    assert len({out.read_bytes() for out in outs}) == 1
    for out in outs[1:]:
        assert [row["rank"] for row in table(out)] == [row["rank"] for row in rows]


def test_semdedup_keeps_what_is_least_like_any_other_over_all_clusters(llava: str, tmp_path: Path) -> None:
    rows = selected_by("semdedup", llava, tmp_path)
    kept = [row["score"] for row in rows if row["selected"]]
    assert min(kept) >= max(row["score"] for row in rows if not row["selected"])
    assert len({row["cluster"] for row in rows}) > 1


def test_coincide_gives_each_cluster_its_share(llava: str, tmp_path: Path) -> None:
    rows = selected_by("coincide", llava, tmp_path)
    assert {row["scorer"] for row in rows} == {"typicality"}
    assert len({row["cluster"] for row in rows if row["selected"]}) > 5


KINDS = ("easyvqa", "tux_caption", "ground_mix", "daquar")
ROWS = 30


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A row of each of four datasets in turn; images are named from the folder of the stream."""
    rows = [
        row | {"image": f"{name}/images/{row['image']}"}
        for together in zip(*(rows_of(name)[:ROWS] for name in KINDS), strict=True)
        for name, row in zip(KINDS, together, strict=True)
    ]
    return write_rows(tmp_path_factory.mktemp("mixed") / "mixed.json", rows)


@pytest.mark.parametrize(
    ("tasks", "least"),
    [(("ground_mix",), 25), (("daquar",), 20), (("easyvqa",), 20), (("ground_mix", "daquar"), 20)],
)
def test_less_ranks_samples_like_the_validation_set_first(
    tasks: tuple[str, ...], least: int, mixed: Path, llava: str, tmp_path: Path
) -> None:
    """Of 30 samples of each kind it takes the most of those that the validation set has; by chance, a quarter."""
    named = [entry(name)["eval"] for name in tasks]
    images = Path(entry("easyvqa")["images"]).parents[1]
    options = ["--images", images, "--budget", ROWS * len(tasks), "--set", "measure.validation_images="]
    options += ["--set", f"measure.validation={json.dumps(named)}"]
    rows = selected_by("less", llava, tmp_path, *options, train=mixed)
    found = Counter(KINDS[position % 4] for position, row in enumerate(rows) if row["selected"])
    assert found.total() == ROWS * len(tasks)
    for name in tasks:
        assert found[name] >= least


def test_less_says_so_where_there_is_no_validation_set(
    llava: str, new_run: Callable[..., Run], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = command("less", llava, tmp_path / "out.json")
    without = words[: words.index("--set")]
    assert invoke(without) == 2
    assert "none is named: set measure.validation" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"'influence'.*set measure\.validation"):
        new_run(recipe="less")
    run = new_run(recipe={"recipe": "adapt-inf", "router": "entropy[el2n influence]"})
    feed_entry(run, small_entry(tmp_path, "easyvqa", rows=12, evals=0))
    with run.reading() as stores:
        routed = stores.ledger.phase(1, "route").result
    assert routed["experts"] == ["el2n"]
    assert "none is named" in routed["skipped"]["influence"]


def test_influence_is_an_expert_in_the_loop_and_why_tells_of_it(
    new_run: Callable[..., Run], tmp_path: Path
) -> None:
    named = {"validation": [entry("daquar")["train"]], "validation_images": entry("daquar")["images"]}
    run = new_run(
        recipe={"recipe": "adapt-inf", "router": "entropy[el2n influence]", "clusters": "kmeans[k=2]"},
        measure=named,
    )
    for name in ("easyvqa", "tux_caption"):
        feed_entry(run, small_entry(tmp_path, name, rows=12, evals=4))
    for timestep, count in ((1, 12), (2, 24)):
        rows = decisions(run, timestep)
        scores = np.array([row["score_influence"] for row in rows])
        assert len(scores) == count
        assert np.isfinite(scores).all()
        assert np.ptp(scores) > 0
        assert np.abs(scores).max() <= 1
    with run.reading() as stores:
        told = tell(why(stores, decisions(run, 2)[0]["sample_id"]))
    assert "influence" in told


def test_the_runs_own_eval_set_is_no_validation_set_unless_that_is_said(
    new_run: Callable[..., Run], tmp_path: Path
) -> None:
    fed = small_entry(tmp_path, "easyvqa", rows=12, evals=4)
    named = {"validation": fed["eval"], "validation_images": fed["images"]}
    with pytest.raises(InputError, match=r"row 0 of the validation set is in the eval set of 'vqa'"):
        feed_entry(new_run(recipe="less", measure=named), fed)
    run = new_run("allowed", recipe="less", measure=named | {"validation_of_evals": True})
    feed_entry(run, fed)
    assert sum(row["selected"] for row in decisions(run, 1)) == 3


@pytest.mark.parametrize(
    ("rows", "said"), [([], "has no rows|no row of the validation set"), ([{"id": "x"}], "no row of the")]
)
def test_a_validation_set_without_a_usable_row_is_refused(
    rows: list[dict[str, str]], said: str, llava: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = write_rows(tmp_path / "empty.json", rows)
    options = ["--set", f"measure.validation={empty}"]
    assert invoke(command("less", llava, tmp_path / "out.json", *options)) == 1
    assert any(part in capsys.readouterr().err for part in said.split("|"))


def test_the_words_of_the_recipes_in_the_loop(new_run: Callable[..., Run], tmp_path: Path) -> None:
    """COINCIDE's allocator and sampler, and D2's sampler, with gradients in the place of hidden states."""
    changed = {"recipe": "adapt-inf", "clusters": "kmeans[k=2]"}
    for number, words in enumerate(({"budget": "transfer", "sample": "mmd"}, {"sample": "d2"})):
        run = new_run(f"run{number}", recipe=changed | words, train={"budget": 5})
        for name in ("easyvqa", "tux_caption"):
            feed_entry(run, small_entry(tmp_path, name, rows=12, evals=0))
        assert [sum(row["selected"] for row in decisions(run, t)) for t in (1, 2)] == [5, 5]


@pytest.mark.parametrize("vectors", ["encoded", "trajectory"])
def test_influence_compares_only_what_the_model_itself_gives(vectors: str) -> None:
    with pytest.raises(
        UsageError, match="'influence' compares the model's own vectors: write vectors gradient"
    ):
        build({"recipe": "less", "vectors": vectors})


@pytest.mark.parametrize("method", METHODS)
def test_each_recipe_cites_its_paper(method: str) -> None:
    assert registry.recipe(method).paper.startswith("arXiv ")
