"""One hash that says whether two runs came out the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sqlite_utils import Database

from stores.commit import content_hash
from stores.errors import DamagedError
from stores.ledger import FileRecord, Ledger

DECISIONS = "decisions"
ADAPTER = "adapter"


def run_digest(db: Database, root: Path) -> str:
    """sha256 over decisions, adapter weights, evaluations, selected order, and what became of each sample.

    No clock, process id, path or machine enters it. Of an adapter only the weights do: its configuration says
    where the base model was. Raises: DamagedError if adapter weights are missing.
    """
    ledger = Ledger(db, root)
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update((repr(values) + "\n").encode())

    lasting: list[tuple[int, str, tuple[object, ...]]] = []
    for record in ledger.files():
        if record.kind == DECISIONS:
            lasting.append((record.timestep, record.kind, (record.committed.sha256,)))
        elif record.kind == ADAPTER:
            lasting.append((record.timestep, record.kind, tuple(weights_of(root, record))))
    lasting += [(gone.timestep, gone.kind, tuple(gone.weights)) for gone in ledger.released()]
    for timestep, kind, values in sorted(lasting, key=lambda each: each[:2]):
        add(kind, timestep, *values)
    for row in ledger.evaluations():
        add("evaluation", row.timestep, row.skill, row.metric, row.value, row.stderr, row.n)
    for row in db.execute("SELECT timestep, position, ordinal FROM selections ORDER BY timestep, position"):
        add("selection", *row)
    for row in db.execute("SELECT ordinal, sample_id, status, reason, changed FROM samples ORDER BY ordinal"):
        add("sample", *row)
    return digest.hexdigest()


def weights_of(root: Path, record: FileRecord) -> list[tuple[str, str]]:
    """(name, sha256) of each file of weights in an adapter's folder. Raises: DamagedError if there is none."""
    folder = root / record.committed.path
    weights = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*.safetensors"))
    if not weights:
        raise DamagedError(f"{folder} ({record.holds}) has no .safetensors file: restore it from a backup.")
    return [(name, content_hash(file)[0]) for name, file in weights]
