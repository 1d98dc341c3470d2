"""What the study compares (study.py): its settings and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.study_base import BASES
from lifelong.demo.model import DEFAULTS

SETTINGS: dict[str, Any] = {
    "model": {"path": "model"},
    "lora": {**DEFAULTS["lora"], "rank": 64, "alpha": 128},
    "pool": {"keep": 2000},
    "measure": {"batch_size": 32, "trajectory": 2, "refresh": "stale(3)"},
    "train": {
        "epochs": 5,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "warmup": 0.05,
        "checkpoint_steps": 0,
    },
    "evaluate": {"batch_size": 40, "limit": 100},
    "encoder": {"kind": "conse", "cache": "features"},
    "rater": {"ratings": "ratings.jsonl"},
    "experts": {"ofa": {"k": 32}},
}
"""Of every run, as in config.yaml."""

BETWEEN = 25
"""Eval samples a skill at timesteps before the last; after it, `limit`."""

BASELINES = ("sequential", "random", "random-replay")
PUBLISHED = (
    "el2n", "perplexity", "grounding", "semdedup", "coincide", "scalselect", "ofa", "xmas", "mmssr", "adapt-inf",
)  # fmt: skip
MAIN = ("sequential", "random", "random-replay", "adapt-inf")
OURS = (
    "balanced-replay.yaml", "balanced-replay-75.yaml", "balanced-pool.yaml", "easy.yaml",
    "fresh.yaml", "faithful.yaml", "faithful-proportional.yaml", "fresh-mmssr.yaml", "trimmed.yaml",
    "trimmed-pool", "random-average.yaml", "replay-average.yaml", "balanced-average.yaml", "trimmed-average.yaml",
)  # fmt: skip
"""Attempts at a recipe of our own: files in recipes/."""
ELSEWHERE = ("prune-none.yaml", "trimmed-pool", "random-average.yaml", "balanced-pool.yaml", "adapt-average.yaml")
"""Of those that are as good as chance at 15 % in the stream's own order: whether they are so elsewhere."""


@dataclass(frozen=True, slots=True)
class Part:
    """A comparison, or some of one. file: of its results, shared by the parts that have its settings; family: what is
    compared in one table; stream: the folder of its stream; first: so many of its datasets, 0: all; between: eval
    samples a skill at timesteps before the last, 0: all."""

    recipes: tuple[str, ...]
    seeds: int = 3
    orders: int = 1
    budgets: tuple[str, ...] = ("15%",)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    file: str = "main"
    family: str = "main"
    stream: str = "stream"
    first: int = 0
    between: int = BETWEEN

    @property
    def asks_all(self) -> bool:
        """Whether its runs put all questions themselves after the last timestep."""
        return self.settings.get("evaluate", {}).get("limit") == 0


ABLATIONS = (
    "layer-first.yaml", "layer-all.yaml", "hidden.yaml", "encoded.yaml",
    "k-5.yaml", "k-20.yaml", "k-auto.yaml", "one-cluster.yaml",
    "router-reference.yaml", "router-published.yaml", "router-el2n.yaml", "router-random.yaml",
    "budget-proportional.yaml", "budget-spread.yaml", "budget-density.yaml",
    "sample-top.yaml", "sample-random.yaml", "start-base.yaml",
)  # fmt: skip
"""Of adapt-inf, one slot at a time: files in recipes/."""
PRUNERS = ("prune-none.yaml", "prune-random.yaml", "prune-source.yaml", "prune-random-source.yaml")
"""Of adapt-inf, the last slot."""

GPU: dict[str, Any] = {
    "model": {"path": BASES["smollm2"].folder, "device": "cuda"},
    "pool": {"keep": 0},
    "measure": {"batch_size": 64, "trajectory": 0, "refresh": "new"},
    "train": {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3},
    "evaluate": {"batch_size": 128, "limit": 0},
    "encoder": {"kind": "none", "cache": ""},
}
"""Of the runs on a GPU, where they differ; all questions are asked at once."""
SPOILED: dict[str, Any] = {"pool": {"keep": 0}, "rater": {"ratings": "spoiled/ratings.jsonl"}}

