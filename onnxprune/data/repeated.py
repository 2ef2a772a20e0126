"""Values that are read again and again without all of them being held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic, TypeVar

import numpy as np

from onnxprune.data.dataset import Dataset
from onnxprune.means import Means
from onnxprune.model.facts import Facts
from onnxprune.model.memory import rows_at_once

BATCH = 64

T = TypeVar("T")


@dataclass(frozen=True)
class Batches:
    """A dataset as batches that can be read any number of times, always the same; without ``batch`` as many rows as fit."""

    dataset: Dataset
    batch: int | None = None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self.dataset.batches(self.batch, BATCH)


def in_batches(dataset: Dataset, facts: Facts, means: Means) -> Batches:
    """Return data in batches of as many rows as a run of a whole model has room for; see ``rows_at_once``."""
    return Batches(dataset, rows_at_once(facts, means))


@dataclass(frozen=True)
class Joined:
    """Parts of data one after the other, each in batches of its own, always the same."""

    parts: tuple[Iterable[Mapping[str, np.ndarray]], ...]

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return chain.from_iterable(self.parts)


@dataclass(frozen=True)
class Later:
    """Batches from number ``start`` on, always the same."""

    batches: Iterable[Mapping[str, np.ndarray]]
    start: int

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        return islice(self.batches, self.start, None)


def is_held(batches: Iterable[Mapping[str, np.ndarray]]) -> bool:
    """Whether batches are in memory, so that several threads may read them."""
    return all(map(is_held, batches.parts)) if isinstance(batches, Joined) else isinstance(batches, list)


class Remembered(Generic[T]):
    """Items that are made anew for every reading, but for the first ones: up to ``limit`` bytes of these are kept.

    ``make(start)`` yields the items from number ``start`` on, always the same ones; ``size`` tells the bytes of one.
    """

    def __init__(self, make: Callable[[int], Iterator[T]], size: Callable[[T], int], limit: int):
        self._make, self._size, self._left = make, size, limit
        self._held: list[T] = []
        self._complete = False

    def __iter__(self) -> Iterator[T]:
        held = tuple(self._held)
        yield from held
        if self._complete and len(held) == len(self._held):
            return
        start = len(held)  # another reader may have added to what is held meanwhile
        for number, item in enumerate(self._make(start), start):
            if number == len(self._held):
                self._left -= self._size(item)
                if self._left >= 0:
                    self._held.append(item)
            yield item
        self._complete = self._left >= 0


def held_out(dataset: Dataset, share: float, most: int, seed: int) -> tuple[Dataset, Dataset]:
    """Return (the others, a random ``share`` of the rows, ``most`` at most): whole batches where the model insists on them.

    Both are the whole dataset where it is too small to be drawn_apart, which is to be said wherever the one judges the other.
    """
    count, rest = _parts(dataset, share, most)
    return dataset.split(count, seed) if rest > 0 else (dataset, dataset)


def drawn_apart(dataset: Dataset, most: int, seed: int) -> tuple[Dataset, ...]:
    """Return ``most`` random rows and the others, whole batches where the model insists on them; all in one where there are no more."""
    unit = dataset.schema.fixed_batch or 1
    count = max(most // unit, 1) * unit
    return (dataset,) if count + unit > len(dataset) else dataset.split(count, seed)[::-1]


def can_hold_out(dataset: Dataset, share: float, most: int) -> bool:
    """Whether ``held_out`` gives two parts."""
    return _parts(dataset, share, most)[1] > 0


def _parts(dataset: Dataset, share: float, most: int) -> tuple[int, int]:
    """Return how many rows are held out, and how many are left in whole batches."""
    unit = dataset.schema.fixed_batch or 1
    rows = len(dataset) // unit * unit
    count = min(round(rows * share), most) // unit * unit or unit
    return count, rows - count
