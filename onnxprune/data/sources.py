"""Where rows of data come from: arrays in memory, files, folders, pictures, Python iterables.

A source is read front to back as often as needed and holds no more than the block it is handing out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.data.columns import Column, Index, SingleRow
from onnxprune.data.images import ImageOptions, decode
from onnxprune.data.inputs import LABELS, Rows, Schema, equal_count
from onnxprune.data.scripts import running
from onnxprune.errors import DataError

HELD_BYTES = 1 << 30
"""What an iterator that can be read only once may occupy in memory."""


class RowSource(ABC):
    """Rows that can be read any number of times; ``count`` is None where only reading tells.

    ``whole_feeds``: a row is all that a run of the model takes, though its first axis looks like a batch.
    """

    count: int | None
    whole_feeds = False

    @abstractmethod
    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        """Yield the kept rows (None: all) in order, in blocks of ``size`` rows where the source can choose."""


class Columns(RowSource):
    """Columns of equal length; raises DataError when names or lengths do not match the model."""

    def __init__(self, columns: Mapping[str, Column], schema: Schema, where: str):
        self.where = where
        self.columns = {name: columns[key] for key, name in schema.names(columns, where).items()}
        self.lone: dict[
            str, tuple[int, ...]
        ] = {}  # input -> shape of what was taken for one row, its axis of rows missing
        for name, column in self.columns.items():
            if name != LABELS and schema.is_single_row(name, len(column.shape)):
                self.columns[name] = SingleRow(column)
                if column.shape and schema.samples:
                    self.lone[name] = column.shape
        lengths = {name: column.shape[0] for name, column in self.columns.items() if name != LABELS}
        self.count = equal_count(lengths, where)
        labels = self.columns.get(LABELS)
        if labels is not None:
            single = self.count == 1 and labels.shape[:1] != (1,)
            self.columns[LABELS] = labels = SingleRow(labels) if single else labels
            equal_count({"the inputs": self.count, "the labels": labels.shape[0] if labels.shape else 0}, where)

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        keep = np.arange(self.count or 0) if keep is None else keep
        streams = [column.blocks(keep, size) for column in self.columns.values()]
        for arrays in zip(*streams, strict=True):
            yield dict(zip(self.columns, arrays, strict=True))


@dataclass
class Chain(RowSource):
    """Sources of known length, one after the other."""

    parts: list[RowSource]

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *(part.count or 0 for part in self.parts)])
        self.count = int(self._starts[-1])

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        keep = np.arange(self.count or 0) if keep is None else keep
        bounds = np.searchsorted(keep, self._starts)
        for part, start, (low, high) in zip(self.parts, self._starts[:-1], pairwise(bounds), strict=True):
            if high > low:
                yield from part.read(keep[low:high] - start, size)


class Pictures(RowSource):
    """Image files for a model with one image input, as uint8[n, height, width, channels]."""

    def __init__(self, paths: list[Path], name: str, geometry: tuple[int, int, int], options: ImageOptions):
        self.paths, self.name, self.geometry, self.options = paths, name, geometry, options
        self.count = len(paths)

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        keep = np.arange(self.count or 0) if keep is None else keep
        for start in range(0, len(keep), size):
            part = keep[start : start + size]
            yield {self.name: np.stack([decode(self.paths[row], *self.geometry, self.options) for row in part])}


@dataclass
class FromCallable(RowSource):
    """What a Python callable yields anew at each call: dicts of arrays, or arrays for a model with one input."""

    make: Callable[[], Iterable[Any]]
    schema: Schema
    where: str
    count: int | None = None

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        position = taken = 0
        for rows in items(self.make, self.schema, self.where):
            count = row_count(rows)
            if keep is None:
                yield rows
            else:
                chosen = keep[taken : np.searchsorted(keep, position + count)] - position
                taken += len(chosen)
                if len(chosen):
                    yield {name: array[chosen] for name, array in rows.items()}
                if taken == len(keep):
                    return
            position += count


@dataclass
class Held(RowSource):
    """Blocks of rows kept in memory, from an iterator that can be read only once."""

    blocks: list[Rows]

    def __post_init__(self) -> None:
        self.count = sum(map(row_count, self.blocks))

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        position = 0
        for rows in self.blocks:
            stop = position + row_count(rows)
            low, high = (0, 0) if keep is None else np.searchsorted(keep, (position, stop))
            chosen = slice(None) if keep is None else keep[low:high] - position
            if keep is None or high > low:
                yield {name: array[chosen] for name, array in rows.items()}
            position = stop


@dataclass
class Labelled(RowSource):
    """Another source with labels from elsewhere, row by row; raises DataError when their number differs."""

    inner: RowSource
    labels: Column
    where: str

    def __post_init__(self) -> None:
        self.count, self.whole_feeds = self.inner.count, self.inner.whole_feeds
        if self.count is not None:
            equal_count({"the inputs": self.count, "the labels": self.labels.shape[0]}, self.where)

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        labels, position = self.labels.load(), 0
        for rows in self.inner.read(keep, size):
            stop = position + row_count(rows)
            index = np.arange(position, stop) if keep is None else keep[position:stop]
            if len(index) and index[-1] >= len(labels):
                raise DataError(f"{self.where}: {len(labels)} labels, but more rows of data than that")
            yield rows | {LABELS: np.asarray(labels[index])}
            position = stop


@dataclass
class Converted(RowSource):
    """Another source whose uint8[n, ?, ?, ?] inputs become what the model wants; raises DataError without any."""

    inner: RowSource
    options: ImageOptions
    schema: Schema

    def __post_init__(self) -> None:
        self.count = self.inner.count

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        for rows in self.inner.read(keep, size):
            inputs = {name: array for name, array in rows.items() if name != LABELS}
            pixels = [name for name, array in inputs.items() if array.dtype == np.uint8 and array.ndim == 4]
            if not pixels:
                found = ", ".join(f"{name!r} is {array.dtype}{list(array.shape[1:])}" for name, array in inputs.items())
                raise DataError(
                    f"image options apply to uint8 images only, but {found} per row; "
                    "drop --layout, --mean, --std and --scale"
                )
            yield rows | {name: self.options.apply(inputs[name], self.schema.by_name[name]) for name in pixels}


def row_count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def items(make: Callable[[], Iterable[Any]], schema: Schema, where: str) -> Iterator[Rows]:
    """Yield what a user's iterable yields, as rows; an exception inside it becomes a DataError."""
    iterator = guarded(lambda: iter(make()), where)
    while (item := guarded(lambda: next(iterator, iterator), where)) is not iterator:
        yield as_rows(item, schema, where)


