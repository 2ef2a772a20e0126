"""Ways to share work out within one process, for tests of what must not change with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import cloudpickle


class Shuffled:
    """Works on the items in an order of its own, every one with a copy of the work that was sent; ``executor``: with threads."""

    workers = 3

    def __init__(
        self,
        order: Callable[[Sequence[Any]], list[Any]] = lambda items: list(items)[::-1],
        executor: Executor | None = None,
    ):
        self.order, self.executor = order, executor
        self.calls = 0

    def each(self, work: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        yield from self._found(work, items)

    def merged(self, work: Any, items: Sequence[Any], tell: Callable[[int], None] = lambda done: None) -> Any:
        (_, whole), *others = self._found(work, items)
        for _, found in others:
            whole.merge(found)
        tell(len(items))
        return whole

    def _found(self, work: Any, items: Sequence[Any]) -> list[tuple[int, Any]]:
        content = cloudpickle.dumps(work)

        def call(entry: tuple[int, Any]) -> tuple[int, Any]:
            self.calls += 1
            found = cloudpickle.loads(content)(entry[1])
            return entry[0], cloudpickle.loads(cloudpickle.dumps(found))

        run = map if self.executor is None else self.executor.map
        return list(run(call, self.order(list(enumerate(items)))))


@contextmanager
def threads() -> Iterator[Shuffled]:
    with ThreadPoolExecutor(3) as pool:
        yield Shuffled(executor=pool)
