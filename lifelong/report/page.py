"""The page put together: what the sections gathered, the template, the style sheet and the scripts, in one file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.curves import FORMULAS, Curves
from lifelong.errors import InputError
from lifelong.report.accuracy import drawing, headlines, skill_rows
from lifelong.report.gather import gather

if TYPE_CHECKING:
    from lifelong.run import Run

LIMIT = 14_500_000
"""Bytes that a page may have; one that is larger is made again with half the samples and pictures."""
ASSETS = Path(__file__).parent / "assets"


def write_report(run: Run, out: Path, also: Mapping[str, Curves] | None = None) -> int:
    """Write the report of a run to a file, replacing one that is there; returns its bytes.

    also: label → curves of other runs, drawn beside this one's. The same run gives the same bytes.

    Raises:
        InputError: the packages of the extra `report` are not installed, or the file cannot be written.
        RunError: the run's database cannot be read.
    """
    share = 1.0
    while len(page := render(run, also or {}, share)) > LIMIT and share > 1 / 64:
        share /= 2
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(page)
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror}; name a file in a folder that is there"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(page)


def render(run: Run, also: Mapping[str, Curves], share: float = 1.0) -> bytes:
    """The page in UTF-8. share: of the samples and pictures that there is room for."""
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise InputError(
            f"the report needs the package {error.name!r}: pip install 'lifelong[report]'"
        ) from error
    name = run.root.resolve().name
    curves = run.skill_matrix()
    with run.reading() as stores:
        told, data = gather(stores, share)
    data["accuracy"] = drawing({name: curves, **also})
    scripts = {"plotly": get_plotlyjs(), "page": (ASSETS / "page.js").read_text(encoding="utf-8")}
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
        headlines=headlines(curves),
        skills=skill_rows(curves),
        formulas=FORMULAS,
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts.values()],
        data=_as_script(data),
        **told,
    )
    return page.encode("utf-8", errors="replace")


def _as_script(data: dict[str, Any]) -> str:
    """JSON that no text in it can end the script element of, or open another in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(script: str) -> str:
    """A script's name in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
