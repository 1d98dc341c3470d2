"""A page of documentation as its fenced blocks, and what their author asks of the test that runs them.

A comment right above a block, which readers do not see, is an order to the test:

    <!-- test: skip: why it cannot be run here -->
    <!-- test: file: stream.yaml -->       write the block to this file
    <!-- test: config: runs/vlm -->        merge the block into the configuration of this run
    <!-- test: output -->                  what the Python block above prints
    <!-- test: figures: where from -->     the figures in the output are those of a larger run: only words are compared
    <!-- test: example: where from -->     so is the output as a whole: it is run, and not compared
    <!-- test: exit: 1 -->                 the exit code that the last command of the block ends with
    <!-- test: killed: 2 measure -->       the command is killed before this phase of this timestep is committed
    <!-- test: show: a fragment -->        to be read only, and why

and anywhere: <!-- test: given: runs/vlm -->   start from this run, which `standins.py` makes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "build" not in path.parts),
)
RUN = ("console", "python")
"""Languages whose blocks are run."""
READ = ("yaml", "toml", "json", "text", "")
"""Languages whose blocks are files, outputs, or to be read."""
ORDERS = ("skip", "file", "config", "output", "figures", "example", "exit", "killed", "show")
_ORDER = re.compile(r"^\s*<!-- test: (\w+)(?:: (.*?))? -->\s*$")
_FENCE = re.compile(r"^(\s*)(`{3,})(.*)$")


class PageError(Exception):
    """A page asks for something that there is not; says where."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: where it begins, its language, its text, and the orders above it."""

    page: Path
    line: int
    language: str
    text: str
    orders: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block and what it is said to print; "" if nothing is said."""

    line: int
    text: str
    output: str


def given(page: Path) -> list[str]:
    """The runs that a page starts from."""
    orders = (_ORDER.match(line) for line in page.read_text(encoding="utf-8").splitlines())
    return [order[2] for order in orders if order and order[1] == "given"]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. Raises: PageError at an order or a language that is unknown."""
    found: list[Block] = []
    orders: dict[str, str] = {}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if order := _ORDER.match(line):
            if order[1] == "given":
                continue
            if order[1] not in ORDERS:
                raise PageError(f"{page}:{number}: no such order to a test: {order[1]!r}")
            orders[order[1]] = order[2] or ""
        elif fence := _FENCE.match(line):
            indent, marks, language = fence.groups()
            inside = []
            for _, text in lines:
                if text.strip() == marks:
                    break
                inside.append(text.removeprefix(indent))
            if language.startswith("{"):
                continue  # a directive of the site, such as a table of contents
            block = Block(page, number, language.strip(), "\n".join(inside), orders)
            if block.language not in (*RUN, *READ):
                raise PageError(
                    f"{block.place}: a block of {block.language!r} is neither run nor read: use {RUN}"
                )
            found.append(block)
            orders = {}
        elif line.startswith("    lifelong "):
            raise PageError(
                f"{page}:{number}: write a command in a fenced block of `console`, so that it is run"
            )
        elif line.strip() and orders:
            raise PageError(f"{page}:{number}: an order to a test stands above no block")
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block. Raises: PageError if something comes before the first `$ `."""
    found: list[tuple[int, list[str], list[str]]] = []
    continued = False
    for number, line in enumerate(block.text.split("\n"), block.line + 1):
        if continued:
            found[-1][1].append(line.strip())
        elif line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif found:
            found[-1][2].append(line)
        else:
            raise PageError(f"{block.place}: a console block begins with a command: `$ …`")
        continued = bool(found) and not found[-1][2] and found[-1][1][-1].endswith("\\")
    return [
        Command(number, " ".join(part.rstrip("\\").rstrip() for part in parts), "\n".join(output).strip("\n"))
        for number, parts, output in found
    ]
