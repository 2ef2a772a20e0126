"""What the original computes at sampled positions: looked at in one pass over the data, and kept for every fit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple, Protocol

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.data import Dataset, Feed
from onnxprune.data.repeated import BATCH
from onnxprune.errors import DataError
from onnxprune.evidence.needs import Need
from onnxprune.evidence.rows import LARGEST, POSITIONS, Sampler, by_sample, sampled_rows, usable, valid_positions
from onnxprune.evidence.unusable import refusal
from onnxprune.means import Means
from onnxprune.model.facts import Facts
from onnxprune.model.memory import room
from onnxprune.model.runtime import Arrays, Session, observe_shapes, revealing
from onnxprune.repair.operands import Steps

MEMORY = 3 << 27  # bytes of rows that are kept, in half precision where that is what it takes
LEAST_POSITIONS = 8
ROWS = 1 << 15  # of a value, at the least, that a fit looks at where samples have so many positions
VALUES = 1 << 27  # bytes of all values of a batch
PARTS = 4  # batches, at the least, that data is looked at in
HALF_RANGE = 6e4  # deviations from the mean that half precision holds

Onlooker = Callable[[int, Arrays, Mapping[str, np.ndarray]], None]
"""Is shown the number of a batch, its inputs, and values that it asked for."""


class AxisOrder(NamedTuple):
    """Axes of a value that are ``positions``, and those that are ``channels``, each in an order of its own."""

    positions: tuple[int, ...]
    channels: tuple[int, ...]

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Return [positions.., channels], at least one position."""
        moved = array.transpose(self.positions + self.channels)
        return moved.reshape(*(moved.shape[: len(self.positions)] or (1,)), -1)


@dataclass(frozen=True)
class Sought:
    """Rows of a value: its channels along ``axis``, or along several axes by an ``order``, one row per sampled position.

    ``by_position``: positions are those of the sequence that a padding mask tells of; else they are drawn from every entry of the
    first axis, be it a sample or one of its frames. ``steps``: what its integers stand for (None: they are floats).
    """

    value: str
    axis: int
    by_position: bool = True
    steps: Steps | None = None
    order: AxisOrder | None = None

    @property
    def values(self) -> tuple[str, ...]:
        """What has to be seen for it."""
        return (self.value,)

    def sampler(self, array: np.ndarray, sampler: Sampler) -> Sampler:
        return sampler if self.by_position else replace(sampler, mask=None).unfolded(len(array))

    def rows(self, array: np.ndarray, sampler: Sampler) -> np.ndarray:
        """Return float32[rows, channels]."""
        array, axis = self._turned(array)
        need = Need("gram", self.value, axis)
        rows = sampled_rows(array, need, self.sampler(array, sampler))[0].astype(np.float32)
        return rows if self.steps is None else self.steps.read(rows)

    def rows_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray:
        return self.rows(arrays[self.value], sampler)

    def counts_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray:
        return self.counts(arrays[self.value], sampler)

    def width(self, arrays: Mapping[str, np.ndarray]) -> int:
        """How many channels a row has."""
        array, axis = self._turned(arrays[self.value])
        return array.shape[axis]

    def kept(self, left: Kept, facts: Facts) -> np.ndarray | None:
        """Return bool[channels of the original]: those that stay; None: all."""
        shape = facts.shape(self.value) or ()
        axes = self.order.channels if self.order is not None else (self.axis % max(len(shape), 1),)
        masks = [left.mask(self.value, axis) for axis in axes]
        if all(mask is None for mask in masks):
            return None
        whole = [np.ones(shape[axis], bool) if mask is None else mask for axis, mask in zip(axes, masks, strict=True)]
        return reduce(np.logical_and.outer, whole).reshape(-1)

    def _turned(self, array: np.ndarray) -> tuple[np.ndarray, int]:
        return (array, self.axis) if self.order is None else (self.order.turned(array), -1)

    def counts(self, array: np.ndarray, sampler: Sampler) -> np.ndarray:
        """Return int64[parts]: how many rows come from each part of the value that has positions of its own."""
        array, axis = self._turned(array)
        own = self.sampler(array, sampler)
        parts = by_sample(array, axis, own.samples)
        valid = valid_positions(array, axis, own.mask)
        sizes = np.full(len(parts), parts.shape[1]) if valid is None else valid.sum(axis=1)
        return np.minimum(sizes, own.positions)


