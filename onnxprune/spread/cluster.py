"""The workers of a Dask scheduler: results are merged where they are, and what is lost with a worker is computed again elsewhere."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar
from uuid import uuid4

from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.spread.processes import nobody
from onnxprune.spread.sent import Sent, arrived, deliver, joined_deliveries

CONNECT, WORKERS = 10, 60
"""Seconds to wait for the scheduler, and for the first worker."""
SOONER = 1  # priority of what can be done with results that are there, before further ones are worked on
TOGETHER = 4  # results that one piece of work merges
RETRIES = 2  # times that an item that failed is tried again

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


def sent_on(sent: Sent) -> Sent:
    """Return what is sent: as a task of its own it goes to every worker once, and is there again where one is lost."""
    return sent


class Cluster:
    """The workers of the scheduler at ``address``, HOST:PORT."""

    def __init__(self, address: str):
        self.address = address

    @property
    def workers(self) -> int:
        """How many threads the workers have together; waits for the first of them. Raises UsageError where there is none."""
        with self._told():
            try:
                self._client.wait_for_workers(1, timeout=WORKERS)
            except TimeoutError as error:
                raise UsageError(
                    f"the scheduler at {self.address} has no worker; start some with 'dask worker {self.address} --nthreads 1'"
                ) from error
            return max(sum(self._client.nthreads().values()), 1)

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yield (number of the item, result) as they come; raises what the work raises, OnnxPruneError where workers are lost."""
        doubts = set[str]()
        with self._told():
            futures: list[Any] = self._submitted(work, items)
            numbers = {future.key: number for number, future in enumerate(futures)}
            for future in self._completed(futures):
                found = future.result()
                doubts |= found.doubts
                futures[numbers[future.key]] = None  # whoever holds a future keeps its result in some worker's memory
                yield numbers[future.key], found.result
        _tell_of(doubts)

    def merged(self, work: Callable[[T], R], items: Sequence[T], tell: Callable[[int], None] = nobody) -> R:
        """Return all results merged; only the whole comes here. A single item is worked on here."""
        if len(items) == 1:
            return work(items[0])
        with self._told():
            futures = self._submitted(work, items)
            marks = [self._client.submit(arrived, future, pure=False, priority=SOONER) for future in futures]
            whole = self._joined(futures)
            for done, future in enumerate(self._completed(marks), 1):
                future.result()  # raises what went wrong before the rest is waited for
                tell(done)
            found = whole.result()
        _tell_of(found.doubts)
        return found.result

    def _submitted(self, work: Callable[[T], R], items: Sequence[T]) -> list[Any]:
        sent, call = Sent.of(work), uuid4().hex[:12]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")  # it goes once
            source = self._client.submit(sent_on, sent, key=f"onnxprune_work-{call}")
        self._client.replicate([source])  # else all items go to the worker that has it
        keys = [f"onnxprune_part-{call}-{number}" for number in range(len(items))]
        return [
            self._client.submit(deliver, source, item, key=key, retries=RETRIES, pure=False)
            for key, item in zip(keys, items, strict=True)
        ]

    def _joined(self, futures: list[Any]) -> Any:
        """Return the future of all results merged: of some beside each other first, then of these from the first to the last."""
        groups = []
        while futures:
            groups.append(
                self._client.submit(
                    joined_deliveries, *futures[:TOGETHER], pure=False, retries=RETRIES, priority=SOONER
                )
            )
            del futures[:TOGETHER]  # whoever holds a future keeps its result in some worker's memory
        whole = groups.pop(0)
        while groups:
            whole = self._client.submit(
                joined_deliveries, whole, groups.pop(0), pure=False, retries=RETRIES, priority=SOONER
            )
        return whole

    def _completed(self, futures: Sequence[Any]) -> Iterator[Any]:
        from distributed import as_completed

        return iter(as_completed(futures, loop=self._client.loop))

    @cached_property
    def _client(self) -> Any:
        from distributed import Client

        try:
            return Client(f"tcp://{self.address}", timeout=CONNECT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(
                f"no scheduler answers at {self.address}; start one with 'dask scheduler --host 127.0.0.1' and workers for it, or leave "
                "spread out"
            ) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what goes wrong in the cluster into one message."""
        from concurrent.futures import CancelledError

        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            yield
        except KilledWorker as error:
            raise OnnxPruneError(
                f"workers of {self.address} were lost again and again with the same piece of work, as where memory is short; give "
                "every worker more memory, or start fewer on each machine"
            ) from error
        except (CommClosedError, CancelledError) as error:
            self.__dict__.pop("_client", None)
            raise OnnxPruneError(f"the scheduler at {self.address} is gone; start it again, and the run") from error


def _tell_of(processors: set[str]) -> None:
    for cpu in sorted(processors):
        logger.warning(
            "a worker has another processor (%s): another run may differ from this one in the last bits", cpu
        )
