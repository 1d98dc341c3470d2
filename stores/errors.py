"""The errors of what lasts. Each message names the file, what it holds, and what to do."""

from __future__ import annotations


class StoreError(Exception):
    """Something on disk cannot be used as asked."""


class LockedError(StoreError):
    """Another process is writing to the run."""


class DamagedError(StoreError):
    """A committed file or the database is missing, altered, or of another version."""


class DiskError(StoreError):
    """The disk does not take what is written, or does not give what is read."""
