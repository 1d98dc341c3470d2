"""The report: what the page holds, what it says where something is missing, and that it cannot be broken into."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import signal
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lifelong import Run
from lifelong.cli import invoke
from lifelong.report import gather, write_report
from lifelong.report import page as report_page
from lifelong.report.maps import project
from lifelong.report.pictures import FULL, Pictures
from tests.runs.child import Children
from tests.runs.conftest import KEEP
from tests.runs.small import NAMES, decisions, decisions_path, write_rows

pytest.importorskip("plotly", reason="the report needs the extra `report`")

SECTIONS = [
    "run",
    "gained",
    "matrix",
    "curves",
    "pool",
    "map",
    "routing",
    "scores",
    "pairs",
    "costs",
    "steering",
    "settings",
]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\u2028"


class Page(HTMLParser):
    """A page taken apart. text: what its reader sees, by section; "" for what is outside them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: dict[str, str] = {"": ""}
        self._section = ""
        self._inside: list[str] = []
        self.feed(page)
        self.close()
        self.data: dict[str, Any] = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "section":
            self._section = str(attributes["id"])
            self.text[self._section] = ""
        if tag == "script":
            self.scripts.append("")
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._section = ""
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if "script" in self._inside:
            self.scripts[-1] += data
        elif not self._inside:
            self.text[self._section] += f"{data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def told(page: Page, section: str) -> str:
    return " ".join(page.text[section].split())


def page_of(run: Run, tmp_path: Path) -> Page:
    write_report(run, tmp_path / "report.html")
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(finished, tmp_path_factory.mktemp("page"))


def test_the_sections_come_in_order_and_each_is_named(page: Page) -> None:
    assert [section["id"] for section in page.all("section")] == SECTIONS
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(section["aria-labelledby"] in ids for section in page.all("section"))
    assert {link["href"] for link in page.all("a")} == {f"#{each}" for each in [*SECTIONS, "main"]}
    for landmark in ("header", "nav", "main"):
        assert len(page.all(landmark)) == 1
    assert page.all("html") == [{"lang": "en"}]
    assert [section for section in SECTIONS if not page.text[section].strip()] == []


def test_nothing_comes_from_elsewhere_and_no_other_script_may_run(page: Page) -> None:
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    kinds = [script.get("type") for script in page.all("script")]
    assert kinds == ["application/json", None, None]
    hashes = [hashlib.sha256(script.encode()).digest() for script in page.scripts[1:]]
    allowed = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in hashes)
    assert f"script-src {allowed};" in policy


def test_every_picture_is_described_and_every_chart_has_words(page: Page) -> None:
    images = page.all("img")
    assert images
    assert all(image["alt"] for image in images)
    charts = [each for _, each in page.tags if (each.get("class") or "").startswith("chart")]
    assert len(charts) == 4
    assert all(each["role"] and each["aria-label"] for each in charts)
    assert all(
        each["tabindex"] == "0" and each["aria-label"]
        for _, each in page.tags
        if each.get("class") == "scroll"
    )


def test_the_numbers_are_those_of_the_curves(page: Page, finished: Run) -> None:
    curves = finished.skill_matrix()
    assert f"{100 * curves.average_accuracy[-1]:.1f} %" in page.text["gained"]
    cells = re.findall(r"(\d+\.\d)\s+±", page.text["matrix"].split("in %")[-1])
    assert cells == [f"{100 * value:.1f}" for value in curves.R.T.ravel()]
    skills = page.data["accuracy"]["skills"]
    assert [skill["name"] for skill in skills] == list(curves.skills)
    for s, skill in enumerate(skills):
        (line,) = skill["runs"]
        assert line["R"] == curves.R[:, s].tolist()
        assert line["stderr"] == curves.stderr[:, s].tolist()
        assert line["introduced"] == curves.introduced[s]
    arrived = [each for each in page.all("td") if each.get("class") == "n arrived"]
    assert len(arrived) == len(NAMES)


def test_the_maps_show_what_was_decided(page: Page, finished: Run) -> None:
    assert [each["timestep"] for each in page.data["maps"]] == [1, 2, 3]
    for found in page.data["maps"]:
        rows = {
            row["sample_id"]: row
            for row in decisions(finished, found["timestep"])
            if row["cluster"] is not None
        }
        assert found["total"] == len(rows)
        assert sorted(found["samples"]) == sorted(rows)
        for place, sample_id in enumerate(found["samples"]):
            row, sample = rows[sample_id], page.data["samples"][sample_id]
            assert [found[name][place] for name in ("skill", "cluster", "expert", "reason")] == [
                row[name] for name in ("skill", "cluster", "scorer", "reason")
            ]
            assert (found["selected"][place], found["pruned"][place]) == (row["selected"], row["pruned"])
            assert (sample[0], sample[2]) == (row["dataset"], row["skill"])
            assert sample[3]
        assert min(np.ptp(found["x"]), np.ptp(found["y"])) > 0
    uris = page.data["pictures"]
    assert len(uris) == len(set(uris)) > 3 * 20
    assert {sample[4] for sample in page.data["samples"].values()} == set(range(len(uris)))
    assert all(uri.startswith("data:image/webp;base64,") for uri in uris)


