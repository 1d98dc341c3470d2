"""Runs the commands of the documentation: the process of tests/runs/child.py, in a page's folder.

`lifelong` takes seconds to import and a command on a tiny model less than one, so one process forks for each.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tests.docs.standins import SMALL_DEMO
from tests.runs import child


def prepare(request: dict[str, Any]) -> None:
    """Do in a child, before its command, what the request asks for."""
    from lifelong.demo import data

    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.path[:0] = request["path"]
    data.SIZES.update(SMALL_DEMO)
    child.prepare(request)


class DocumentedCommands(child.Children):
    """What a test sees of the process that forks."""

    def start_in(self, arguments: list[str], **where: Any) -> int:
        """Start `lifelong arguments…`; where: folder, environment, path, at, do. Returns its process id."""
        return int(self._ask({"arguments": arguments, "at": None, "do": "kill", **where}))


if __name__ == "__main__":
    child.serve(prepare)
