"""Every command and every snippet of README, CONTRIBUTING and docs/ does what the page says."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from lifelong.cli import app
from tests.docs.child import DocumentedCommands
from tests.docs.pages import PAGES, ROOT, RUN, blocks, given
from tests.docs.runner import Session
from tests.docs.standins import (
    ADDRESSES,
    ENCODERS,
    MODELS,
    NOT_RUN,
    RUNS,
    answer_of_judge,
    lay_out,
    make_data,
    make_targets,
)
from tests.docs.summary import NOT_RUN as NOT_RUN_HERE
from tests.docs.summary import RAN
from tests.raters.server import serving

RUN_PAGES = [page for page in PAGES if any(block.language in RUN for block in blocks(page))]


@pytest.fixture(scope="session")
def commands() -> Iterator[DocumentedCommands]:
    """The process that forks for every command."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.docs.child"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield DocumentedCommands(server)
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def models(model_folders: dict[str, Path], encoder_folders: dict[str, Path]) -> dict[str, Path]:
    """Hub name → the tiny model that stands in for it."""
    found = {name: model_folders[family] for name, family in MODELS.items()}
    return found | {name: encoder_folders[kind] for name, kind in ENCODERS.items()}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all data that stand in."""
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.fixture(scope="session")
def run_folder(
    commands: DocumentedCommands,
    models: dict[str, Path],
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """The folder of a run of RUNS, made when it is first asked for."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("given") / "scratch"
            lay_out(folder, data, models, [], run_folder=make)
            for line in RUNS[name]:
                where = {"folder": str(folder), "environment": {}, "path": []}
                ended = commands.wait(commands.start_in(shlex.split(line)[1:], **where))
                assert ended.code == 0, ended.stderr
            made[name] = folder / name
        return made[name]

    return make


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(
    page: Path,
    commands: DocumentedCommands,
    models: dict[str, Path],
    data: Path,
    run_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    scratch = tmp_path / "scratch"
    lay_out(scratch, data, models, given(page), run_folder)
    with serving(answer_of_judge) as judge:
        session = Session(page, scratch, commands, site, dict.fromkeys(ADDRESSES, judge.url))
        try:
            session.read()
        finally:
            session.close()
    record_property(RAN, session.ran)
    for each in session.skipped:
        record_property(NOT_RUN_HERE, each)


def spans() -> Iterator[tuple[str, str, list[str]]]:
    """(page, command, options) of every command that the text of a page names: `lifelong status --json`."""
    for page in PAGES:
        for span in re.findall(r"`lifelong ((?:[a-z]+)[^`]*)`", page.read_text(encoding="utf-8")):
            yield page.name, span, re.findall(r"--[a-z-]+", span)


def test_commands_in_the_text_exist() -> None:
    known = typer.main.get_command(app).commands
    wrong = []
    for page, span, options in spans():
        command = known.get(span.split()[0])
        for word in span.split()[1:2]:
            command = getattr(command, "commands", {}).get(word, command)
        has = {name for each in getattr(command, "params", ()) for name in each.opts} | {"--help"}
        if command is None or not set(options) <= has:
            wrong.append(f"{page}: lifelong {span}")
    assert not wrong, wrong


def test_the_pictures_are_what_their_script_draws(tmp_path: Path) -> None:
    script = ROOT / "docs" / "pictures" / "draw.py"
    runpy.run_path(str(script))["draw"](tmp_path)
    for drawn in tmp_path.iterdir():
        assert drawn.read_text() == (script.parent / drawn.name).read_text(), f"run {script} again"


def test_what_is_not_run_exists() -> None:
    targets = make_targets(ROOT / "Makefile")
    assert {name.removeprefix("make ") for name in NOT_RUN if name.startswith("make ")} <= targets


def test_the_pages_are_read() -> None:
    """A page whose blocks were not found would be a page without a fault."""
    found = [block for page in PAGES for block in blocks(page)]
    assert sum(block.language == "console" for block in found) > 20