PARTS = {
    # Chance with as small a pool as adapt-inf has: what the pool costs, and what the choice.
    "small-pool": Part(("random", "random-small-pool.yaml")),
    # Full data, once: at its end for a third more steps than the others take in all.
    "multitask": Part(("multitask",), seeds=1, settings={"train": {"epochs": 1}}, file="multitask"),
    # What may be as good as chance or better, first: what is clearly worse needs no third seed to say so.
    "contenders": Part(
        (
            "random", "random-replay", "mmssr", "xmas", "balanced-pool.yaml", "fresh.yaml", "faithful.yaml",
            "faithful-proportional.yaml", "fresh-mmssr.yaml", "adapt-inf", *PRUNERS, "sample-random.yaml",
        ),
    ),
    # Whether a mean of weights does more than smaller steps do.
    "average": Part(
        (
            "random", "random-replay", "random-average.yaml", "replay-average.yaml", "balanced-average.yaml",
            "trimmed-average.yaml", "adapt-average.yaml", "sequential-average.yaml",
        ),
    ),
    # Cheap recipes with seeds enough to tell a point.
    "average-five": Part(("random", "random-average.yaml", "balanced-pool.yaml", "balanced-average.yaml"), seeds=5),
    "half-rate": Part(("random", "sequential"), settings={"train": {"learning_rate": 5e-4}}, file="half-rate"),
    # What a timestep keeps, where a search decides it; on a short stream, too, where a mean has little to forgive.
    "search": Part(("random", "random-average.yaml", "random-search.yaml", "adapt-average.yaml", "adapt-search.yaml")),
    "search-five": Part(("random", "random-average.yaml", "random-search.yaml"), seeds=5),
    "short": Part(
        (
            "random", "random-average.yaml", "random-search.yaml",
            "adapt-inf", "adapt-average.yaml", "adapt-search.yaml",
        ),
        settings={"pool": {"keep": 0}, "evaluate": {"limit": 0}},
        file="short",
        family="short",
        first=3,
    ),
    # Half of the budget for what has just arrived: what the default gives it is its share of a pool that grows.
    "replay": Part(("random", "random-replay", "adapt-average.yaml", "replay-average.yaml", "adapt-replay.yaml")),
    # What is forgotten, without the noise of 25 questions: all are asked after every timestep.
    "every": Part(
        ("sequential", "random", "adapt-average.yaml", "random-average.yaml", "prune-none.yaml"),
        settings={"evaluate": {"limit": 0}},
        file="every",
        family="every",
        between=0,
    ),
    # What the ablations say costs adapt-inf something, left out of the default.
    "clusters": Part(
        ("random", "adapt-average.yaml", "proportional-average.yaml", "one-cluster-average.yaml"),
    ),
    # With smaller steps: whether a mean of adapters then costs what it forgives.
    "third-rate": Part(
        ("random", "random-average.yaml"), settings={"train": {"learning_rate": 3e-4}}, file="third-rate"
    ),
    "tenth-rate": Part(
        ("random", "random-average.yaml"), settings={"train": {"learning_rate": 1e-4}}, file="tenth-rate"
    ),
    "trimmed": Part(("random", "trimmed-pool", "trimmed.yaml", "trimmed-ifd.yaml", "ifd")),
    "main": Part((*BASELINES, *PUBLISHED, *OURS)),
    "orders": Part((*BASELINES, *PUBLISHED, *ELSEWHERE), orders=2),
    "five": Part(MAIN, seeds=5, orders=2),
    # Nothing pruned, as by default: a pool of 2,000 costs so much that other slots do not show beside it.
    "ablations": Part(
        ("adapt-inf", *ABLATIONS),
        settings={"pool": {"keep": 0}, "evaluate": {"limit": 0}},
        file="unpruned",
        family="unpruned",
    ),
    "pruners": Part(("adapt-inf", *PRUNERS)),
    # What the current model says of every sample at every timestep; progress cannot be told otherwise.
    "fresh": Part(
        ("progress-replay.yaml", "adapt-inf", "el2n"),
        settings={"measure": {"refresh": "all"}},
        file="fresh",
    ),
    "pool-1000": Part(("adapt-inf",), settings={"pool": {"keep": 1000}}, file="pool-1000"),
    "pool-5000": Part(("adapt-inf",), settings={"pool": {"keep": 5000}}, file="pool-5000"),
    "new-only": Part(("adapt-inf",), settings={"measure": {"refresh": "new"}}, file="new-only"),
    "budget-5": Part((*BASELINES, *PUBLISHED, *ELSEWHERE), budgets=("5%",)),
    "budget-30": Part((*BASELINES, *PUBLISHED, *ELSEWHERE), budgets=("30%",)),
    # Nothing pruned; what each recipe took of what repeats and of what is wrong: `counts`.
    "spoiled": Part(
        (
            "random", "trimmed-pool", "balanced-pool.yaml", "trimmed.yaml", "adapt-inf", "mmssr", "trimmed-ifd.yaml",
            "ifd",
        ),
        settings=SPOILED,
        file="spoiled",
        family="spoiled",
        stream="spoiled",
    ),
    "spoiled-others": Part(
        (
            "random-replay", "faithful.yaml", "coincide", "semdedup", "xmas", "el2n", "perplexity", "ccs", "easy.yaml",
            "tidy.yaml",
        ),
        settings=SPOILED,
        file="spoiled",
        family="spoiled",
        stream="spoiled",
    ),
    "spoiled-average": Part(
        (
            "trimmed-average.yaml", "balanced-average.yaml", "random-average.yaml", "adapt-average.yaml",
            "random-search.yaml", "trimmed-search.yaml", "adapt-search.yaml",
        ),
        settings=SPOILED,
        file="spoiled",
        family="spoiled",
        stream="spoiled",
    ),
    # A pretrained language model of 135M, on a GPU, without the dearest experts (OFA and XMAS).
    "smollm2": Part(
        ("random", "adapt-inf", "mmssr", "sequential", "random-replay", "coincide", "el2n", "balanced-pool.yaml"),
        seeds=2,
        settings=GPU,
        file="smollm2",
        family="smollm2",
    ),
    "smollm2-multitask": Part(
        ("multitask",),
        seeds=1,
        settings=GPU | {"train": GPU["train"] | {"epochs": 1, "batch_size": 32}},
        file="smollm2-multitask",
        family="smollm2",
    ),
    "spoiled-multitask": Part(
        ("multitask",),
        seeds=1,
        settings=SPOILED | {"train": {"epochs": 1}},
        file="spoiled-multitask",
        family="spoiled",
        stream="spoiled",
    ),
}
