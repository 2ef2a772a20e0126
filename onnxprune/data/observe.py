"""One fold over data: observers are shown every batch once, and what parts of the data show is merged in one fixed order.

Samples are added up batch by batch to leaves, runs of samples by number; leaves to nodes of NODE leaves from left to right, and
nodes to the whole from left to right. How many samples a leaf has depends on the data alone. So whichever process looked at a leaf, on
which machine, and in which order leaves come together changes no bit, as long as what is drawn for a sample depends on its number
alone (see ``Batch.first``); and one process holds three records at most, however many samples there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from onnxprune.data.dataset import DEFAULT_BATCH, Dataset, Feed
from onnxprune.errors import DataError
from onnxprune.means import Means
from onnxprune.model.threads import load_blas, one_blas_thread

LEAF = 256  # samples at least that are added up one batch after the other: up to here a sum is the plain one
MOST_LEAVES = 256
NODE = 4  # leaves
TASKS = 3  # pieces of work that every worker is to have at least, where there are so many

LeafRun = tuple[int, int]
"""The number of the first of some leaves beside each other, and that of the first behind them."""


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


def joins_at(border: int) -> LeafRun:
    """Return the leaves that become one where two runs meet: the left run of them ends, and the right one begins, at ``border``."""
    inside = border % NODE
    return (border - inside, border + 1) if inside else (0, border + NODE)


@dataclass
class Parts(Generic[M]):
    """What parts of the data showed, by their first leaf; neighbours are merged as soon as the order says so.

    ``known``: first leaf -> the one behind the last, and what they showed.
    """

    known: dict[int, tuple[int, M]] = field(default_factory=dict)

    def add(self, leaves: LeafRun, found: M) -> None:
        """Take in what some leaves showed; ``found`` belongs to these parts from here on. Raises DataError where one is known."""
        first, end = leaves
        if any(first < stop and start < end for start, (stop, _) in self.known.items()):
            raise DataError("a part of the data is there twice: it would be counted twice")
        self.known[first] = end, found
        while True:
            border = next((place for place in (first, end) if self._meet(place)), None)
            if border is None:
                return
            first, end = joins_at(border)
            (_, left), (_, right) = self.known.pop(first), self.known.pop(border)
            left.merge(right)
            self.known[first] = end, left

    def _meet(self, border: int) -> bool:
        """Whether both runs are there that become one at a border."""
        first, end = joins_at(border)
        left, right = self.known.get(first), self.known.get(border)
        return border > 0 and left is not None and right is not None and (left[0], right[0]) == (border, end)

    def merge(self, other: Parts[M]) -> None:
        for first, (end, found) in other.known.items():
            self.add((first, end), found)

    def gap(self, count: int | None = None) -> int | None:
        """Return the first leaf that is missing (``count``: how many there are, None: nobody knows); None where none is."""
        reached = 0
        for first in sorted(self.known):
            if first != reached:
                return reached
            reached = self.known[first][0]
        return reached if not self.known or (count is not None and reached != count) else None

    def whole(self, count: int | None = None) -> M:
        """Return what everything showed, see ``gap``; raises DataError where a part is missing."""
        if self.gap(count) is not None:
            raise DataError("a part of the data is missing: what the others showed cannot be put together")
        *others, result = (self.known[first][1] for first in sorted(self.known))
        for left in reversed(others):
            left.merge(result)
            result = left
        return result


@dataclass(frozen=True)
class Batch:
    """One feed of a model; ``first``: the number of its first sample in all that is looked at."""

    inputs: Feed
    labels: np.ndarray | None
    first: int
    samples: int


@dataclass
class Together:
    """Observers that see the same."""

    all: list[Any]

    def update(self, seen: Any) -> None:
        for observer in self.all:
            observer.update(seen)

    def merge(self, other: Together) -> None:
        for observer, found in zip(self.all, other.all, strict=True):
            observer.merge(found)

    def bare(self) -> Together:
        """Return the observers with nothing but what they have seen, which is what travels and can be merged; see ``dressed``."""
        return Together([_bare(observer) for observer in self.all])

    def dressed(self, observers: Sequence[Own]) -> list[Own]:
        """Return observers like those given with what bare ones have seen."""
        return [_dressed(found, observer) for found, observer in zip(self.all, observers, strict=True)]


def _bare(observer: Any) -> Any:
    names = getattr(observer, "seen", None)
    if names is None:
        return observer
    result = object.__new__(type(observer))
    vars(result).update({name: getattr(observer, name) for name in names})
    return result


def _dressed(found: Any, observer: Own) -> Own:
    if getattr(observer, "seen", None) is None:
        return found
    result = copy(observer)
    vars(result).update(vars(found))
    return result


Own = TypeVar("Own", bound=Observer[Any])
Look = Callable[[Batch], Any]
"""Runs one model or several on a batch and returns what there is to see.