def test_a_picture_that_is_shown_again_takes_room_again_in_html(finished: Run) -> None:
    with finished.reading() as stores:
        row = next(row for row in stores.pool.rows(range(72)) if row.images)
        for repeated, uses in ((False, 1), (True, 2)):
            pictures = Pictures(stores, 96, 100_000, repeated)
            (first,), (second,) = pictures.of(row), pictures.of(row)
            assert first == second
            assert pictures.room == 100_000 - uses * len(first.uri)
            image = Image.open(io.BytesIO(base64.b64decode(first.uri.split(",")[1])))
            assert max(image.size) <= 96


def test_a_projection_puts_like_directions_together_and_bears_what_has_none() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(60) % 5
    directions = rng.normal(size=(5, 40))[group] + 0.1 * rng.normal(size=(60, 40))
    places = project(directions * rng.uniform(0.1, 10, (60, 1)), seed=1)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (group[distances.argmin(axis=1)] == group).all()
    for few in (np.ones((5, 3)), np.ones((2, 1)), np.zeros((6, 4)), np.eye(3), np.eye(6)):
        places = project(few, seed=1)
        assert places.shape == (len(few), 2)
        assert np.isfinite(places).all()


def test_pruned_near_duplicates_stand_beside_what_they_repeat(page: Page, finished: Run) -> None:
    gone = [row for t in (1, 2, 3) for row in decisions(finished, t) if row["pruned"]]
    assert len(gone) == 3 * 24 - KEEP
    shown = re.findall(r"cosine ([-\d.]+)", page.text["pairs"])
    assert set(shown) <= {f"{row['similarity']:.4f}" for row in gone}
    for timestep in (1, 2, 3):
        likeness = sorted(
            row["similarity"] for row in gone if row["neighbour"] and row in decisions(finished, timestep)
        )
        assert f"{likeness[-1]:.4f}" in shown
        assert f"{likeness[0]:.4f}" in shown
    assert page.text["pairs"].count("Repeats") == page.text["pairs"].count("Pruned") == len(shown)
    assert len([image for image in page.all("img") if "of sample" in str(image["alt"])]) >= 2 * len(shown)


def test_the_pool_the_routes_the_scores_and_the_costs(page: Page, finished: Run) -> None:
    assert [row["arrived"] for row in page.data["pool"]] == [24, 24, 24]
    assert [row["live"] for row in page.data["pool"]][1:] == [KEEP, KEEP]
    assert page.text["pool"].count("Nothing was refused") == 1
    assert page.text["routing"].count("clusters") == 3
    for found in page.data["scores"]:
        rows = [row for row in decisions(finished, found["timestep"]) if row["cluster"] is not None]
        scores = [row[f"score_{found['expert']}"] for row in rows]
        assert sum(found["every"]) == found["judged"] == len(rows) - scores.count(None)
        chosen = [
            row for row, score in zip(rows, scores, strict=True) if row["selected"] and score is not None
        ]
        assert sum(found["selected"]) == len(chosen)
    phases = {
        name
        for row in page.data["costs"][1:]
        for name, seconds in row["seconds"].items()
        if seconds is not None
    }
    assert {"ingest", "measure", "train", "prune"} <= phases
    assert "clusters kmeans[k=3]" in page.text["settings"]
    assert "learning_rate: 0.0005" in page.text["settings"]


