"""One BLAS thread while stages run, however many runs overlap in one process, and as many as before once none does."""

from __future__ import annotations

from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController


class OneBlasThread:
    """A context that runs of several threads may be in at once; the first to come sets the limit, the last to go lifts it.

    On many small products BLAS threads wait for each other longer than they work, on busy cores ten times as long.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before: dict[str, tuple[Any, int]] = {}  # library -> (its controller, its number of threads)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            for library in ThreadpoolController().select(user_api="blas").lib_controllers:
                if library.filepath not in self._before:
                    self._before[library.filepath] = library, library.num_threads
                    library.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for library, threads in self._before.values():
                    library.set_num_threads(threads)
                self._before.clear()


def load_blas() -> None:
    """Load what works on data, whose threads can only be limited once it is there: scipy has a BLAS of its own."""
    import scipy.linalg  # noqa: F401


one_blas_thread = OneBlasThread()
"""The one that all runs share, as they share the libraries."""
