"""Processes of this machine, by loky: they need no guard in the caller's script, and one that is killed is told from one that fails."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from onnxprune.errors import OnnxPruneError
from onnxprune.spread.sent import Delivered, Sent, deliver

RETRIES = 3  # times that workers may be lost
IDLE = 60  # seconds after which a worker without work ends

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


def nobody(done: int) -> None:
    """Tell nobody."""


class Processes:
    """``workers`` processes of this machine, which stay for a while for the next work."""

    def __init__(self, workers: int):
        self.workers = workers

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yield (number of the item, result) as they come; raises what the work raises, OnnxPruneError where workers are killed."""
        for number, delivered in self._delivered(work, items):
            yield number, delivered.result

    def merged(self, work: Callable[[T], R], items: Sequence[T], tell: Callable[[int], None] = nobody) -> R:
        """Return all results merged as they come; a single item is worked on here."""
        if len(items) == 1:
            return work(items[0])
        whole: Any = None
        for done, (_, delivered) in enumerate(self._delivered(work, items), 1):
            if whole is None:
                whole = delivered.result
            else:
                whole.merge(delivered.result)
            tell(done)
        return whole

    def _delivered(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, Delivered]]:
        """Yield (number of the item, result) as they come; what was lost with a worker is done again."""
        sent, left, lost = Sent.of(work), deque(enumerate(items)), 0
        running: dict[Future[Delivered], tuple[int, T]] = {}
        try:
            while left or running:
                while left and len(running) <= self.workers:  # one waits, so that none is idle
                    number, item = left.popleft()
                    running[self._executor().submit(deliver, sent, item)] = number, item
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number, item = running.pop(future)
                    try:
                        found = future.result()
                    except BrokenProcessPool:
                        left.extendleft([*reversed(running.values()), (number, item)])
                        running.clear()
                        lost += 1
                        self._judge(lost)
                        break
                    yield number, found
        finally:
            if running:  # an error, or Ctrl-C: nobody waits for what is still worked on
                self._executor().shutdown(wait=False, kill_workers=True)

    def _executor(self) -> Any:
        from loky import get_reusable_executor

        return get_reusable_executor(max_workers=self.workers, timeout=IDLE, kill_workers=True)

    def _judge(self, lost: int) -> None:
        if lost > RETRIES:
            raise OnnxPruneError(
                f"worker processes were killed {lost} times, as by a machine that is short of memory; fewer of them take less "
                f"(--spread processes:{max(self.workers // 2, 1)})"
            )
        logger.warning("a worker process was killed; what it worked on is done again")
