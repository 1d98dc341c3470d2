"""Runs the blocks of a page in order, as a reader would, and says where it does not do what the page says."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.docs.child import DocumentedCommands
from tests.docs.pages import ROOT, RUN, Block, Command, blocks, commands
from tests.docs.standins import NOT_RUN

_SHELL = re.compile(r"[|<>;&*`]|\$[({A-Za-z]")
"""What only a shell understands."""
_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?")
_BARS = re.compile("[▁▂▃▄▅▆▇█]")
Point = tuple[int, str, str]


class DocumentationError(AssertionError):
    """A page says what is not so."""


@dataclass(slots=True)
class Session:
    """A reader of one page: where they are, what they have set, what Python knows."""

    page: Path
    folder: Path
    lifelong: DocumentedCommands
    site: Path
    """Where `pip install` of a local package puts it."""
    addresses: dict[str, str]
    """Address in the page → that of the server which stands in for it."""
    environment: dict[str, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    printed: str = ""
    ran: int = 0
    skipped: list[str] = field(default_factory=list)
    background: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Run every block of the page. Raises: DocumentationError that tells all that is wrong with it."""
        for block in blocks(self.page):
            orders = block.orders
            if "skip" in orders or "show" in orders:
                self.skipped.append(f"{block.place}: {orders.get('skip') or orders.get('show')}")
            elif "file" in orders:
                path = self.folder / orders["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text + "\n", encoding="utf-8")
            elif "config" in orders:
                self._configure(block, orders["config"])
            elif "output" in orders:
                self._compare(block.place, block.text, self.printed, orders)
            elif block.language in RUN:
                {"console": self._console, "python": self._python}[block.language](block)
            elif block.language in ("yaml", "toml", "json"):
                self.faults.append(f"{block.place}: say which `file:` or `config:` this is, or `show: why`")
        if self.faults:
            raise DocumentationError("\n\n".join(self.faults))

    def close(self) -> None:
        """End what still runs in the background."""
        for pid in self.background:
            os.kill(pid, signal.SIGINT)
            self.lifelong.wait(pid)

    def _configure(self, block: Block, run: str) -> None:
        """Change a run's configuration as a reader would with an editor."""
        path = self.folder / run / "config.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, value in yaml.safe_load(block.text).items():
            if name not in values:
                self.faults.append(f"{block.place}: the configuration has no field {name!r}")
                continue
            section = isinstance(value, dict) and isinstance(values[name], dict)
            values[name] = values[name] | value if section else value
        path.unlink()
        path.write_text(yaml.safe_dump(values), encoding="utf-8")

    def _console(self, block: Block) -> None:
        listed = commands(block)
        for number, command in enumerate(listed):
            place = f"{self.page.name}:{command.line}: {command.text}"
            words = shlex.split(command.text, comments=True)
            if reason := NOT_RUN.get(" ".join(words)):
                self.skipped.append(f"{place}: {reason}")
                continue
            code, printed = self._run(words, command, block)
            self.ran += 1
            last = number == len(listed) - 1
            expected = int(block.orders.get("exit", 0)) if last else 0
            if last and "killed" in block.orders:
                expected = -signal.SIGKILL
            if code != expected:
                self.faults.append(f"{place}\nended with {code}, not {expected}:\n{printed}")
            elif command.output:
                self._compare(place, command.output, printed, block.orders)

    def _run(self, words: list[str], command: Command, block: Block) -> tuple[int, str]:
        """Exit code and what was printed."""
        settings = {}
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            settings[name] = value
        match words:
            case ["export", *pairs]:
                given = (pair.split("=", 1) for pair in pairs)
                self.environment.update((name, self.addresses.get(value, value)) for name, value in given)
                return 0, ""
            case ["cd", folder]:
                self.folder = (self.folder / folder).resolve()
                return 0, ""
            case ["pip", "install", *what]:
                return self._pip(what)
            case ["lifelong", *arguments] if not _SHELL.search(command.text.split(" #")[0].rstrip("& ")):
                return self._lifelong(arguments, settings, block)
        ended = subprocess.run(
            ["bash", "-c", command.text],
            cwd=self.folder,
            env=os.environ | self._shell(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return ended.returncode, ended.stdout

    def _shell(self) -> dict[str, str]:
        """The environment of a shell in which `lifelong` is this one; for what the process that forks cannot do."""
        bin = self.site.parent / "bin"
        bin.mkdir(exist_ok=True)
        script = bin / "lifelong"
        script.write_text(f"#!{sys.executable}\nfrom lifelong.cli import main\n\nmain()\n", encoding="utf-8")
        script.chmod(0o755)
        paths = {
            "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.site}",
        }
        return self.environment | paths

    def _lifelong(self, arguments: list[str], settings: dict[str, str], block: Block) -> tuple[int, str]:
        to_background = arguments[-1:] == ["&"]
        pid = self.lifelong.start_in(
            arguments[:-1] if to_background else arguments,
            folder=str(self.folder),
            environment=self.environment | settings,
            path=[str(self.site)],
            at=_point(block.orders.get("killed")),
        )
        if to_background:
            self.background.append(pid)
            return 0, ""
        ended = self.lifelong.wait(pid)
        return ended.code, ended.stderr

    def _pip(self, what: list[str]) -> tuple[int, str]:
        """Install a package that the page wrote; others are in this environment, or the page is wrong."""
        if not what[-1].startswith("."):
            extras = re.fullmatch(r"lifelong(?:\[([\w,]+)\])?", what[-1])
            if extras is None:
                return 1, "what stands in for it?"
            from importlib.metadata import metadata

            known = metadata("lifelong").get_all("Provides-Extra") or []
            unknown = [extra for extra in (extras[1] or "").split(",") if extra and extra not in known]
            self.skipped.append(f"{self.page.name}: pip install {what[-1]}: this environment has it")
            return len(unknown), f"no such extra: {unknown}"
        options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(self.site)]
        ended = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, what[-1]],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stderr

    def _python(self, block: Block) -> None:
        """Run a Python block in this process; names last from one block of a page to the next."""
        printed = io.StringIO()
        padded = "\n" * block.line + block.text  # so that a traceback names the line of the page
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(compile(padded, str(self.page), "exec"), self.names)
        self.printed = printed.getvalue()
        self.ran += 1

    def _compare(self, place: str, expected: str, printed: str, orders: dict[str, str]) -> None:
        if "example" in orders:
            self.skipped.append(
                f"{place}: its output is an example, of {orders['example']}, and not compared"
            )
            return
        want, got = expected.replace("…", "..."), printed
        if "figures" in orders:
            want, got = _without_figures(want), _without_figures(got)
        if not re.fullmatch(_pattern(want), f" {' '.join(got.split())} ", re.DOTALL):
            self.faults.append(f"{place}\nis said to print\n{want}\n\nbut prints\n{got}")


def _point(order: str | None) -> Point | None:
    if order is None:
        return None
    timestep, _, phase = order.partition(" ")
    return (int(timestep), phase, "before")


def _pattern(want: str) -> str:
    """An expression for what is expected: `...` is anything or nothing, white space is white space."""
    parts = [re.escape(part) for part in f" {' '.join(want.split())} ".split("...")]
    # A `...` between spaces may also stand for nothing, in which case one space is left.
    return (
        r"\ ?"
        + ".*".join(parts).replace(r"\ .*\ ", r"\ (?:.*\ )?").removeprefix(r"\ ").removesuffix(r"\ ")
        + r"\ ?"
    )


def _without_figures(text: str) -> str:
    return _BARS.sub("~", _NUMBER.sub("#", text))
