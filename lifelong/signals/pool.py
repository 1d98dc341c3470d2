"""The signals of a timestep's samples, wherever they are kept, read by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.arrays import unit_rows
from stores.errors import StoreError
from stores.features import open_features
from stores.shards import Pick, Shard, ShardReader, array_names, read_array, read_shard

if TYPE_CHECKING:
    from lifelong.context import Context, Stores

MEASURED = "signals"
"""Kind of the shards that the measure phase commits."""

ALIGNMENT = "alignment"
VALIDATION = "validation"
"""Kind of the file with the validation set's vectors, and name of the signal."""

ORIGINS = "origins"
"""Kind of the file that says at which timestep each sample was measured, where that was not always the same."""


def trajectory_kind(checkpoint: int) -> str:
    """Kind of the shards that hold the alignment at one checkpoint of the last timestep's training."""
    return f"{ALIGNMENT}{checkpoint:02d}"


class PoolSignals:
    """Signals of the n samples that a timestep measured, rows in order of arrival.

    Beside what the model's passes gave: `ordinal`; `source`, its dataset as a number, (n,); `encoded`, the frozen
    encoder's features of image and text side by side, (n, 2d), unit rows; `nll_before`, the `nll` of the last
    timestep, (n,); `trajectory`, the alignment at each checkpoint of the last timestep's training, (n, T);
    `validation`, the mean vector of each task of the validation set, (tasks, d); whatever the frozen producers
    keep by content.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._origins = origins_of(context.stores, context.timestep)
        self.ordinals = self._origins.ordinals
        self._shards = reader_of(context.stores, self._origins, MEASURED)

    def column(self, name: str) -> np.ndarray:
        """A signal: (n,) or (n, …); one of many columns is memory-mapped where it is large."""
        if name == "ordinal":
            return self.ordinals
        if name == "source":
            return np.unique(self._of_pool("datasets").astype(str), return_inverse=True)[1]
        return np.asarray(self.matrix(name)) if self._kept_elsewhere(name) else self._shards.matrix(name)

    def read(self, names: Iterable[str], labels: np.ndarray) -> dict[str, np.ndarray]:
        """The signals that words ask for: `cluster` is (n,) labels, `vectors` the recipe's vectors."""
        found = {name: self.column(name) for name in sorted(set(names) - {"cluster", "vectors"})}
        if "cluster" in names:
            found["cluster"] = labels
        if "vectors" in names:
            found["vectors"] = self.matrix(str(self._context.method.vectors.signal))
        return found

    def matrix(self, name: str) -> np.ndarray:
        """A signal with many columns, (n, d), possibly memory-mapped."""
        if name == "encoded":
            image, text = (unit_rows(self._frozen(each)) for each in ("image_feature", "text_feature"))
            return unit_rows(np.concatenate([image, text], axis=1))
        if name == "trajectory":
            return self._trajectory()
        if name == VALIDATION:
            return self._context.arrays(VALIDATION)[VALIDATION]
        if name == "nll_before":
            return self._before("nll")
        if self._kept_elsewhere(name):
            return self._frozen(name)
        return self._shards.matrix(name)

    def _kept_elsewhere(self, name: str) -> bool:
        return (
            name in ("encoded", "trajectory", "nll_before", VALIDATION)
            or name in self._context.method.measures.frozen
        )

    def _frozen(self, name: str) -> np.ndarray:
        producer = next(each for each in self._context.producers() if name in each.signals)
        sample_ids = self._of_pool("sample_ids").astype(str).tolist()
        with open_features(self._context.features_folder) as features:
            return features.read(producer.name, sample_ids, name)

    def _before(self, name: str) -> np.ndarray:
        """(n,) float64: a measured signal as it was at the last timestep; NaN where it was not measured, or let go."""
        stores, last = self._context.stores, self._context.timestep - 1
        found = np.full(len(self.ordinals), np.nan)
        if last and complete(stores, last):
            origins = origins_of(stores, last)
            reader = reader_of(stores, origins, MEASURED)
            if all(name in array_names(stores.root / shard.path) for shard in reader.shards):
                known = np.isin(self.ordinals, origins.ordinals)
                places = np.searchsorted(origins.ordinals, self.ordinals[known])
                found[known] = reader.column(name)[places]
        return found

    def _of_pool(self, column: str) -> np.ndarray:
        pool = self._context.stores.pool.arrays()
        places = np.searchsorted(pool["ordinal"], self.ordinals)
        return pool[column][places]

    def _trajectory(self) -> np.ndarray:
        """(n, T) float32, NaN where the last timestep kept no checkpoint; T is 1 then."""
        # The checkpoints themselves are gone by now; what was measured at each of them is there.
        stores, origins = self._context.stores, self._origins
        kinds = {
            shard.kind
            for timestep in np.unique(origins.timesteps).tolist()
            for shard in stores.ledger.shards(timestep)
            if shard.kind.startswith(ALIGNMENT) and shard.rows
        }
        found = np.full((len(self.ordinals), max(len(kinds), 1)), np.nan, dtype=np.float32)
        for checkpoint in range(len(kinds)):
            reader = reader_of(stores, origins, trajectory_kind(checkpoint), some=True)
            places = np.searchsorted(self.ordinals, reader.column("ordinal"))
            found[places, checkpoint] = reader.column(ALIGNMENT)
        return found


