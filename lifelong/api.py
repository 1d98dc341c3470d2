"""What the commands without a run do, from Python: check a dataset, select from one, list the methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from lifelong.config import RunConfig
    from lifelong.oneshot.select import Selected
    from lifelong.progress import Progress


def check(
    dataset: str | Path, *, images: str | Path | None = None, format: str | None = None
) -> pd.DataFrame:
    """Every row of a dataset with its outcome (accepted, rejected, duplicate), the reason and the fix.

    images: folder that image names are relative to. format: told from the content if left out. A row of None is a
    fault of the whole file.

    Raises:
        InputError: there is no such dataset.
    """
    import pandas as pd

    from lifelong.formats import open_dataset
    from lifelong.formats.check import check as outcomes

    rows = outcomes(open_dataset(dataset, images=images, format=format))
    return pd.DataFrame(rows, columns=["file", "row", "outcome", "reason", "fix"])


def select(
    dataset: str | Path,
    out: str | Path,
    method: str | Path | dict[str, str],
    *,
    budget: str | int = "15%",
    model: str = "",
    seed: int = 0,
    config: RunConfig | dict[str, Any] | None = None,
    images: str | Path | None = None,
    format: str | None = None,
    progress: Progress | bool | None = None,
) -> Selected:
    """Write the part of a dataset that a recipe selects, in the dataset's own format, and every row's decision.

    method: a recipe's name, its file (.yaml) or its words. budget: a share (15%) or a number of rows. config: other
    settings.

    Raises:
        InputError: the dataset or the model cannot be read.
        UsageError: the recipe needs a model and none is named, or a setting is wrong.
    """
    from lifelong.config import parse_config
    from lifelong.oneshot.select import select as select_rows
    from lifelong.progress import as_asked
    from lifelong.recipes.files import read_recipe

    given = config.model_dump() if config is not None and not isinstance(config, dict) else dict(config or {})
    given |= {"recipe": read_recipe(method), "seed": seed}
    given["train"] = {**given.get("train", {}), "budget": str(budget)}
    if model:
        given["model"] = {**given.get("model", {}), "path": model}
    return select_rows(
        dataset, out, parse_config(given), images=images, format=format, progress=as_asked(progress)
    )


def diff(a: str, b: str) -> dict[str, Any]:
    """What differs between two timesteps or two runs: configuration, recipe, samples, routing, skills with p-values.

    a, b: RUN or RUN@T; b may be @T, another timestep of a's run.

    Raises:
        UsageError: one of them is no such timestep. RunError: there is no such run.
    """
    from lifelong.steer.diff import diff

    return diff(a, b)


def methods() -> dict[str, list[dict[str, Any]]]:
    """The recipes and the experts that are installed, with their papers, signals and passes."""
    from lifelong.recipes.catalogue import catalogue

    return catalogue()
