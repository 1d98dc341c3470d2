"""Selecting beside the released algorithm: `python benchmarks/select.py --help`; the work is in selection.py."""

from __future__ import annotations

import os
import sys

# Of a script, the folder comes first in sys.path, and there this file hides the standard library's `select`
# from every script beside it. So the folder leaves the path, and who asked for `select` gets the real one.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != _HERE]

if __name__ == "select":
    import importlib

    del sys.modules["select"]
    sys.modules["select"] = importlib.import_module("select")

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(_HERE))
    from benchmarks.selection import main

    sys.exit(main())