One with a method ``over`` is given what begins all batches anew instead, and yields what there is to see of each: a model that is too
large to be loaded passes over all of them part by part.
"""


def fold(seen: Iterable[tuple[int, Any]], observers: Sequence[Own], leaf: int, first: int = 0) -> Parts[Together]:
    """Show everything to fresh copies of ``observers``; ``seen``: (samples, what there is to see) of each batch in order.

    ``first``: the number of the first sample.
    """
    parts: Parts[Together] = Parts()
    number, now = first // leaf, Together([observer.fresh() for observer in observers])
    for samples, what in seen:
        if first // leaf != number:
            parts.add((number, number + 1), now)
            number, now = first // leaf, Together([observer.fresh() for observer in observers])
        now.update(what)
        first += samples
    parts.add((number, number + 1), now)
    return parts


def summed_up(seen: Iterable[tuple[int, Any]], observers: Sequence[Own]) -> list[Own]:
    """Return observers that have seen everything, see ``fold``."""
    return fold(seen, observers, LEAF).whole().all


@dataclass(frozen=True)
class Pass:
    """All that is to be done with each batch of the data, as one value that can be sent elsewhere: a function of some leaves.

    ``look`` runs models and says what there is to see, which the ``observers`` are shown. ``what``: is told.
    """

    look: Look
    dataset: Dataset
    observers: tuple[Any, ...]
    means: Means
    what: str = ""

    @cached_property
    def leaf(self) -> int:
        """The samples of a leaf, in whole batches: LEAF, or so many that there are MOST_LEAVES of them."""
        schema = self.dataset.schema
        size = (schema.fixed_batch or self.means.batch or DEFAULT_BATCH) if schema.samples else 1
        wanted = max(LEAF, -(-len(self.dataset) // MOST_LEAVES))
        return max(wanted // size if wanted == LEAF else -(-wanted // size), 1) * size

    @cached_property
    def count(self) -> int:
        """How many leaves the data has."""
        unit = self.dataset.schema.fixed_batch or 1
        return max(-(-(len(self.dataset) // unit * unit) // self.leaf), 1)

    def runs(self, workers: int, leaves: LeafRun | None = None) -> list[LeafRun]:
        """Return leaves (None: all) in pieces of work for so many workers: nodes where these are enough, else single leaves."""
        start, stop = leaves or (0, self.count)
        size = NODE if stop - start >= NODE * TASKS * workers else 1
        return [(first, min(first + size, stop)) for first in range(start, stop, size)]

    def shard(self, number: int, of: int) -> LeafRun:
        """Return the leaves of one of several equal parts, counted from 0: whole nodes where there are enough; may be none."""
        unit = NODE if of * NODE <= self.count else 1
        units = -(-self.count // unit)
        first, end = (min(units * part // of * unit, self.count) for part in (number, number + 1))
        return first, end

    def __call__(self, leaves: LeafRun) -> Parts[Together]:
        """Return what some leaves show, without anything but that; see ``Together.bare``."""
        load_blas()
        with one_blas_thread:
            found = self.over(leaves)
        return Parts({first: (end, part.bare()) for first, (end, part) in found.known.items()})

    def glimpse(self) -> Together:
        """Return what the first batch shows, bare."""
        inputs, labels = next(self.dataset.labelled(self.means.batch, self.leaf))
        first = Batch(inputs, labels, 0, self.dataset.samples(inputs))
        found = Together([observer.fresh() for observer in self.observers])
        found.update(self.look(first))
        return found.bare()

    def over(self, leaves: LeafRun) -> Parts[Together]:
        """Return what some leaves show."""
        first, end = leaves
        parts: Parts[Together] = Parts()
        if first < end:
            start = first * self.leaf
            rows = self.dataset if leaves == (0, self.count) else self.dataset.rows(start, end * self.leaf)
            parts.merge(fold(self._seen(rows, start), self.observers, self.leaf, start))
        return parts

    def _seen(self, rows: Dataset, first: int) -> Iterator[tuple[int, Any]]:
        total, over = len(rows), getattr(self.look, "over", None)
        batches = partial(self.batches, rows, first)
        looked = zip(batches(), over(batches), strict=True) if over else ((each, self.look(each)) for each in batches())
        for batch, found in looked:
            yield batch.samples, found
            done = batch.first + batch.samples - first
            self.means.progress(f"{self.what}: {done:,} of {total:,} samples", done, total)

    def batches(self, rows: Dataset, first: int = 0) -> Iterator[Batch]:
        """Yield some rows of the data as they are looked at; ``first``: the number of the first of them."""
        for inputs, labels in rows.labelled(self.means.batch, self.leaf):
            batch = Batch(inputs, labels, first, rows.samples(inputs))
            first += batch.samples
            yield batch


@dataclass(frozen=True)
class InputsOf:
    """What models are fed in a pass over data, batch by batch, as often as it is asked for; ``batches`` begins the pass anew."""

    batches: Callable[[], Iterator[Batch]]

    def __iter__(self) -> Iterator[Feed]:
        return (batch.inputs for batch in self.batches())


def observe(look: Look, dataset: Dataset, observers: Sequence[Own], means: Means, what: str = "observing") -> list[Own]:
    """Return observers that have seen what ``look`` gives for every batch of the data.

    One pass, in order; where ``means.spread`` says how to share work out, runs of leaves are pieces of work: then ``look`` and the
    observers are sent to other processes, and there is one copy of them in each. ``what``: is told.
    """
    whole = Pass(look, dataset, tuple(observers), means, what)
    if means.spread is None:
        return whole.over((0, whole.count)).whole(whole.count).all
    runs = whole.runs(means.spread.workers)

    def tell(done: int) -> None:
        means.progress(f"{what}: {done:,} of {len(runs):,} parts", done, len(runs))

    found = means.spread.merged(whole, runs, tell)
    return found.whole(whole.count).dressed(observers)


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
