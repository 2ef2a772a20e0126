"""What runs in other processes: work that is unpacked once per process, and called there.

Work is pickled by the process that sends it, for processes that it started or that the user's scheduler runs; no file is unpickled.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from onnxprune.errors import UsageError
from onnxprune.spread.machine import other_processor, other_versions, this_machine

HELD = 4  # pieces of work that a process keeps open

_held: OrderedDict[str, Callable[[Any], Any]] = OrderedDict()
_lock = Lock()


@dataclass(frozen=True)
class Sent:
    """Work as bytes; ``machine``: of the process that sends it."""

    content: bytes
    digest: str
    machine: Mapping[str, Any]

    @classmethod
    def of(cls, work: Callable[[Any], Any]) -> Sent:
        """Raises UsageError where something in it cannot be sent."""
        import cloudpickle

        try:
            content = cloudpickle.dumps(work)
        except (TypeError, AttributeError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"--spread sends the data to other processes, and this cannot be sent: {reason}. Give data in files, or leave spread out"
            ) from error
        return cls(content, hashlib.sha256(content).hexdigest(), this_machine())


@dataclass
class Delivered:
    """A result; ``doubts``: what differs where it was computed."""

    result: Any
    doubts: set[str] = field(default_factory=set)


def deliver(sent: Sent, item: Any) -> Delivered:
    """Call work for an item; raises UsageError on a machine with other versions."""
    here = this_machine()
    if versions := other_versions(sent.machine, here):
        raise UsageError(f"a worker has {versions} where the run began; install the same versions on all workers")
    cpu = other_processor(sent.machine, here)
    return Delivered(_unpacked(sent)(item), {cpu} - {""})


def _unpacked(sent: Sent) -> Callable[[Any], Any]:
    with _lock:
        if sent.digest not in _held:
            import cloudpickle

            _held[sent.digest] = cloudpickle.loads(sent.content)
            while len(_held) > HELD:
                _held.popitem(last=False)
        _held.move_to_end(sent.digest)
        return _held[sent.digest]


def joined_deliveries(*several: Delivered) -> Delivered:
    """Return all results merged, and leave them as they are: a scheduler may ask for the same again."""
    whole, *others = (deepcopy(each.result) for each in several)
    for result in others:
        whole.merge(result)
    return Delivered(whole, set().union(*(each.doubts for each in several)))


def arrived(delivered: Delivered) -> int:
    """Return one for a result that is there: what is counted without the result being fetched."""
    return 1
