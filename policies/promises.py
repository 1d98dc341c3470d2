"""What the answer of a word must be. A word may be anybody's, and a slip in it must not pass for a choice.

Each function takes what a word returned and gives it back in its plain form. Raises: PolicyError that says what was
returned and what is wanted; whoever asked the word says which one it was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from policies.allocators import All, Allocator
from policies.candidates import Group
from policies.clusterers import Clusters
from policies.errors import PolicyError
from policies.pruners import NoPruning, Pruned, Pruner
from policies.routers import Routing

CHANCE = "random"
"""What a router may choose beside its scorers."""


def scores(found: Any, n: int) -> np.ndarray:
    """(n,) float64, one score for each of n samples."""
    array = np.asarray(found)
    if array.shape != (n,) or array.dtype.kind not in "fiub":
        raise PolicyError(f"returned {_told(found)}; want {n} scores, one for each sample: (n,) float64")
    return array.astype(np.float64)


def clusters(found: Any, n: int) -> Clusters:
    """Labels (n,) int32 of which none between 0 and the highest is missing, and (k, d) centroids or None."""
    if not isinstance(found, Clusters):
        raise PolicyError(f"returned {_told(found)}; want policies.clusterers.Clusters")
    labels = np.asarray(found.labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise PolicyError(f"returned labels {_told(labels)}; want {n} integers, one for each sample")
    used = np.unique(labels)
    if not np.array_equal(used, np.arange(len(used))):
        raise PolicyError(
            f"returned the labels {_some(used)}; want 0 to k - 1 with none left out: "
            "np.unique(labels, return_inverse=True)[1]"
        )
    if found.centroids is not None and np.shape(found.centroids)[:-1] != (len(used),):
        raise PolicyError(
            f"returned centroids {_told(found.centroids)}; want one for each of {len(used)} clusters"
        )
    tried = {int(k): float(value) for k, value in found.tried.items()}
    return Clusters(labels.astype(np.int32), found.centroids, float(found.objective), tried)


def routing(found: Any, labels: np.ndarray, scorers: Collection[str]) -> Routing:
    """A choice for each cluster of `labels`, (n,), among the scorers that gave scores, or chance."""
    if not isinstance(found, Routing):
        raise PolicyError(f"returned {_told(found)}; want policies.routers.Routing")
    choice = {int(cluster): name for cluster, name in found.choice.items()}
    for cluster in np.unique(labels).tolist():
        if choice.get(cluster) not in (*scorers, CHANCE):
            raise PolicyError(
                f"chose {choice.get(cluster)!r} for cluster {cluster}; want one of "
                f"{', '.join(dict.fromkeys([*scorers, CHANCE]))}"
            )
    values = {
        int(cluster): {name: float(value) for name, value in compared.items()}
        for cluster, compared in found.values.items()
    }
    return Routing(choice, values, tuple(found.notes))


def groups(found: Sequence[Group], n: int, budget: int) -> list[Group]:
    """Disjoint groups of n samples whose budgets are, in all, the budget, or all samples that the groups have."""
    held = np.zeros(n, dtype=int)
    for group in found:
        mask = np.asarray(group.mask)
        if mask.shape != (n,) or mask.dtype != bool:
            raise PolicyError(f"group {group.name!r} has the mask {_told(mask)}; want ({n},) bool")
        held += mask
    if (held > 1).any():
        raise PolicyError(
            f"has {np.count_nonzero(held > 1)} samples in more than one group; want them in one"
        )
    asked, wanted = sum(group.budget for group in found), min(budget, np.count_nonzero(held))
    if asked != wanted:
        raise PolicyError(f"gives its groups {asked} samples of the budget; want {wanted} in all")
    return list(found)


def quotas(found: Any, sizes: np.ndarray, budget: int, by: Allocator) -> list[int]:
    """One for each cluster, 0 to its size, together the budget, or all samples where those are fewer.

    Only `All` and what is made of it may give all samples whatever the budget.
    """
    array = np.asarray(found)
    if array.shape != sizes.shape or array.dtype.kind not in "fiu" or (array != np.rint(array)).any():
        raise PolicyError(f"returned {_told(found)}; want {len(sizes)} whole numbers, one for each cluster")
    whole = array.astype(np.int64)
    if (whole < 0).any() or (whole > sizes).any():
        raise PolicyError(
            f"gives clusters of {_some(sizes)} samples {_some(whole)}; want 0 to the size of each"
        )
    wanted = min(budget, int(sizes.sum()))
    if whole.sum() != wanted and not isinstance(by, All):
        raise PolicyError(f"gives the clusters {whole.sum()} samples in all; the budget is {wanted}")
    return [int(quota) for quota in whole]


def picks(found: Any, n: int, budget: int) -> np.ndarray:
    """(min(budget, n),) int64, distinct indices of n samples in order of rank."""
    array = np.asarray(found)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise PolicyError(f"returned {_told(found)}; want the indices of what it picks: (budget,) int64")
    wanted = min(budget, n)
    if len(array) != wanted:
        raise PolicyError(f"picked {len(array)} of {n} samples; want {wanted}, the budget that it was given")
    if len(array) and (array.min() < 0 or array.max() >= n):
        raise PolicyError(f"picked the samples {_some(array)}; there are 0 to {n - 1}")
    if len(np.unique(array)) < len(array):
        raise PolicyError(f"picked the samples {_some(array)}, some of them twice; want each once")
    return array.astype(np.int64)


def strata(found: Any, n: int) -> np.ndarray | None:
    """(n,) int32, or None."""
    if found is None:
        return None
    array = np.asarray(found)
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise PolicyError(f"returned strata {_told(found)}; want {n} integers, one for each sample, or None")
    return array.astype(np.int32)


def pruned(found: Any, n: int, keep: int, by: Pruner) -> Pruned:
    """Of n samples at least one is kept, and at most `keep` unless nothing is to be pruned; neighbours are rows."""
    if not isinstance(found, Pruned):
        raise PolicyError(f"returned {_told(found)}; want policies.pruners.Pruned")
    kept, neighbour, similarity = map(np.asarray, (found.kept, found.neighbour, found.similarity))
    if kept.shape != (n,) or kept.dtype != bool:
        raise PolicyError(f"returned as kept {_told(kept)}; want ({n},) bool")
    if neighbour.shape != (n,) or neighbour.dtype.kind not in "iu" or similarity.shape != (n,):
        raise PolicyError(
            f"returned neighbours {_told(neighbour)} and similarities {_told(similarity)}; want ({n},) int64, ({n},) "
            "float32"
        )
    if n and (neighbour.min() < -1 or neighbour.max() >= n):
        raise PolicyError(
            f"returned neighbours {neighbour.min()} to {neighbour.max()}; rows are 0 to {n - 1}, -1 none"
        )
    if n and not kept.any():
        raise PolicyError(
            f"keeps none of {n} samples, and what is pruned is gone for good; keep one at least"
        )
    if np.count_nonzero(kept) > keep and not isinstance(by, NoPruning):
        raise PolicyError(f"keeps {np.count_nonzero(kept)} samples; there is room for {keep}")
    return Pruned(kept, neighbour.astype(np.int64), similarity.astype(np.float32))


def weights(found: Any) -> tuple[float, ...]:
    """At least one share of the trained weights, in [0, 1], ascending."""
    values = tuple(map(float, found))
    if not values or not all(0 <= value <= 1 for value in values) or list(values) != sorted(values):
        raise PolicyError(f"returned the weights {found}; want one or more in [0, 1], ascending")
    return values


def _told(found: Any) -> str:
    """An array by shape and type, anything else by its type."""
    if isinstance(found, np.ndarray):
        return f"{found.shape} {found.dtype}"
    return (
        f"{len(found)} values in a {type(found).__name__}"
        if isinstance(found, list | tuple)
        else repr(found)[:80]
    )


def _some(values: np.ndarray, most: int = 8) -> str:
    shown = ", ".join(map(str, values[:most].tolist()))
    return f"{shown}, …" if len(values) > most else shown
