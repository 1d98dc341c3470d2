"""Keep a vision-language model learning for as long as new instruction datasets are released.

`from lifelong import Run`: create a run, feed it datasets one after another, read its curves.
`lifelong.check`, `lifelong.select` and `lifelong.methods` do what the commands of these names do, without a run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lifelong.api import check, diff, methods, select
    from lifelong.callbacks import Callback
    from lifelong.run import Run

__version__ = "0.1.0.dev0"
__all__ = ["Callback", "Run", "__version__", "check", "diff", "methods", "select"]

_PLACES = {
    "Callback": "lifelong.callbacks",
    "Run": "lifelong.run",
    "check": "lifelong.api",
    "diff": "lifelong.api",
    "methods": "lifelong.api",
    "select": "lifelong.api",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `lifelong --help` does not pay for importing torch.
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'lifelong' has no attribute {name!r}")
