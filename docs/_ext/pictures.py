"""Puts the SVG pictures into the page itself, where they follow the site's switch between light and dark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_IMAGE = re.compile(r'<img alt="([^"]*)"[^>]*src="[^"]*_images/([\w-]+\.svg)"[^>]*/>')


def inline(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Replace the images of pictures/ by their content, described by their alternative text."""

    def picture(found: re.Match[str]) -> str:
        source = Path(app.srcdir, "pictures", found[2]).read_text(encoding="utf-8")
        return source.replace("<svg ", f'<svg role="img" aria-label="{found[1]}" ', 1)

    if "body" in context:
        context["body"] = _IMAGE.sub(picture, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", inline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
