"""One thread for arithmetic whose last bits would follow the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, BLAS and OpenMP (numpy's, faiss's, torch's) use one thread; afterwards as many as before.

    A matrix product is cut up by the number of threads, and its last bits differ: enough to tip a sample
    from one cluster to another, or to make another sample its nearest.
    """
    import faiss  # noqa: F401  # its libraries are limited only once they are loaded
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