def guarded(call: Callable[[], Any], where: str) -> Any:
    """Call the user's code; raise DataError with its reason when it fails."""
    with running(where):
        return call()


def as_rows(item: Any, schema: Schema, where: str) -> Rows:
    """Return one item of an iterable as rows; raise DataError for what is neither dict nor array."""
    if isinstance(item, tuple):
        raise DataError(
            f"{where}: got a tuple; yield a dict such as {{{schema.specs[0].name!r}: x, 'labels': y}} instead"
        )
    arrays = item if isinstance(item, Mapping) else {schema.specs[0].name: item}
    return schema.rows({str(key): as_array(value, where) for key, value in arrays.items()}, where)


def as_array(value: Any, where: str) -> np.ndarray:
    """Return a value as a plain array; raise DataError for Python objects and ragged lists."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{where}: a value cannot become an array: {error}") from error
    if array.dtype.hasobject or array.dtype.names:
        raise DataError(f"{where}: {type(value).__name__} is not an array of numbers or text")
    return array


def hold(iterator: Iterable[Any], schema: Schema, limit: int | None, where: str) -> Held:
    """Read a one-shot iterator, at most ``limit`` rows; raise DataError when it would fill the memory."""
    blocks: list[Rows] = []
    rows_read = bytes_read = 0
    for rows in items(lambda: iterator, schema, where):
        blocks.append(rows)
        rows_read += row_count(rows)
        bytes_read += sum(array.nbytes for array in rows.values())
        if limit is not None and rows_read >= limit:
            break
        if bytes_read > HELD_BYTES:
            raise DataError(
                f"{where}: an iterator that can be read only once holds more than {HELD_BYTES >> 20} MiB; "
                "pass a function that returns a new iterator, a file, or limit the samples"
            )
    return Held(blocks)