@dataclass(frozen=True)
class SoughtSum:
    """Rows of the sum of two values that are alike, and of a bias ``added`` float32[channels] (or nothing), by its name."""

    one: Sought
    other: Sought
    name: str = ""
    added: np.ndarray | float = field(default=0.0, compare=False)

    @property
    def value(self) -> str:
        return self.one.value

    @property
    def axis(self) -> int:
        return self.one.axis

    @property
    def values(self) -> tuple[str, ...]:
        return (*self.one.values, *self.other.values)

    def width(self, arrays: Mapping[str, np.ndarray]) -> int:
        return self.one.width(arrays)

    def rows_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray:
        return self.one.rows_of(arrays, sampler) + self.other.rows_of(arrays, sampler) + self.added

    def counts_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray:
        return self.one.counts_of(arrays, sampler)

    def kept(self, left: Kept, facts: Facts) -> np.ndarray | None:
        return self.one.kept(left, facts)


class SoughtRows(Hashable, Protocol):
    """Rows that can be had of values of the original: of one value, as ``Sought``, or computed of some."""

    @property
    def value(self) -> str:
        """The value, or one of them, that is told of where its numbers are of no use, and the axis of its channels."""

    @property
    def axis(self) -> int: ...

    @property
    def values(self) -> tuple[str, ...]: ...

    def width(self, arrays: Mapping[str, np.ndarray]) -> int: ...

    def rows_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray: ...

    def counts_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray: ...

    def kept(self, left: Kept, facts: Facts) -> np.ndarray | None: ...


@dataclass
class _Stored:
    """Rows of one batch: (rows - origin) / scale, and from how many positions of each part they are."""

    rows: np.ndarray
    counts: np.ndarray
    origin: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, counts: np.ndarray, half: bool) -> _Stored:
        origin, scale = np.zeros(1, np.float32), np.ones(1, np.float32)
        if half and len(rows):
            origin, spread = rows.mean(0), rows.std(0)
            scale = np.where(spread > 0, spread, 1.0).astype(np.float32)
            scaled = (rows - origin) / scale
            if usable(scaled, HALF_RANGE):
                return cls(scaled.astype(np.float16), counts, origin, scale)
            origin, scale = np.zeros(1, np.float32), np.ones(1, np.float32)
        return cls(rows, counts, origin, scale)

    def read(self, positions: int, channels: slice) -> np.ndarray:
        """Return float32[rows, channels] of the first ``positions`` of every part."""
        rows = self.rows[:, channels]
        if self.counts.max(initial=0) > positions:
            starts = np.cumsum(self.counts) - self.counts
            rows = rows[np.arange(len(rows)) - np.repeat(starts, self.counts) < positions]
        return rows if rows.dtype == np.float32 else rows * self.scale[channels] + self.origin[channels]

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes


