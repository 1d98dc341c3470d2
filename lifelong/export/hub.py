"""Pushing to the Hub, when asked in so many words: an adapter, or a selection, with its card. Nothing is fetched."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lifelong.errors import InputError
from lifelong.export.card import CARD, What

if TYPE_CHECKING:
    from lifelong.handle import Handle

DATA = "data/train-00000-of-00001.parquet"
"""Where the Hub's viewer and `load_dataset` look for a dataset's rows."""


def push(
    run: Handle, repo: str, what: What = "model", *, timestep: int | None = None, private: bool = False
) -> str:
    """Upload a timestep's adapter, or a selection, to a repository of the Hub with its card; returns its address.

    repo: owner/name; it is made if need be. what: `model`, the adapter after `timestep` (default: the last one);
    `data`, the selection of `timestep`, or with None the live pool, in the format `trl`. The token is that of
    `hf auth login` or of HF_TOKEN; the address is HF_ENDPOINT's.

    Raises:
        InputError: there is nothing to push, or the hub refuses it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    with tempfile.TemporaryDirectory(prefix="lifelong-push-") as name:
        folder = Path(name) / "whole"
        fill(run, folder, what, timestep)
        api = HfApi()
        kind = "model" if what == "model" else "dataset"
        try:
            url = api.create_repo(repo, private=private or None, repo_type=kind, exist_ok=True)
            api.upload_folder(
                repo_id=url.repo_id,
                folder_path=folder,
                repo_type=kind,
                commit_message=f"lifelong run {run.root.name}",
            )
        except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(
                f"cannot push to {repo}: {first}; log in with `hf auth login`, and name a repository that you may write"
            ) from error
    return str(url)


def fill(run: Handle, folder: Path, what: What, timestep: int | None) -> None:
    """Put in a new folder what `push` uploads."""
    from lifelong.export.merge import adapter_of

    folder.mkdir(parents=True)
    if what == "model":
        with run.reading() as stores:
            timestep, adapter = adapter_of(stores, timestep)
        for path in adapter.iterdir():
            # The adapter's own README is peft's empty template.
            if path.name != CARD:
                shutil.copy2(path, folder / path.name)
    else:
        run.export(folder / DATA, "trl", timestep)
    (folder / CARD).write_text(run.card(what, timestep), encoding="utf-8")
