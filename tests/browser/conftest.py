"""A real Chromium, driven by Playwright, and pages that must not complain.

Where there is no Chromium the tests are skipped and say what to install; under CI that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.runs.conftest import (  # noqa: F401
    children,
    copied,
    edit_config,
    finished,
    llava,
    stream,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OWN = ("http://127.0.0.1", "file:", "data:", "blob:")


@dataclass
class Looked:
    """What a page complained of, and what it asked for elsewhere."""

    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "request", lambda asked: None if asked.url.startswith(OWN) else self.elsewhere.append(asked.url)
        )


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The machine's Chromium, or the one that $CHROMIUM names."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        told = "no Chromium to look at pages with: apt-get install chromium, or name one in $CHROMIUM"
        (pytest.fail if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip)(told)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address: (url, width=1280, height=900, **of the context). No page may complain or look elsewhere."""
    looked = Looked()
    contexts = []

    def open_one(url: str, width: int = 1280, height: int = 900, **options: Any) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        looked.watch(page)
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert looked.complaints == []
    assert looked.elsewhere == []


@pytest.fixture
def keep_picture(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Keeps a screenshot, in $LIFELONG_SCREENSHOTS where that is set: (page, name, **of the screenshot)."""
    folder = Path(os.environ.get("LIFELONG_SCREENSHOTS") or tmp_path)

    def keep(page: Page, name: str, **options: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(path=path, **options)
        return path

    return keep