@dataclass(frozen=True, slots=True)
class Origins:
    """At which timestep each of n samples was measured."""

    ordinals: np.ndarray  # (n,) int64, ascending
    timesteps: np.ndarray  # (n,) int32

    def of(self, ordinals: np.ndarray) -> Origins:
        """Of those among them whose ordinals are given."""
        rows = np.flatnonzero(np.isin(self.ordinals, ordinals))
        return Origins(self.ordinals[rows], self.timesteps[rows])


def origins_of(stores: Stores, timestep: int) -> Origins:
    """Where the signals of a timestep's samples are: as it recorded, or all of them in its own shards."""
    ledger = stores.ledger
    if any(record.kind == ORIGINS for record in ledger.files(timestep)):
        arrays = read_shard(ledger.file(timestep, ORIGINS))
        return Origins(arrays["ordinal"], arrays["timestep"])
    shards = [shard for shard in ledger.shards(timestep, MEASURED) if shard.rows]
    ordinals = ShardReader(stores.root, shards).column("ordinal")
    return Origins(ordinals, np.full(len(ordinals), timestep, dtype=np.int32))


def reader_of(stores: Stores, origins: Origins, kind: str, some: bool = False) -> ShardReader:
    """The shards of a kind that hold signals of samples, read as one, in the order of their ordinals.

    some: whether samples that no shard of the kind has may be left out. Raises: StoreError where they may not.
    """
    ledger, root = stores.ledger, stores.root
    timesteps = np.unique(origins.timesteps).tolist()
    shards = [shard for timestep in timesteps for shard in ledger.shards(timestep, kind) if shard.rows]
    if len(timesteps) == 1 and sum(shard.rows for shard in shards) == len(origins.ordinals):
        return ShardReader(root, shards)
    picks = [pick for shard in shards if len((pick := _pick(stores, origins, shard)).rows)]
    if some:
        held = np.sort(np.concatenate([pick.places for pick in picks] or [np.empty(0, np.int64)]))
        picks = [Pick(pick.shard, pick.rows, np.searchsorted(held, pick.places)) for pick in picks]
    elif (lost := len(origins.ordinals) - sum(len(pick.rows) for pick in picks)) > 0:
        raise StoreError(
            f"{root}: {kind} of {lost} samples, measured at timesteps {timesteps[0]} to {timesteps[-1]}, were let go, "
            "as `keep.signals` in the configuration said"
        )
    return ShardReader(root, [pick.shard for pick in picks], picks=picks)


def shards_in_use(stores: Stores, timestep: int) -> set[str]:
    """Paths of the shards of earlier timesteps that hold signals of samples which are live after `timestep`."""
    if not any(record.kind == ORIGINS for record in stores.ledger.files(timestep)):
        return set()
    origins = origins_of(stores, timestep).of(stores.pool.live())
    return {
        shard.path
        for earlier in np.unique(origins.timesteps).tolist()
        for shard in stores.ledger.shards(earlier)
        if is_signal(shard) and shard.rows and len(_pick(stores, origins, shard).rows)
    }


def complete(stores: Stores, timestep: int) -> bool:
    """Whether all that a timestep's samples were measured with is still on record."""
    record = stores.ledger.phase(timestep, "measure")
    if record is None:
        return False
    needed = {timestep}
    if record.result.get("carried"):
        needed |= set(range(timestep - max(map(int, record.result["ages"])), timestep))
    return all(_own_complete(stores, each) for each in needed)


def is_signal(shard: Shard) -> bool:
    """Whether a shard holds what the measure phase left."""
    return shard.kind == MEASURED or shard.kind.startswith(ALIGNMENT)


def _own_complete(stores: Stores, timestep: int) -> bool:
    record = stores.ledger.phase(timestep, "measure")
    rows = sum(shard.rows for shard in stores.ledger.shards(timestep, MEASURED))
    return record is not None and rows == record.result["measured"]


def _pick(stores: Stores, origins: Origins, shard: Shard) -> Pick:
    """The rows of a shard that are the signals of some of the samples."""
    held = read_array(stores.root / shard.path, "ordinal")
    places = np.minimum(np.searchsorted(origins.ordinals, held), len(origins.ordinals) - 1)
    rows = np.flatnonzero((origins.ordinals[places] == held) & (origins.timesteps[places] == shard.timestep))
    return Pick(shard, rows, places[rows])
