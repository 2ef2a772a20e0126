"""Rows of token numbers for a decoder with a cache: what follows from the tokens is filled in, and the cache is empty."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxprune.data.columns import Index
from onnxprune.data.inputs import LABELS, InputSpec, Rows
from onnxprune.data.sources import RowSource, row_count
from onnxprune.errors import DataError
from onnxprune.model.decoding import HEADS, LENGTH, WIDTH, Decoding

logger = logging.getLogger(__name__)


@dataclass
class Decoded(RowSource):
    """Rows of ``inner`` with the inputs that they lack: masks of ones, places counted along the mask, flags that
    say that there is no past, and caches of length 0.

    Where attention counts keys by the sum of a mask, padding on the left moves to the right. ``feeds``: a row is a whole feed, as
    flags have no axis of samples. Raises DataError where caches leave more than their length open.
    """

    inner: RowSource
    lacking: tuple[InputSpec, ...]
    decoding: Decoding
    where: str
    feeds: bool = False
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.count = self.inner.count
        for spec in self.lacking:
            if spec.name in self.decoding.state:
                self._cache(spec, 1)

    def read(self, keep: Index | None, size: int) -> Iterator[Rows]:
        for rows in self.inner.read(keep, size):
            whole = self._whole(rows)
            yield {name: array[:, None] if self._is_row(name) else array for name, array in whole.items()}

    def _is_row(self, name: str) -> bool:
        return self.feeds and name != LABELS and name not in self.decoding.flags

    def _whole(self, rows: Rows) -> Rows:
        decoding, count = self.decoding, row_count(rows)
        tokens = rows.get(decoding.tokens)
        if tokens is None or tokens.ndim < 2:
            raise DataError(f"{self.where}: rows of {decoding.tokens!r} are token numbers [rows, length]")
        mask = next((rows[name] for name in decoding.masks if name in rows), None)
        if mask is not None and decoding.counted:
            rows = self._to_the_right(rows, mask)
            mask = next(rows[name] for name in decoding.masks if name in rows)
        counted = np.ones(tokens.shape[:2], np.int64) if mask is None else (mask != 0).astype(np.int64)
        places = np.maximum(np.cumsum(counted, axis=1) - 1, 0)
        for spec in self.lacking:
            if spec.name in decoding.masks:
                rows[spec.name] = counted.astype(spec.dtype)
            elif spec.name in decoding.places:
                rows[spec.name] = places.astype(spec.dtype)
            elif spec.name in decoding.flags:
                rows[spec.name] = np.zeros((count, *[1] * len(spec.shape or ())), spec.dtype)
            else:
                rows[spec.name] = self._cache(spec, count)
        return rows

    def _to_the_right(self, rows: Rows, mask: np.ndarray) -> Rows:
        """Return rows whose tokens come first; those that are not padding stay in their order."""
        counted = mask != 0
        if not (counted[:, 1:] & ~counted[:, :-1]).any():
            return rows
        if not self.told:
            self.told.append("padding")
            logger.warning(
                "%s: padding on the left is moved to the right, as attention counts keys from the first", self.where
            )
        order = np.argsort(~counted, axis=1, kind="stable")
        names = {self.decoding.tokens, *self.decoding.masks, *self.decoding.places} & rows.keys()
        moved = {
            name: np.take_along_axis(rows[name], order.reshape(*order.shape, *[1] * (rows[name].ndim - 2)), 1)
            for name in names
        }
        return rows | moved

    def _cache(self, spec: InputSpec, count: int) -> np.ndarray:
        """Return so many empty caches."""
        cache = next(cache for cache in self.decoding.caches if cache.past == spec.name)
        known = {**cache.sizes, LENGTH: cache.window}
        shape = [dim if isinstance(dim, int) else known.get(axis) for axis, dim in enumerate(spec.shape or ()) if axis]
        sizes = [cache.window if axis == LENGTH - 1 else dim for axis, dim in enumerate(shape) if dim is not None]
        if len(sizes) < len(shape):
            raise DataError(
                f"{self.where}: input {spec} is the cache of a decoder, and does not say how many heads it has and how wide they "
                f"are (axes {HEADS} and {WIDTH}); export it with these sizes, or give rows of it, of length 0"
            )
        return np.zeros((count, *sizes), spec.dtype)
