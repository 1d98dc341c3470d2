"""The database's schema, as numbered steps that are never edited once released: add a new one instead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. since: first version of the package that has it; sql: statements, run in one transaction."""

    number: int
    name: str
    since: str
    sql: str


# `samples` is narrow and `contents` wide, so that a scan over a million samples reads no conversation.
# A pruned sample keeps its row (its tombstone), so an exact copy that arrives later is recognised.
_FIRST_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE datasets (
    name TEXT PRIMARY KEY, timestep INTEGER NOT NULL, skill TEXT NOT NULL, format TEXT NOT NULL,
    source TEXT NOT NULL, digest TEXT NOT NULL, rows INTEGER NOT NULL, accepted INTEGER NOT NULL,
    rejected INTEGER NOT NULL, duplicates INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE samples (
    ordinal INTEGER PRIMARY KEY, sample_id TEXT NOT NULL UNIQUE, dataset TEXT NOT NULL, source_id TEXT,
    file TEXT NOT NULL, "row" INTEGER, skill TEXT NOT NULL, arrived INTEGER NOT NULL,
    text_chars INTEGER NOT NULL, n_images INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('live', 'pruned', 'quarantined')), reason TEXT NOT NULL,
    changed INTEGER NOT NULL
);
CREATE INDEX samples_dataset ON samples (dataset);
CREATE INDEX samples_status ON samples (status);
CREATE INDEX samples_arrived ON samples (arrived);
CREATE INDEX samples_source_id ON samples (source_id);
CREATE TABLE contents (
    ordinal INTEGER PRIMARY KEY REFERENCES samples (ordinal), messages TEXT NOT NULL, images TEXT NOT NULL
);
CREATE TABLE refusals (
    timestep INTEGER NOT NULL, dataset TEXT NOT NULL, file TEXT NOT NULL, "row" INTEGER, source_id TEXT,
    outcome TEXT NOT NULL CHECK (outcome IN ('rejected', 'duplicate')), reason TEXT NOT NULL,
    fix TEXT NOT NULL, "of" TEXT
);
CREATE INDEX refusals_timestep ON refusals (timestep, dataset);
CREATE INDEX refusals_outcome ON refusals (outcome);
CREATE TABLE media (
    sha256 TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('packed', 'referenced')), path TEXT NOT NULL,
    "offset" INTEGER NOT NULL, length INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE skills (
    name TEXT PRIMARY KEY, dataset TEXT NOT NULL, metric TEXT NOT NULL, timestep INTEGER,
    position INTEGER NOT NULL UNIQUE
) WITHOUT ROWID;
CREATE TABLE evals (
    skill TEXT NOT NULL REFERENCES skills (name), ordinal INTEGER NOT NULL, sample_id TEXT NOT NULL,
    messages TEXT NOT NULL, images TEXT NOT NULL, reference TEXT NOT NULL, PRIMARY KEY (skill, ordinal)
);
CREATE TABLE phases (
    timestep INTEGER NOT NULL, phase TEXT NOT NULL, seed TEXT NOT NULL, result TEXT NOT NULL,
    seconds REAL NOT NULL, PRIMARY KEY (timestep, phase)
);
CREATE TABLE shards (
    timestep INTEGER NOT NULL, kind TEXT NOT NULL, position INTEGER NOT NULL, path TEXT NOT NULL,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (timestep, kind, position)
) WITHOUT ROWID;
CREATE TABLE files (
    path TEXT PRIMARY KEY, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, timestep INTEGER NOT NULL,
    phase TEXT NOT NULL, kind TEXT NOT NULL, UNIQUE (timestep, kind)
);
CREATE TABLE evaluations (
    timestep INTEGER NOT NULL, skill TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL, stderr REAL,
    n INTEGER NOT NULL, PRIMARY KEY (timestep, skill)
) WITHOUT ROWID;
CREATE TABLE selections (
    timestep INTEGER NOT NULL, position INTEGER NOT NULL,
    ordinal INTEGER NOT NULL REFERENCES samples (ordinal), PRIMARY KEY (timestep, position)
) WITHOUT ROWID;
CREATE INDEX selections_ordinal ON selections (ordinal);
"""

# A seal is a checksum of a table's rows (stores/seals.py). What `keep` lets go leaves the hashes of its weights behind,
# so that the run's digest stays what it was.
_SEALS = """
CREATE TABLE seals (name TEXT PRIMARY KEY, seal INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE released (
    timestep INTEGER NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL, weights TEXT NOT NULL, PRIMARY KEY (timestep, kind)
) WITHOUT ROWID;
"""

# What each phase ran under, a JSON object (lifelong/environment.py); empty for phases that were committed before.
_ENVIRONMENTS = "ALTER TABLE phases ADD COLUMN environment TEXT NOT NULL DEFAULT '{}';"

MIGRATIONS_TABLE = (
    "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, since TEXT NOT NULL)"
)
"""What every database has from its first migration on: which ones were applied."""

# Tokens of a sample as the model's processor makes them: what its batch mates are chosen by.
_LENGTHS = """
CREATE TABLE lengths (ordinal INTEGER PRIMARY KEY REFERENCES samples (ordinal), tokens INTEGER NOT NULL);
"""

# Seconds that the stores took of each phase's (stores/clock.py); 0 for phases that were committed before.
_KEPT = "ALTER TABLE phases ADD COLUMN kept REAL NOT NULL DEFAULT 0;"

# Steering: rows of timesteps that were taken back, kept until `gc` (stores/undo.py); what was done to the run, which
# is never taken back; samples that must not come back; what each timestep was foretold to take.
_STEERING = """
CREATE TABLE undone (
    number INTEGER PRIMARY KEY, event INTEGER NOT NULL, "table" TEXT NOT NULL,
    change TEXT NOT NULL CHECK (change IN ('removed', 'altered')), was TEXT NOT NULL
);
CREATE INDEX undone_event ON undone (event);
CREATE TABLE events (number INTEGER PRIMARY KEY, timestep INTEGER NOT NULL, kind TEXT NOT NULL, told TEXT NOT NULL);
CREATE TABLE retired (
    sample_id TEXT PRIMARY KEY, reason TEXT NOT NULL, timestep INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE forecasts (timestep INTEGER PRIMARY KEY, seconds TEXT NOT NULL);
"""

# When each phase was committed and each thing was done, in UTC; empty for what was before.
_DATES = """
ALTER TABLE phases ADD COLUMN finished TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN at TEXT NOT NULL DEFAULT '';
"""

MIGRATIONS = (
    Migration(1, "first schema", "0.1.0", _FIRST_SCHEMA),
    Migration(2, "seals and released files", "0.1.0", _SEALS),
    Migration(3, "environments of phases", "0.1.0", _ENVIRONMENTS),
    Migration(4, "lengths of samples", "0.1.0", _LENGTHS),
    Migration(5, "seconds of keeping", "0.1.0", _KEPT),
    Migration(6, "steering", "0.1.0", _STEERING),
    Migration(7, "dates", "0.1.0", _DATES),
)
