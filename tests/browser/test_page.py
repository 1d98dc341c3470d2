"""The report in a real Chromium: as a file, and as a page that follows a run while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from lifelong import Run
from lifelong.account.why import why
from lifelong.report import write_report
from tests.runs.child import Children
from tests.runs.serving import Server, serving
from tests.runs.small import decisions, small_entry

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright", reason="looking at pages needs the package `playwright`")
pytest.importorskip("uvicorn", reason="serving needs the extra `serve`")

OpenPage = Callable[..., "Page"]
Keep = Callable[..., Path]

# Where on the screen the mark of a sample is that lies apart from others, and which sample it is.
APART = """() => {
  const place = document.getElementById("map-chart"), box = place.getBoundingClientRect();
  const { xaxis, yaxis } = place._fullLayout;
  const marks = place.data.flatMap((trace, t) => trace.x.map((x, n) => ({
    x: box.left + xaxis._offset + xaxis.l2p(x), y: box.top + yaxis._offset + yaxis.l2p(trace.y[n]),
  })));
  const apart = (a) => Math.min(...marks.filter((b) => b !== a).map((b) => Math.hypot(a.x - b.x, a.y - b.y)));
  return marks.sort((a, b) => apart(b) - apart(a))[0];
}"""


@pytest.fixture(scope="module")
def server(finished: Run) -> Iterator[Server]:
    with serving(finished.root) as found:
        yield found


def until(page: Page, expression: str, seconds: float = 60) -> None:
    """Wait for an expression to be true in the page, whose policy lets no waiting script in."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not within {seconds} s: {expression}"
        page.wait_for_timeout(50)


def map_of(page: Page) -> Any:
    """The map, once it is drawn, in view."""
    page.wait_for_selector("#map-chart", state="attached")
    page.locator("#map").scroll_into_view_if_needed()
    page.wait_for_selector("#map-chart .scatterlayer .point", state="attached")
    return page.locator("#map-chart")


def marks(page: Page) -> dict[str, int]:
    """How many marks the map has of each name in its legend."""
    found = page.evaluate(
        "document.getElementById('map-chart').data.map((trace) => [trace.name, trace.x.length])"
    )
    return {name.rsplit(" (", 1)[0]: count for name, count in found}


