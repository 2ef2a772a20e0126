"""Rows that lack inputs whose values were given: completed to whole feeds of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.data.columns import Index
from onnxprune.data.inputs import LABELS, InputSpec, Rows, Schema
from onnxprune.data.sources import RowSource, row_count
from onnxprune.errors import DataError
from onnxprune.model.values import FedValues, filled


@dataclass
class Completed(RowSource):
    """Rows of ``inner``, read by ``given``, with the values of the inputs that they lack; each is a whole feed.

    Where rows of ``given`` are samples a feed is one of them, or as many as a fixed batch takes. ``sizes``: whole shapes of inputs
    that leave theirs open.
    """

    inner: RowSource
    given: Schema
    lacking: tuple[InputSpec, ...]
    values: FedValues
    sizes: Mapping[str, tuple[int, ...]]
    where: str

    def __post_init__(self) -> None:
        self.batch = (self.given.fixed_batch or 1) if self.given.samples else 0
        whole = self.inner.count
        self.count = None if whole is None else whole // max(self.batch, 1)

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        """Yield whole feeds; rows that do not fill one at the end are left out, as those that fill no batch are."""
        batch = max(self.batch, 1)
        if keep is not None and batch > 1:
            keep = (keep[:, None] * batch + np.arange(batch)).reshape(-1)
        for rows in self._parts(keep, size * batch):
            count = row_count(rows) // batch
            if count:
                cut = {name: array[: count * batch] for name, array in rows.items()}
                yield self._whole(cut, count)

    def _parts(self, keep: Index | None, size: int) -> Iterator[Rows]:
        """Yield blocks of the inner rows in whole batches where that can be; without any, as they come."""
        if self.batch <= 1:
            yield from self.inner.read(keep, size)
            return
        held: Rows = {}
        for rows in self.inner.read(keep, size):
            held = {name: np.concatenate([held[name], array]) for name, array in rows.items()} if held else rows
            full = row_count(held) // self.batch * self.batch
            if full:
                yield {name: array[:full] for name, array in held.items()}
                held = {name: array[full:] for name, array in held.items()}

    def _whole(self, rows: Rows, count: int) -> Rows:
        labels = {LABELS: rows.pop(LABELS)} if LABELS in rows else {}
        if self.batch:
            rows = {name: array.reshape(count, self.batch, *array.shape[1:]) for name, array in rows.items()}
            labels = {name: a if self.batch == 1 else a.reshape(count, self.batch) for name, a in labels.items()}
        for spec in self.lacking:
            value = filled(spec.name, self.values[spec.name], self._shape(spec, rows), spec.dtype)
            rows[spec.name] = np.broadcast_to(value, (count, *value.shape))
        return rows | labels

    def _shape(self, spec: InputSpec, rows: Rows) -> tuple[int, ...]:
        """Return the shape of an input in one feed, its free sizes as the others have them."""
        if spec.name in self.sizes:
            return self.sizes[spec.name]
        known: dict[object, int] = {}
        for other in self.given.specs:
            dims = () if other.shape is None else other.shape
            known.update(zip(dims, rows[other.name].shape[1:], strict=False))
        shape = [dim if isinstance(dim, int) else known.get(dim) if dim else None for dim in spec.shape or ()]
        if spec.shape and self.batch and shape[0] is None:
            shape[0] = self.batch
        if None in shape:
            example = ",".join("1" if dim is None else str(dim) for dim in shape)
            raise DataError(
                f"{self.where}: input {spec} is fed a value, and no data gives it the sizes that it leaves open; give them, "
                f"e.g. --input-shape {spec.name}:{example}"
            )
        return tuple(dim for dim in shape if dim is not None)
