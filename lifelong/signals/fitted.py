"""What a fitted expert has learned: kept in the run at its first use, or in a folder that goes from run to run.

The folder holds the arrays (`fitted.safetensors`) and a card (`fitted.json`) that says what they were fitted on
and with which frozen producers; it is refused where the features come from other ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.config import SELECTOR, EncoderConfig, RunConfig
from lifelong.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from lifelong.context import Context
    from policies.scorers.base import FittedScorer
    from stores.commit import Committed

ARTEFACT = "fitted.safetensors"
"""Name of the file that holds a fitted expert in its artefact's folder."""
CARD = "fitted.json"


@dataclass(frozen=True, slots=True)
class Artefact:
    """A fitted expert in a folder: its arrays, and the card beside them."""

    folder: Path
    arrays: dict[str, np.ndarray]
    card: dict[str, Any]


def artefact_of(config: RunConfig, expert: str) -> Path | None:
    """The folder that the configuration names for an expert."""
    folder = config.experts.get(expert, {}).get(SELECTOR)
    return Path(str(folder)) if folder else None


def fitted_state(
    context: Context,
    name: str,
    scorer: FittedScorer,
    columns: dict[str, np.ndarray],
    files: list[tuple[str, Committed]],
) -> dict[str, np.ndarray]:
    """What an expert was fitted to: the artefact that the configuration names, or what this run fitted at first use.

    columns: the signals that it needs, of the samples at hand; fitted on here, it joins the phase's `files`.

    Raises:
        InputError: the artefact cannot be read, or is not for this expert and these producers.
    """
    from stores.shards import read_shard

    folder = artefact_of(context.config, name)
    if folder is not None:
        return _checked(read_artefact(folder), name, producers_of(context, scorer)).arrays
    kind = f"fitted-{name}"
    for record in context.stores.ledger.files():
        if record.kind == kind:
            return read_shard(context.stores.ledger.file(record.timestep, kind))
    fitted = scorer.fit(columns, context.rng("route", f"fit {name}"))
    context.progress.say(f"  {name} fitted: {scorer.describe(fitted)}")
    files.append((kind, context.commit_arrays(kind, fitted)))
    return fitted


def producers_of(context: Context, scorer: FittedScorer) -> list[str]:
    """Names of the frozen producers that an expert's signals come from."""
    return sorted(each.name for each in context.producers() if set(each.signals) & set(scorer.needs))


def write_artefact(folder: Path, arrays: dict[str, np.ndarray], card: dict[str, Any]) -> None:
    """Write a fitted expert; killed at any instant, this leaves the old one, the new one, or one that is refused."""
    import numpy as np
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    described = card | {"sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((ARTEFACT, data), (CARD, text.encode())):
        staged = folder / f".{name}.part-{secrets.token_hex(8)}"
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(folder / name)


def read_artefact(folder: Path) -> Artefact:
    """Raises: InputError if the folder holds no fitted expert, or one whose files do not belong together."""
    from safetensors.numpy import load

    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        data = (folder / ARTEFACT).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no fitted expert ({error}); make one with `lifelong ofa fit DATASET --out {folder}`"
        ) from error
    if not isinstance(card, dict) or card.get("sha256") != hashlib.sha256(data).hexdigest():
        raise InputError(f"{folder / ARTEFACT} is not the file that {CARD} describes: fit it again")
    return Artefact(folder, load(data), card)


def with_encoder_of_artefacts(config: RunConfig) -> RunConfig:
    """The configuration with the encoder that its fitted experts were fitted with, where it names none.

    Raises: InputError as `read_artefact`.
    """
    for expert in config.experts:
        folder = artefact_of(config, expert)
        if folder is not None and config.encoder.kind == "none":
            known = read_artefact(folder).card.get("encoder")
            if isinstance(known, dict):
                encoder = EncoderConfig.model_validate({**config.encoder.model_dump(), **known})
                config = config.model_copy(update={"encoder": encoder})
    return config


def _checked(artefact: Artefact, expert: str, producers: list[str]) -> Artefact:
    made_for, made_with = artefact.card.get("expert"), artefact.card.get("producers")
    if made_for != expert:
        raise InputError(f"{artefact.folder} was fitted for expert {made_for!r}, not for {expert!r}")
    if made_with != producers:
        raise InputError(
            f"{artefact.folder} was fitted on features of {_listed(made_with)}, and here they come from "
            f"{_listed(producers)}: configure the encoder that it was fitted with "
            f"({_encoder_settings(artefact.card)}), or fit it again"
        )
    return artefact


def _encoder_settings(card: dict[str, Any]) -> str:
    encoder = card.get("encoder") or {}
    return ", ".join(f"encoder.{name}={value}" for name, value in encoder.items())


def _listed(names: Any) -> str:
    return ", ".join(names) if isinstance(names, list) and names else "nothing that is known"
