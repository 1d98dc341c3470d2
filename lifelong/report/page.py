"""The page put together: what the sections gathered, the template, the style sheet and the scripts, in one file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.account.curves import FORMULAS, Curves, curves_of
from lifelong.errors import InputError
from lifelong.report.accuracy import drawing, headlines, in_short, skill_rows
from lifelong.report.gather import Kind, Whole, gather
from stores.database import snapshot

if TYPE_CHECKING:
    from lifelong.run import Run

LIMIT = 14_500_000
"""Bytes that a page may have; one that is larger is made again with half the samples and pictures."""
ASSETS = Path(__file__).parent / "assets"
PIECES = ("base", "figures", "map", "page", "live", "start")
"""The pieces of the page's script, in order."""


def write_report(run: Run, out: Path, also: Mapping[str, Curves] | None = None) -> int:
    """Write the report of a run to a file, replacing one that is there; returns its bytes.

    also: label → curves of other runs, drawn beside this one's. The same run gives the same bytes.

    Raises:
        InputError: the packages of the extra `report` are not installed, or the file cannot be written.
        RunError: the run's database cannot be read.
    """
    kind = Whole()
    while len(page := render(run, also or {}, kind)) > LIMIT and kind.share > 1 / 64:
        kind.share /= 2
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(page)
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror}; name a file in a folder that can be written"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(page)


def scripts() -> dict[str, str]:
    """The page's scripts by name, in the order in which they run. Raises: InputError without plotly."""
    with _needed():
        from plotly.offline import get_plotlyjs
    pieces = [(ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in PIECES]
    return {"plotly": get_plotlyjs(), "page": "\n".join(['"use strict";\n(() => {', *pieces, "})();"])}


def render(run: Run, also: Mapping[str, Curves], kind: Kind) -> bytes:
    """The page in UTF-8. A served one links to its scripts and pictures."""
    with _needed():
        import jinja2
    name = run.root.resolve().name
    with run.reading() as stores, snapshot(stores.db):
        told, data = gather(stores, kind)
        curves = curves_of(stores)
    data["accuracy"] = drawing({name: curves, **also})
    data["live"] = told["now"] if kind.served else None
    inlined = {} if kind.served else scripts()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.jinja").render(
        name=name,
        also=list(also),
        curves=curves,
        in_short=in_short(curves),
        headlines=headlines(curves),
        skills=skill_rows(curves),
        formulas=FORMULAS,
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        served=kind.served,
        scripts=inlined,
        hashes=[_hash(script) for script in inlined.values()],
        data=_as_script(data),
        **told,
    )
    return page.encode("utf-8", errors="replace")


@contextmanager
def _needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"the report needs the package {error.name!r}: pip install 'lifelong[report]'"
        ) from error


def _as_script(data: dict[str, Any]) -> str:
    """JSON that no text in it can end the script element of, or open another in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(script: str) -> str:
    """A script's name in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
