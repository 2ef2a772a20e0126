"""Reading beside working: the next piece of what is large is made by a second thread while the last one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def made_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the same items in the same order, each made while the one before it is used; errors are raised where they stand."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = worker.submit(next, source, end)
            yield item  # type: ignore[misc]
