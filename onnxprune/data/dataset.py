"""Calibration and validation data: any source, as batches that fit the model, in bounded memory."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from onnxprune.data.columns import ArrayColumn, Column, Index
from onnxprune.data.completed import Completed
from onnxprune.data.decoded import Decoded
from onnxprune.data.inputs import LABELS, InputSpec, NotLacking, Rows, Schema
from onnxprune.data.openings import Opening
from onnxprune.data.readers import ReadOptions, Request, open_labels, open_source
from onnxprune.data.sources import Columns, Labelled, RowSource, as_array, row_count
from onnxprune.data.synthetic import OpenSizes, random_columns
from onnxprune.errors import DataError, UsageError
from onnxprune.model.decoding import NO_DECODER
from onnxprune.model.values import FedValues, check_names

DEFAULT_BATCH = 32
ROOM = 20 << 20
"""Bytes of inputs that are shown to a model at once where nobody says how many rows: its values take many times as much."""

logger = logging.getLogger(__name__)


class Feed(dict[str, np.ndarray]):
    """Input name -> array, for one run of a model; ``rows``: int64, the numbers that its rows have in the data."""

    def __init__(self, inputs: Mapping[str, np.ndarray], rows: Index):
        super().__init__(inputs)
        self.rows = rows


class Dataset:
    """Rows that fit a model, read lazily and as often as needed; nothing but one batch is held in memory.

    ``synthetic`` marks random data, which says nothing about accuracy. ``dropped`` counts the rows of the last pass
    that did not fill a batch of a model with a fixed batch size. ``opening``: how the rows were opened from files, which another
    process does again, instead of being sent them (None: they are values).
    """

    opening: Opening | None = None

    def __init__(
        self,
        source: RowSource,
        schema: Schema,
        *,
        origin: str,
        keep: Index | None = None,
        synthetic: bool = False,
        has_labels: bool | None = None,
    ):
        self.schema, self.origin, self.synthetic, self.dropped = schema, origin, synthetic, 0
        self._source, self._keep = source, keep
        self.has_labels = self._look_at_first_row() if has_labels is None else has_labels

    def _look_at_first_row(self) -> bool:
        """Tell whether there are labels; raise DataError where the data plainly does not fit, before any long run."""
        keep = np.arange(1) if self._keep is None else self._keep[:1]
        first = next(self._source.read(keep, 1), {}) if self._source.count != 0 else {}
        if not first or not row_count(first):
            raise DataError(f"{self.origin} holds no rows")
        return LABELS in self._fit(first)

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        return self.schema.specs

    def __len__(self) -> int:
        """Return the number of rows; where only reading tells, this reads everything once."""
        return self._length

    @cached_property
    def _length(self) -> int:
        known = self._source.count
        if known is not None:
            return known if self._keep is None else len(self._keep)
        return sum(map(row_count, self._source.read(self._keep, DEFAULT_BATCH)))

    def batches(self, batch: int | None = None, most: int = DEFAULT_BATCH) -> Iterator[Feed]:
        """Yield input name -> array, see ``labelled``."""
        for inputs, _ in self.labelled(batch, most=most):
            yield inputs

    def labelled(
        self, batch: int | None = None, every: int | None = None, most: int = DEFAULT_BATCH
    ) -> Iterator[tuple[Feed, np.ndarray | None]]:
        """Yield (inputs, labels or None) per batch; raise DataError when the rows do not fill one fixed batch.

        A batch has as many rows as the model insists on, else ``batch``, else ``most`` or what fits into ROOM bytes.
        ``every``: a batch ends wherever so many rows are full, whatever came before.
        """
        fixed = self.schema.fixed_batch
        size = (fixed or batch or most) if self.schema.samples else 1
        dropped = emitted = position = 0
        for rows in rechunk(self._blocks(size), size, every, None if fixed or batch else ROOM):
            count = row_count(rows)
            position += count
            if fixed and count < fixed:
                dropped += count
                continue
            emitted += 1
            labels = rows.pop(LABELS, None)
            inputs = rows if self.schema.samples else {name: np.asarray(array[0]) for name, array in rows.items()}
            yield Feed(inputs, self._numbers(position - count, position)), labels
        self.dropped = dropped
        if not emitted:
            raise DataError(
                f"{self.origin}: {dropped} rows do not fill one batch of {fixed}, which the model insists on"
            )
        if dropped:
            logger.warning("%s: %d rows left out, they do not fill a batch of %s", self.origin, dropped, fixed)

    def samples(self, inputs: Mapping[str, np.ndarray]) -> int:
        """Return how many samples a batch holds: one where a row is everything that a run of the model takes."""
        return len(next(iter(inputs.values()))) if self.schema.samples else 1

    def _numbers(self, start: int, stop: int) -> Index:
        """Return the numbers that the rows from ``start`` to ``stop`` of this part have in the whole data."""
        return np.arange(start, stop) if self._keep is None else self._keep[start:stop]

    @property
    def labels(self) -> np.ndarray | None:
        """All labels in row order, or None."""
        if not self.has_labels:
            return None
        return np.concatenate([rows[LABELS] for rows in self._source.read(self._keep, DEFAULT_BATCH)])

    @cached_property
    def _hashes(self) -> tuple[list[str], str]:
        """Return the hash of each row's inputs, and one over all of these and the labels."""
        hashes: list[str] = []
        total = hashlib.sha256()
        for rows in self._blocks(DEFAULT_BATCH):
            labels = rows.pop(LABELS, None)
            for row in range(row_count(rows)):
                hashes.append(_hash_row({name: rows[name][row] for name in sorted(rows)}))
                total.update(bytes.fromhex(hashes[-1]))
                if labels is not None:
                    total.update(_hash_row({LABELS: labels[row]}).encode())
        return hashes, total.hexdigest()

    def sample_hashes(self) -> list[str]:
        """Return the sha256 of each row as the model sees it, labels left out."""
        return list(self._hashes[0])

    def digest(self) -> str:
        """Return the sha256 of all rows and labels in order, whatever files or blocks they came in."""
        return self._hashes[1]

    def known_digest(self, most: int) -> str | None:
        """Return the digest where it is known already, or of rows of no more than ``most`` bytes; else None."""
        if "_hashes" not in self.__dict__:
            first = next(self._blocks(1), None)
            size = sum(array.nbytes for array in map(np.asarray, (first or {}).values()))
            if size * len(self) > most:
                return None
        return self.digest()

    def split(self, part: float | int, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Return (rest, held out): ``part`` random rows (a count, or a share below 1) are held out, in their order."""
        count = len(self)
        held = part if isinstance(part, int) else round(count * part)
        if not 0 < held < count:
            raise DataError(f"{self.origin}: {part} of {count} rows cannot be held out; both parts need at least one")
        out = np.zeros(count, bool)
        out[np.random.default_rng(seed).choice(count, held, replace=False)] = True
        return self._subset(~out), self._subset(out)

    def rows(self, start: int, stop: int) -> Dataset:
        """Return the rows from number ``start`` up to ``stop``, or as many of them as there are."""
        return self._of(self._numbers(start, min(stop, len(self))))

    def take(self, count: int, seed: int = 0) -> Dataset:
        """Return ``count`` random rows in their order, or everything when there are no more."""
        return self if count >= len(self) else self.split(count, seed)[1]

    def _subset(self, mask: np.ndarray) -> Dataset:
        return self._of(np.flatnonzero(mask) if self._keep is None else self._keep[: len(mask)][mask])

    def _of(self, keep: Index | None) -> Dataset:
        result = Dataset(
            self._source,
            self.schema,
            origin=self.origin,
            keep=keep,
            synthetic=self.synthetic,
            has_labels=self.has_labels,
        )
        result.opening = self.opening
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Send rows that lie in files as what they were opened by, with the digest of these files; all others as they are."""
        if self.opening is None:
            return super().__reduce_ex__(protocol)
        return _opened_again, (self.opening, self.opening.fingerprint, self._keep, self.has_labels, len(self))

    def _blocks(self, size: int) -> Iterator[Rows]:
        """Yield rows that fit the model, in whatever blocks the source reads; raises DataError where they do not."""
        for rows in self._source.read(self._keep, size):
            if row_count(rows):
                yield self._fit(rows)

    def _fit(self, rows: Rows) -> Rows:
        labels = {LABELS: rows[LABELS]} if LABELS in rows else {}
        inputs = {spec.name: rows[spec.name] for spec in self.specs}
        return {name: self.schema.conform(name, array, self.origin) for name, array in inputs.items()} | labels


def _hash_row(arrays: Mapping[str, np.ndarray]) -> str:
    result = hashlib.sha256()
    for name, array in arrays.items():
        content = repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
        result.update(f"{name}\0{array.dtype.str}{array.shape}\0{len(content)}\0".encode())
        result.update(content)
    return result.hexdigest()


def rechunk(blocks: Iterable[Rows], size: int, every: int | None = None, room: int | None = None) -> Iterator[Rows]:
    """Yield blocks of exactly ``size`` rows, less only at the end, where the shape of a row changes and ``every`` so many rows.

    ``room``: bytes that a block may take; one of a single row takes what it takes.
    """
    pending: list[Rows] = []
    waiting = done = 0
    for rows in blocks:
        if pending and not _joinable(pending[-1], rows):
            yield _join(pending)
            pending, waiting, done = [], 0, done + waiting
        pending.append(rows)
        waiting += row_count(rows)
        fitting = size if room is None else _fitting(rows, size, room)
        if waiting < _next(fitting, every, done):
            continue
        joined, start = _join(pending), 0
        while waiting >= (full := _next(fitting, every, done)):
            yield {name: array[start : start + full] for name, array in joined.items()}
            start, waiting, done = start + full, waiting - full, done + full
        pending = [{name: array[start:] for name, array in joined.items()}] if waiting else []
    if pending:
        yield _join(pending)


def _fitting(rows: Rows, size: int, room: int) -> int:
    """Return how many rows like these take ``room`` bytes: ``size`` at most, one at least."""
    row = sum(array.nbytes for array in rows.values()) // max(row_count(rows), 1)
    return min(max(room // max(row, 1), 1), size)


def _next(size: int, every: int | None, done: int) -> int:
    """Return how many rows the next block has."""
    return size if every is None else min(size, every - done % every)


def _joinable(first: Rows, second: Rows) -> bool:
    return first.keys() == second.keys() and all(first[name].shape[1:] == second[name].shape[1:] for name in first)


def _join(blocks: list[Rows]) -> Rows:
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([rows[name] for rows in blocks]) for name in blocks[0]}


def open_dataset(
    data: Any,
    specs: Sequence[InputSpec] | Schema,
    *,
    labels: Any = None,
    samples: int | None = None,
    seed: int = 0,
    **how: Unpack[ReadOptions],
) -> Dataset:
    """Return the data behind a path or Python value as a Dataset for a model with these inputs.

    Paths: .npy, .npz, .wav, .txt (with a tokenizer), a folder of .npy, .npz or .wav, ``test_data_set_*`` folders, a folder of images, or a .py file with
    ``load_data()`` or a CalibrationDataReader; the .py file is executed, nothing else ever is. Values: an array, a dict
    of arrays, an iterable of dicts or arrays, a function returning one of these, a data reader.
    ``labels``: a path or an array, one per row. ``samples``: so many random rows (of unknown length: the first).
    ``specs``: a ``Schema`` with ``whole_feeds`` for models whose first axis is not the batch, though it looks like one.
    ``how``: see ``ReadOptions``. Raises DataError when the data cannot be read or does not fit the model.
    """
    schema = specs if isinstance(specs, Schema) else Schema(tuple(specs))
    schema = replace(schema, states=how.get("decoding", NO_DECODER).state)
    if not schema.specs:
        raise DataError("the model has no inputs to feed data to")
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} samples are too few: at least one is needed")
    if isinstance(data, Dataset):
        return data if samples is None else data.take(samples, seed)
    origin = str(data) if isinstance(data, str | os.PathLike) else "the data"
    opening = Opening.of(data, schema, labels, samples, how)
    source, schema = _open_whole(data, Request(schema, samples, **how), labels, origin)
    first = np.arange(samples) if samples is not None and source.count is None else None
    dataset = Dataset(source, schema, origin=origin, keep=first)
    dataset.opening = opening
    return dataset if samples is None or first is not None else dataset.take(samples, seed)


def _opened_again(opening: Opening, fingerprint: str, keep: Index | None, labelled: bool, count: int) -> Dataset:
    """Return a dataset in another process; raises DataError where there are other files."""
    opening.require(fingerprint)
    source, schema = _open_whole(
        opening.data, Request(opening.schema, opening.samples, **opening.how), opening.labels, opening.data
    )
    dataset = Dataset(source, schema, origin=opening.data, keep=keep, has_labels=labelled)
    dataset.opening = opening
    dataset._length = count
    return dataset


def _open_whole(data: Any, request: Request, labels: Any, origin: str) -> tuple[RowSource, Schema]:
    """Open data that may lack inputs whose values are given; return it with what its rows then are."""
    schema, values = request.schema, request.values
    check_names(values, schema.by_name)
    follows = _following(request)
    if isinstance(data, Iterator):
        data, first = _peeked(data)
        values, follows = {name: value for name, value in values.items() if name not in first}, follows - first
    lacking = [spec for spec in schema.specs if spec.name in values or spec.name in follows]
    while lacking:
        rest = tuple(spec for spec in schema.specs if spec not in lacking)
        given = replace(schema, specs=rest, lacking=frozenset(spec.name for spec in lacking))
        if not rest:
            raise DataError(f"{origin}: every input is fed a value (--input-value), so that no data is needed")
        try:
            source = _labelled(open_source(data, replace(request, schema=given)), labels, origin)
            next(source.read(np.arange(1), 1), None)  # what only reading tells
        except NotLacking as error:
            lacking = [spec for spec in lacking if spec.name not in error.names]
            continue
        following = tuple(spec for spec in lacking if spec.name in follows)
        valued = tuple(spec for spec in lacking if spec not in following)
        if following:
            given = replace(schema, specs=tuple(spec for spec in schema.specs if spec not in valued))
            source = Decoded(source, following, request.decoding, origin, not given.samples)
        if not valued:
            return source, schema
        return Completed(source, given, valued, values, request.sizes, origin), replace(schema, whole_feeds=True)
    source = _labelled(open_source(data, request), labels, origin)
    return source, replace(schema, whole_feeds=True) if source.whole_feeds else schema


def _following(request: Request) -> frozenset[str]:
    """Return the inputs that a decoder needs beside token numbers, and that these tell; text tells its own masks."""
    decoding, by_name = request.decoding, request.schema.by_name
    if decoding.tokens not in by_name or by_name[decoding.tokens].dtype.kind not in "iu":
        return frozenset()
    told = decoding.masks if request.text is not None else ()
    return frozenset(decoding.beside).difference(told, request.values).intersection(by_name)


def _labelled(source: RowSource, labels: Any, origin: str) -> RowSource:
    """Return a source with its labels; say what was taken for a single row."""
    for name, shape in source.lone.items() if isinstance(source, Columns) else ():
        text = "%s: %r has the shape %s, that of one sample without a first axis that counts rows: taken as a single sample"
        logger.warning(text, origin, name, list(shape))
    return source if labels is None else Labelled(source, _label_column(labels), origin)


def _peeked(data: Iterator[Any]) -> tuple[Iterator[Any], frozenset[str]]:
    """Return an iterator as it was, and the names in its first item."""
    first = list(itertools.islice(data, 1))
    names = frozenset(map(str, first[0])) if first and isinstance(first[0], Mapping) else frozenset()
    return itertools.chain(first, data), names


def _label_column(labels: Any) -> Column:
    if isinstance(labels, str | os.PathLike):
        return open_labels(Path(labels))
    return ArrayColumn(as_array(labels, "labels"))


def shared_rows(first: Dataset, second: Dataset) -> list[int]:
    """Return the rows of ``second`` whose inputs also occur in ``first``, byte for byte."""
    known = set(first.sample_hashes())
    return [row for row, digest in enumerate(second.sample_hashes()) if digest in known]


def random_dataset(
    specs: Sequence[InputSpec],
    samples: int = 1,
    seed: int = 0,
    sizes: OpenSizes | None = None,
    values: FedValues | None = None,
) -> Dataset:
    """Return random rows, marked ``synthetic``: standard normal floats, integers 0 or 1, booleans.

    ``sizes`` gives dimensions the model leaves open: symbol -> size, or input name -> whole shape; ``values`` what inputs are fed.
    Raises DataError where a size is still open or a dtype cannot be drawn.
    """
    schema = Schema(tuple(specs))
    table = Columns(random_columns(schema, samples, seed, sizes or {}, values or {}), schema, "random data")
    return Dataset(table, schema, origin="random data", synthetic=True)