class Teacher:
    """Rows of the original's values on fixed batches; what has not been looked at yet takes another pass.

    ``positions`` of each part of a value are drawn, fewer where rows would not fit into ``limit`` bytes. ``sizes``: samples of
    every batch; ``firsts``: how many came before it.
    """

    def __init__(
        self,
        facts: Facts,
        batches: Iterable[Arrays],
        means: Means = Means(),
        *,
        positions: int = POSITIONS,
        limit: int | None = None,
    ):
        self.facts, self.batches, self.means = facts, batches, means
        self.positions, self._limit = positions, room(means, MEMORY) if limit is None else limit
        self.sizes = [samples_in(batch) for batch in batches]
        self.firsts = np.cumsum([0, *self.sizes[:-1]]).tolist()
        self._known: dict[SoughtRows, list[_Stored]] = {}

    def sampler(self, number: int, batch: Arrays, positions: int) -> Sampler:
        """Return which positions of batch ``number`` are looked at; the same ones for all values with as many."""
        mask = batch[self.means.mask] != 0 if self.means.mask else None
        seed, first = self.means.seed, self.firsts[number]
        return Sampler(self.sizes[number], min(positions, self.positions), seed, first, mask, self.positions)

    def rows(self, sought: SoughtRows, number: int, positions: int, channels: slice = slice(None)) -> np.ndarray:
        """Return float32[rows, channels] of batch ``number``."""
        return self._known[sought][number].read(positions, channels)

    def learn(self, wanted: Iterable[SoughtRows], onlooker: Onlooker | None = None, values: Iterable[str] = ()) -> None:
        """Look at what is not known yet; ``onlooker`` is shown every one of ``values`` once, batch by batch.

        Raises DataError for values that are not finite.
        """
        missing = [sought for sought in dict.fromkeys(wanted) if sought not in self._known]
        alone = {(name,) for name in values}
        together = list(dict.fromkeys([*(sought.values for sought in missing), *sorted(alone)]))
        if not together:
            return
        made = {name for names in together for name in names if name not in self.facts.graph.inputs}
        opened = revealing(self.facts.model, sorted(made), threads=self.means.threads)
        found: dict[SoughtRows, list[_Stored]] = {sought: [] for sought in missing}
        half = self._settle(missing, next(iter(self.batches)), opened) if opened.by_segments else None
        for due, shown in opened.stages(self.batches, together):
            here, told = [sought for sought in missing if sought.values in due], sorted(alone.intersection(due))
            for number, (batch, arrays) in enumerate(zip(self.batches, shown, strict=True)):
                if half is None:
                    half = self._settled(missing, batch, arrays)
                for sought in here:
                    found[sought].append(self._stored(sought, number, batch, arrays, half))
                if onlooker is not None and told:
                    onlooker(number, batch, {name: arrays[name] for (name,) in told})
                self._tell(number, sum(map(len, found.values())), len(missing))
        self._known |= found

    def _stored(self, sought: SoughtRows, number: int, batch: Arrays, arrays: Arrays, half: bool) -> _Stored:
        sampler = self.sampler(number, batch, self.positions)
        rows = sought.rows_of(arrays, sampler)
        if not usable(rows, LARGEST):
            raise self.refusal(batch, Need("gram", sought.value, sought.axis), arrays[sought.value])
        return _Stored.of(rows, sought.counts_of(arrays, sampler), half)

    def _tell(self, number: int, known: int, sought: int) -> None:
        done, count = (known, sought * len(self.sizes)) if sought else (number + 1, len(self.sizes))
        self.means.progress(f"the original: batch {number + 1} of {len(self.sizes)}", done, count)

    def _settle(self, missing: list[SoughtRows], batch: Arrays, opened: Session) -> bool:
        """Return what ``_settled`` does, from a run of its own: by segments values are never there together."""
        names = {name for sought in missing for name in sought.values if name not in batch}
        return self._settled(missing, batch, {**batch, **opened.run(batch, sorted(names))})

    def _settled(self, missing: list[SoughtRows], batch: Arrays, arrays: Mapping[str, np.ndarray]) -> bool:
        """Choose how many positions fit, while nothing is known yet, and whether rows are kept in half precision."""
        sampler = self.sampler(0, batch, self.positions)
        known = sum(part.nbytes for stored in self._known.values() for part in stored)
        widths = [(sought.counts_of(arrays, sampler), sought.width(arrays)) for sought in missing]

        def taken(positions: int) -> int:
            first = sum(4 * channels * int(np.minimum(counts, positions).sum()) for counts, channels in widths)
            return first * sum(self.sizes) // self.sizes[0]

        left = max(self._limit - known, 1)
        if not self._known and taken(self.positions) / 2 > left:
            choices = range(min(LEAST_POSITIONS, self.positions), self.positions + 1)
            self.positions = choices[max(bisect_right(choices, 2 * left, key=taken) - 1, 0)]
        return taken(self.positions) > left

    def refusal(self, batch: Arrays, need: Need, value: np.ndarray) -> DataError:
        """Return what to tell about a value of a batch, of this model or of one made of it, whose products are no floats."""
        numbers = batch.rows if isinstance(batch, Feed) else np.arange(samples_in(batch))
        return refusal(self.facts, batch, numbers, need, value, limit=LARGEST, means=self.means)


def positions_of(samples: int) -> int:
    """Return how many positions of each sample make up the rows of a fit: more where there are few samples."""
    return max(POSITIONS, ROWS // max(samples, 1))


def batch_of(analysis: Analysis, dataset: Dataset, means: Means) -> int:
    """Return how many samples at a time a model is shown: as many as leave room for all of its values, and some batches."""
    first = next(iter(dataset.batches(1)))
    samples = max(dataset.samples(first), 1)
    names = list(dict.fromkeys(name for node in analysis.facts.graph.top for name in node.outputs if name))
    shapes = observe_shapes(analysis.facts.model, first, names)
    size = sum(4 * int(np.prod(shape, dtype=np.int64)) for _, shape in shapes.values()) / samples
    return int(np.clip(min(room(means, VALUES) / max(size, 1), len(dataset) / PARTS), 1, BATCH))


def samples_in(batch: Mapping[str, np.ndarray]) -> int:
    """How many samples a batch holds: its inputs' common first size; one where they have none."""
    sizes = {np.shape(array)[:1] for array in batch.values()}
    return next(iter(sizes), (1,))[0] if len(sizes) == 1 and () not in sizes else 1
