"""One fold over data: observers are shown every batch once, and what parts of the data show is merged along one fixed tree.

The leaves of the tree are runs of LEAF samples by number, added up one batch after the other; a node is its left part with its
right part merged into it. Which process looked at a leaf, on which thread, and in which order leaves come together changes no
bit, as long as what is drawn for a sample depends on its number alone (see ``Batch.first``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from onnxprune.data.dataset import DEFAULT_BATCH, Dataset, Feed
from onnxprune.errors import DataError
from onnxprune.means import Means

LEAF = 4096  # samples that are added up one batch after the other: up to here a sum is the plain one

TreePlace = tuple[int, int]
"""A node of the tree: its level, 0 for leaves, and its number on that level; its parts are 2n and 2n + 1 one level below."""


class Mergeable(Protocol):
    """What a part of the data showed."""

    def merge(self, other: Self) -> None:
        """Add what later samples showed."""
        ...


S = TypeVar("S", contravariant=True)


class Observer(Mergeable, Protocol[S]):
    """Takes in what is seen, one batch at a time."""

    def fresh(self) -> Self:
        """Return an observer of the same that has seen nothing."""
        ...

    def update(self, seen: S) -> None: ...


M = TypeVar("M", bound=Mergeable)


@dataclass
class Parts(Generic[M]):
    """What parts of the data showed, by place in the tree; parts that make up a node are merged as soon as both are there."""

    known: dict[TreePlace, M] = field(default_factory=dict)

    def add(self, place: TreePlace, found: M) -> None:
        """Take in what a node's samples showed; ``found`` belongs to the tree from here on."""
        level, number = place
        while (level, number ^ 1) in self.known:
            other = self.known.pop((level, number ^ 1))
            left, right = (other, found) if number % 2 else (found, other)
            left.merge(right)
            level, number, found = level + 1, number // 2, left
        self.known[level, number] = found

    def merge(self, other: Parts[M]) -> None:
        for place, found in other.known.items():
            self.add(place, found)

    def whole(self) -> M:
        """Return what everything showed; raises DataError where a part is missing."""
        places = sorted(self.known, key=lambda place: place[1] << place[0])
        ends = [0, *((number + 1) << level for level, number in places)]
        if not places or any(end != number << level for end, (level, number) in zip(ends, places, strict=False)):
            raise DataError("a part of the data is missing: what the others showed cannot be put together")
        result, *rest = (self.known[place] for place in places)
        for found in rest:
            result.merge(found)
        return result


@dataclass(frozen=True)
class Batch:
    """One feed of a model; ``first``: the number of its first sample in all that is looked at."""

    inputs: Feed
    labels: np.ndarray | None
    first: int
    samples: int


@dataclass
class _Together:
    """Observers that see the same."""

    all: list[Any]

    def update(self, seen: Any) -> None:
        for observer in self.all:
            observer.update(seen)

    def merge(self, other: _Together) -> None:
        for observer, found in zip(self.all, other.all, strict=True):
            observer.merge(found)


Own = TypeVar("Own", bound=Observer[Any])
Look = Callable[[Batch], Any]
"""Runs one model or several on a batch and returns what there is to see."""


def fold(seen: Iterable[tuple[int, Any]], observers: Sequence[Own], leaf: int, first: int = 0) -> Parts[_Together]:
    """Show everything to fresh copies of ``observers``; ``seen``: (samples, what there is to see) of each batch in order.

    ``first``: the number of the first sample.
    """
    parts: Parts[_Together] = Parts()
    number, now = first // leaf, _Together([observer.fresh() for observer in observers])
    for samples, what in seen:
        if first // leaf != number:
            parts.add((0, number), now)
            number, now = first // leaf, _Together([observer.fresh() for observer in observers])
        now.update(what)
        first += samples
    parts.add((0, number), now)
    return parts


def summed_up(seen: Iterable[tuple[int, Any]], observers: Sequence[Own]) -> list[Own]:
    """Return observers that have seen everything, see ``fold``."""
    return fold(seen, observers, LEAF).whole().all


def observe(look: Look, dataset: Dataset, observers: Sequence[Own], means: Means, what: str = "observing") -> list[Own]:
    """Return observers that have seen what ``look`` gives for every batch of the data.

    One pass, in order; where ``means.spread`` says how to share work out, every leaf is a piece of work. ``what``: is told.
    """
    leaf = leaf_of(dataset, means)
    if means.spread is None:
        return fold(_seen(look, dataset, means, leaf, what), observers, leaf).whole().all
    work = means.spread(
        lambda number: observe_leaves(look, dataset, observers, means, [number]), range(leaves(dataset, means))
    )
    parts: Parts[_Together] = Parts()
    for part in work:
        parts.merge(part)
    return parts.whole().all


def observe_leaves(
    look: Look, dataset: Dataset, observers: Sequence[Own], means: Means, numbers: Iterable[int]
) -> Parts[_Together]:
    """Return what some leaves of the data show, for parts that are looked at elsewhere; see ``leaves``."""
    leaf = leaf_of(dataset, means)
    parts: Parts[_Together] = Parts()
    for number in numbers:
        start = number * leaf
        rows = dataset.rows(start, start + leaf)
        parts.merge(fold(_seen(look, rows, means, leaf, "", start), observers, leaf, start))
    return parts


def leaves(dataset: Dataset, means: Means) -> int:
    """Return how many leaves the data has."""
    unit = dataset.schema.fixed_batch or 1
    return max(-(-(len(dataset) // unit * unit) // leaf_of(dataset, means)), 1)


def leaf_of(dataset: Dataset, means: Means) -> int:
    """Return the samples of a leaf: LEAF, in whole batches."""
    size = (dataset.schema.fixed_batch or means.batch or DEFAULT_BATCH) if dataset.schema.samples else 1
    return max(LEAF // size, 1) * size


def _seen(
    look: Look, dataset: Dataset, means: Means, leaf: int, what: str, first: int = 0
) -> Iterator[tuple[int, Any]]:
    total = len(dataset)
    for inputs, labels in dataset.labelled(means.batch, leaf):
        samples = dataset.samples(inputs)
        yield samples, look(Batch(inputs, labels, first, samples))
        first += samples
        if what:
            means.progress(f"{what}: {first:,} of {total:,} samples", first, total)


@dataclass
class Sums:
    """Sums of arrays: what is seen is one or several of them, of the same shapes in every batch."""

    totals: list[Any] = field(default_factory=list)

    def fresh(self) -> Sums:
        return Sums()

    def update(self, seen: Sequence[Any]) -> None:
        self.totals = [a + b for a, b in zip(self.totals or [0.0] * len(seen), seen, strict=True)]

    def merge(self, other: Sums) -> None:
        if other.totals:
            self.update(other.totals)
