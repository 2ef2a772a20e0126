"""Random rows for models without data: they exercise a model, they say nothing about its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxprune.data.columns import ArrayColumn, Column, Index
from onnxprune.data.inputs import InputSpec, Schema
from onnxprune.errors import DataError
from onnxprune.model.values import FedValues, filled

INTEGERS_BELOW = 2
"""Random integers are 0 or 1: valid as masks, as token types and as indices of any table."""

OpenSizes = Mapping[str, int | Sequence[int]]
"""Dimensions the model leaves open: symbol -> size, or input name -> whole shape."""


class RandomColumn(Column):
    """Random rows of one input; row ``i`` depends on the seed, the input's position and ``i`` alone."""

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...], seed: Sequence[int]):
        self.dtype, self.shape, self.seed = dtype, shape, tuple(seed)

    def load(self) -> np.ndarray:
        return np.stack([self._row(row) for row in range(self.shape[0])])

    def blocks(self, keep: Index, size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(keep), size):
            yield np.stack([self._row(int(row)) for row in keep[start : start + size]])

    def _row(self, row: int) -> np.ndarray:
        generator = np.random.default_rng([*self.seed, row])
        shape = self.shape[1:]
        values = (
            generator.standard_normal(shape)
            if self.dtype.kind == "f"
            else generator.integers(INTEGERS_BELOW, size=shape)
        )
        return np.asarray(values).astype(self.dtype)


def random_columns(schema: Schema, samples: int, seed: int, sizes: OpenSizes, values: FedValues) -> dict[str, Column]:
    """Return a random column per input; raise DataError for dtypes that cannot be drawn and sizes left open."""
    columns: dict[str, Column] = {}
    for position, spec in enumerate(schema.specs):
        if spec.dtype.kind not in "fiub":
            raise DataError(f"no random data for input {spec}: pass calibration data")
        shape = (samples, *row_sizes(schema, spec, sizes))
        if spec.name in values:
            columns[spec.name] = ArrayColumn(np.asarray(filled(spec.name, values[spec.name], shape, spec.dtype)))
            continue
        columns[spec.name] = RandomColumn(spec.dtype, shape, (seed, position))
    return columns


def row_sizes(schema: Schema, spec: InputSpec, sizes: OpenSizes) -> list[int]:
    """Return the shape of one row of an input with every open dimension settled; raise DataError where one is not."""
    whole = sizes.get(spec.name)
    if whole is not None and not isinstance(whole, int):
        return list(whole[1:] if schema.samples else whole)
    row = schema.row_shape(spec.name)
    settled = [sizes.get(dim) if isinstance(dim, str) else dim for dim in row or ()]
    known = [dim for dim in settled if isinstance(dim, int)]
    if row is None or len(known) < len(settled):
        example = ",".join(["1"] * schema.samples + [str(dim) if isinstance(dim, int) else "8" for dim in settled])
        raise DataError(f"input {spec} leaves sizes open: settle them, e.g. --input-shape {spec.name}:{example}")
    return known
