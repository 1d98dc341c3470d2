"""Fit OFA's selector on a dataset and save it, for any other dataset and any other model's run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifelong.config import RunConfig
from lifelong.oneshot.select import run_phases, scratch
from lifelong.progress import Progress
from lifelong.signals.fitted import artefact_of, producers_of, write_artefact

if TYPE_CHECKING:
    import numpy as np

EXPERT = "ofa"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` wrote: where, from how many samples, and in words what came of it."""

    out: Path
    samples: int
    summary: str


def fit(
    dataset: str | Path,
    out: str | Path,
    config: RunConfig,
    *,
    images: str | Path | None = None,
    format: str | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit a selector to every sample of a dataset that can be used, and write it to the folder `out`.

    config: encoder, seed, and experts.ofa for the settings of `policies.scorers.ofa.Settings`. The same
    dataset, settings and seed give the same files, whatever their place.

    Raises:
        InputError: the dataset or the encoder cannot be read.
        UsageError: no encoder is configured, or an option of the expert is wrong.
    """
    from policies.scorers.base import FittedScorer

    config = config.model_copy(update={"recipe": EXPERT})
    if artefact_of(config, EXPERT):
        # A selector that is there already must not stand in for the one that is asked for.
        options = {name: value for name, value in config.experts[EXPERT].items() if name != "selector"}
        config = config.model_copy(update={"experts": config.experts | {EXPERT: options}})
    with scratch(dataset, config, images=images, format=format, progress=progress) as context:
        run_phases(context, ("ingest", "measure"))
        scorer = context.method.scorers[EXPERT]
        assert isinstance(scorer, FittedScorer)
        signals = context.signals()
        columns: dict[str, np.ndarray] = {name: signals.column(name) for name in scorer.needs}
        arrays = scorer.fit(columns, context.rng("route", f"fit {EXPERT}"))
        card: dict[str, Any] = {
            "expert": EXPERT,
            "dataset": Path(dataset).name,
            "samples": len(signals.ordinals),
            "seed": config.seed,
            "producers": producers_of(context, scorer),
            "encoder": _encoder_settings(config),
            "settings": asdict(scorer),
            "learning_rate": float(arrays["learning_rate"][0]),
            "macro_accuracy": float(arrays["macro_accuracy"][int(arrays["epoch"][0]) - 1]),
            "epoch": int(arrays["epoch"][0]),
            "clusters": len(arrays["centroids"]),
        }
    write_artefact(Path(out), arrays, card)
    return Fitted(Path(out), card["samples"], scorer.describe(arrays))


def _encoder_settings(config: RunConfig) -> dict[str, str]:
    """What to set of the encoder to have the same again."""
    kind, path = config.encoder.kind, config.encoder.path
    return {"kind": kind} if kind == "conse" else {"kind": kind, "path": path}
