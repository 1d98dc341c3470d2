"""Pages whose text lies elsewhere in the repository; links between the two are made to fit."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from sphinx.application import Sphinx

PAGES = {
    "figures": "benchmarks/results/README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}
"""Page → the file of the repository that it shows; it holds nothing of its own."""
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the text of the other file in place, and point links at pages of the site where there are any."""
    root = Path(app.srcdir).parent
    shown = PAGES.get(page)
    text = (root / shown).read_text(encoding="utf-8") if shown else source[0]
    before = PurePosixPath(shown or f"docs/{page}").parent
    here = PurePosixPath("docs", page).parent

    def fitting(found: re.Match[str]) -> str:
        target = normpath(str(before / found[1]))
        for name, path in PAGES.items():
            if target == path:
                target = f"docs/{name}.md"
        return f"]({relpath(target, here)}"

    source[0] = _LINK.sub(fitting, text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