def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2.2 A and AA."""
    from axe_playwright_python.sync_playwright import Axe

    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = Axe().run(page, options=rules).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}" for each in found for node in each["nodes"]
    ]


def test_a_page_that_is_served_loads_and_is_accessible(
    server: Server, open_page: OpenPage, keep_picture: Keep
) -> None:
    for name, options in (("desktop", {}), ("dark", {"color_scheme": "dark"})):
        page = open_page(server.url, **options)
        page.wait_for_selector("#average-chart .scatterlayer .point", state="attached")
        map_of(page)
        assert page.url == f"http://127.0.0.1:{server.port}/"  # the token is in no address any more
        assert page.inner_text("#lead") == "3 timesteps are finished; nothing is under way."
        assert violations(page) == []
        page.evaluate("scrollTo(0, 0)")
        shown = Image.open(keep_picture(page, f"served-{name}"))
        assert len(shown.getcolors(1 << 24) or []) > 20


def test_pointing_at_a_mark_shows_the_sample(
    server: Server, finished: Run, open_page: OpenPage, keep_picture: Keep
) -> None:
    page = open_page(server.url)
    map_of(page)
    mark = page.evaluate(APART)
    page.mouse.move(mark["x"], mark["y"])
    page.wait_for_selector("#map-card[data-sample]")
    sample = page.get_attribute("#map-card", "data-sample")
    assert sample in {row["sample_id"] for row in decisions(finished, 3)}
    until(page, "document.querySelector('#map-card img').naturalWidth > 0")
    with finished.reading() as stores:
        expected = [each["reason"] for each in why(stores, str(sample))["samples"][0]["decisions"]]
    until(page, f"document.querySelectorAll('#map-card .why dd').length === {len(expected)}")
    assert page.locator("#map-card .why dd").all_inner_texts() == expected
    keep_picture(page, "served-sample")
    # And without a mouse.
    page.locator("#map-chart").focus()
    page.keyboard.press("ArrowRight")
    until(page, f"document.getElementById('map-card').dataset.sample !== '{sample}'")


def test_the_map_is_filtered_by_skill_and_coloured_by_what_was_decided(
    server: Server, finished: Run, open_page: OpenPage
) -> None:
    page = open_page(server.url)
    map_of(page)
    rows = [row for row in decisions(finished, 3) if row["cluster"] is not None]
    whole = marks(page)
    assert sum(whole.values()) == len(rows)
    skill = max(whole, key=lambda name: whole[name])
    page.select_option("#map-skill", skill)
    assert marks(page) == {skill: whole[skill]}
    page.select_option("#map-colour", "pruned")
    gone = sum(row["pruned"] for row in rows if row["skill"] == skill)
    assert marks(page).get("pruned", 0) == gone
    page.select_option("#map-skill", "")
    page.select_option("#map-colour", "selected")
    assert marks(page)["trained on"] == sum(row["selected"] for row in rows)


def test_a_sample_is_found_by_its_id_with_why_it_is_what_it_is(
    server: Server, finished: Run, open_page: OpenPage, keep_picture: Keep
) -> None:
    # One that left the pool at the first pruning: the map of the last timestep does not have it.
    gone = next(row["sample_id"] for row in decisions(finished, 2) if row["pruned"])
    page = open_page(server.url)
    map_of(page)
    page.fill("#map-find", gone)
    page.click("#map-found button")
    with finished.reading() as stores:
        expected = [each["reason"] for each in why(stores, gone)["samples"][0]["decisions"]]
    until(page, f"document.querySelectorAll('#map-card .why dd').length === {len(expected)}")
    assert page.get_attribute("#map-card", "data-sample") == gone
    assert page.locator("#map-card .why dd").all_inner_texts() == expected
    assert "pruned" in expected[-1]
    keep_picture(page, "served-search")
    page.fill("#map-find", "no sample has this text")
    until(page, "document.getElementById('map-found').innerText === '0 found'")


def test_the_page_grows_while_a_dataset_is_fed(
    copied: Run, children: Children, open_page: OpenPage, keep_picture: Keep, tmp_path: Path
) -> None:
    more = small_entry(tmp_path, "puzzlevqa", rows=12, evals=4)
    options = [
        option for name in ("images", "eval", "skill", "metric") for option in (f"--{name}", more[name])
    ]
    with serving(copied.root) as server:
        page = open_page(server.url)
        map_of(page)
        page.evaluate("window.sameDocument = true")
        page.fill("#map-find", "shape")
        page.click("#run summary")
        columns = page.locator("#matrix thead th").count()
        skills = page.locator("#skill-charts .titled").count()
        pid = children.start(
            "feed", copied.root, more["train"], *options, at=(4, "train", "before"), do="hold"
        )
        until(page, "document.getElementById('lead').innerText.includes('is under way: train.')")
        assert page.locator("#now-phases [data-state=done]").count() == 5
        assert page.inner_text("#now-phases [data-state=current]") == "train"
        page.evaluate("scrollTo(0, 0)")
        keep_picture(page, "served-under-way")
        held = copied.root / "held"
        while not held.exists():  # the model may still train when the page says so
            time.sleep(0.05)
        held.unlink()
        until(
            page, "document.getElementById('lead').innerText.startsWith('4 timesteps are finished; nothing')"
        )
        until(page, f"document.querySelectorAll('#matrix thead th').length === {columns + 1}")
        assert children.wait(pid).code == 0
        assert page.locator("#skill-charts .titled").count() == skills + 1
        until(page, "document.querySelectorAll('#map-timestep option').length === 4")
        assert page.input_value("#map-find") == "shape"
        assert page.get_attribute("#run details", "open") is not None
        assert page.evaluate("window.sameDocument")
        assert page.locator("#now").is_hidden()
        map_of(page)
        page.locator("#gained").scroll_into_view_if_needed()
        keep_picture(page, "served-grown")


def test_a_server_that_has_gone_is_told_of(finished: Run, chromium: Any) -> None:
    with serving(finished.root) as server:
        page = chromium.new_page()
        page.goto(server.url)
        server.end()
        until(page, "document.getElementById('now-lost').innerText.includes('does not answer')")
        page.close()


def test_the_report_as_a_file_on_a_phone_and_on_paper(
    finished: Run, open_page: OpenPage, keep_picture: Keep, tmp_path: Path
) -> None:
    write_report(finished, tmp_path / "report.html")
    began = time.monotonic()
    page = open_page(f"file://{tmp_path}/report.html", 390, 844, is_mobile=True, has_touch=True)
    place = map_of(page)
    assert time.monotonic() - began < 30
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    place.scroll_into_view_if_needed()
    mark = page.evaluate(APART)
    page.touchscreen.tap(mark["x"], mark["y"])
    page.wait_for_selector("#map-card[data-sample] img")
    until(page, "document.querySelector('#map-card img').naturalWidth > 0")
    assert page.locator("#map-card .why dd").count() >= 1
    sample = str(page.get_attribute("#map-card", "data-sample"))
    page.fill("#map-find", sample[:12])
    until(page, "document.querySelectorAll('#map-found button').length === 1")
    keep_picture(page, "file-phone")
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
