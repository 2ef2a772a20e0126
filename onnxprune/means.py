"""With what work is done, apart from what is done: one value that a run hands down instead of one parameter each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from onnxprune.progress import Progress, heard, silent

T = TypeVar("T")
R = TypeVar("R")


class Spread(Protocol):
    """Shares out work to other processes: ``work`` is sent there once, and then called for each of some items.

    It has to be a pure function: it may be called twice for an item, and elsewhere again where a process is lost.
    """

    @property
    def workers(self) -> int:
        """How many items are worked on at a time, about."""
        ...

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yield the number of each item with its result, as they come."""
        ...

    def merged(self, work: Callable[[T], R], items: Sequence[T], tell: Callable[[int], None] = ...) -> R:
        """Return all results merged by their ``merge``, in whatever order they come; ``tell`` is told how many there are by now."""
        ...


def mapped(
    spread: Spread | None, work: Callable[[T], R], items: Sequence[T], tell: Callable[[int], None] = lambda done: None
) -> list[R]:
    """Return what ``work`` gives for every item, in their order; without ``spread`` one after the other, here."""
    found: dict[int, R] = {}
    for number, result in enumerate(map(work, items)) if spread is None else spread.each(work, items):
        found[number] = result
        tell(len(found))
    return [found[number] for number in range(len(items))]


@dataclass(frozen=True)
class Means:
    """``threads`` of ONNX Runtime, ``seed`` of every draw, ``batch``: rows at a time (None: as many as fit).

    ``mask``: the model's input that is zero where a sequence is padded. ``progress(text, done, total)`` is told what begins and
    how much is done, any function of a text will do. ``spread`` shares out work on parts of the data and on proposals (None: one after
    the other, here); the result is the same to the bit, and what is sent elsewhere tells nobody and shares out nothing. ``memory``: bytes that the process may take (None: see
    ``bytes_allowed``); what is worked on at once follows it.
    """

    threads: int = 1
    seed: int = 0
    batch: int | None = None
    mask: str | None = None
    progress: Progress = silent
    spread: Spread | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "progress", heard(self.progress))

    def __reduce__(self) -> tuple[Any, ...]:
        return Means, (self.threads, self.seed, self.batch, self.mask, silent, None, self.memory)

    def through(self, spread: Spread | None) -> Means:
        """Return the same with work shared out by another."""
        return replace(self, spread=spread)

    @property
    def quiet(self) -> Means:
        """The same, telling nobody."""
        return replace(self, progress=silent)

    def part(self, number: int, of: int, prefix: str = "") -> Means:
        """Return the same for one of several parts of the work, counted from 0: what it counts is of that part."""
        return replace(self, progress=self.progress.part(number, of, prefix))

    def masked(self, name: str) -> Means:
        """Return the same with the padding mask ``name`` ("": none) where none was given."""
        return self if self.mask or not name else replace(self, mask=name)