def test_the_same_run_gives_the_same_page(finished: Run, tmp_path: Path) -> None:
    first = write_report(finished, tmp_path / "a.html")
    assert write_report(finished, tmp_path / "b.html") == first == (tmp_path / "a.html").stat().st_size
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_the_command(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(finished.root, tmp_path / "copy")
    assert invoke(["report", str(run)]) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().err
    before = Run.open(run).digest()
    assert (
        invoke(["report", str(run), "--also", str(finished.root), "--out", str(tmp_path / "two.html")]) == 0
    )
    found = Page((tmp_path / "two.html").read_text(encoding="utf-8"))
    assert [line["run"] for line in found.data["accuracy"]["skills"][0]["runs"]] == ["copy", "run"]
    assert Run.open(run).digest() == before
    assert invoke(["fsck", str(run)]) == 0
    capsys.readouterr()
    assert invoke(["report", str(run), "--out", str(tmp_path / "no" / "where.html")]) == 1
    assert "where.html" in capsys.readouterr().err


def test_a_run_that_was_never_fed(new_run: Callable[..., Run], tmp_path: Path) -> None:
    found = page_of(new_run(), tmp_path)
    assert "Nothing has been fed" in found.text[""]
    for section in ("gained", "matrix", "curves", "pool", "map", "routing", "scores", "pairs", "costs"):
        assert re.search(r"\b(No|no|Nothing|not|before)\b", found.text[section]), section
    assert "recipe: el2n" in found.text["settings"]


def test_a_run_in_the_middle_of_a_timestep(
    new_run: Callable[..., Run], stream: Path, children: Children, tmp_path: Path
) -> None:
    run = new_run()
    assert children.run("run", run.root, stream, at=(2, "train", "before")).code == -signal.SIGKILL
    found = page_of(run, tmp_path)
    assert "1 timestep is finished. Timestep 2 (tux_caption)" in told(found, "")
    assert "stopped before it had finished train, and no process is at it" in told(found, "")
    assert [row["live"] for row in found.data["pool"]] == [24, None]
    assert "compares no vectors" in found.text["map"]
    assert {score["timestep"] for score in found.data["scores"]} == {1}


def test_a_page_that_would_be_too_large_is_made_with_less(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "ROOM_OF_THUMBNAILS", 40_000)
    whole = page_of(finished, tmp_path)
    limit = (tmp_path / "report.html").stat().st_size - 1
    monkeypatch.setattr(report_page, "LIMIT", limit)
    less = page_of(finished, tmp_path)
    assert (tmp_path / "report.html").stat().st_size <= limit
    assert 0 < len(less.data["pictures"]) < len(whole.data["pictures"])
    without = [sample[5] for sample in less.data["samples"].values() if sample[4] == -1]
    assert set(without) == {FULL}


def test_what_was_let_go_is_said(copied: Run, edit_config: Callable[..., None], tmp_path: Path) -> None:
    edit_config(copied, keep={"signals": 1})
    copied.gc()
    with copied.reading() as stores:
        held = stores.pool.arrays()["sample_ids"].astype(str).tolist()
    found = page_of(copied, tmp_path)
    assert [each["timestep"] for each in found.data["maps"]] == [3]
    assert "Timesteps 1, 2: the vectors were let go" in found.text["map"]
    assert "The file was changed after timestep 3" in found.text["settings"]
    gone = [sample for sample_id, sample in found.data["samples"].items() if sample_id not in held]
    assert any("let go" in sample[5] and sample[4] == -1 for sample in gone)
    assert "its image was let go" in found.text["pairs"]


def test_what_is_damaged_is_said(copied: Run, tmp_path: Path) -> None:
    with copied.reading() as stores:
        path = stores.ledger.file(2, "decisions")
        packs = {stores.root / row.path for row in stores.media.rows()}
    path.unlink()
    decisions_path(copied, 2).unlink()
    for pack in packs:
        pack.write_bytes(b"\0" * pack.stat().st_size)
    (copied.root / "config.yaml").write_text("recipe: [", encoding="utf-8")
    found = page_of(copied, tmp_path)
    assert [each["timestep"] for each in found.data["maps"]] == [1, 3]
    for section in ("map", "routing", "settings"):
        assert "cannot" in found.text[section]
    assert "Timestep 2:" in found.text["map"]
    assert "Shown is what is on record" in found.text["settings"]
    assert any("has been altered" in sample[5] for sample in found.data["samples"].values())


def test_text_of_a_dataset_stays_text(new_run: Callable[..., Run], tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{EVIL}{n}",
            "conversations": [{"from": "human", "value": f"{EVIL} {n}?"}, {"from": "gpt", "value": EVIL}],
        }
        for n in range(12)
    ]
    rows += [{"id": EVIL, "image": EVIL, "conversations": rows[0]["conversations"]}]
    run = new_run(recipe="semdedup", pool={"keep": 6})
    run = Run(run.root.rename(run.root.with_name("<b onclick=x>")))
    run.feed(
        write_rows(tmp_path / "train.json", rows),
        name=EVIL,
        skill=EVIL,
        eval=write_rows(tmp_path / "eval.json", rows[:4]),
    )
    found = page_of(run, tmp_path)
    assert len(found.scripts) == 3
    assert not any("onerror" in attributes or "onclick" in attributes for _, attributes in found.tags)
    shown = EVIL.strip()
    for section in ("gained", "matrix", "pool", "pairs"):
        assert shown in found.text[section], section
    assert found.data["accuracy"]["skills"][0]["name"] == EVIL
    assert found.data["maps"][0]["skill"] == [EVIL] * 12
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert raw.count("<script") == raw.count("</script") == 3 + report_scripts("<script")
    assert "\u2028" not in found.scripts[0]
    assert all("no image" in sample[5] for sample in found.data["samples"].values())
    assert "No picture: the sample has no image" in found.text["pairs"]
    assert "rejected" in found.text["pool"]


def report_scripts(words: str) -> int:
    """How often the libraries' own text has these words."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().count(words)
