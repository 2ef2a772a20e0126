"""What a model expects to be fed, and whether an array fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from onnxprune.errors import DataError, ModelError
from onnxprune.registry import near_names

LABELS = "<labels>"
"""Key of the labels among the arrays of one block of rows."""

LABEL_KEYS = ("labels", "label", "y")

Rows = dict[str, np.ndarray]
"""Arrays by input name (and LABELS), all with the same leading length: the number of rows."""

DeclaredShape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class InputSpec:
    """One graph input: dimensions are ints, symbols, or None; ``shape`` is None when not even the rank is known."""

    name: str
    dtype: np.dtype
    shape: DeclaredShape | None

    def __str__(self) -> str:
        dims = "..." if self.shape is None else ",".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name!r} {self.dtype}[{dims}]"


def input_specs(proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """Return the inputs to feed: graph inputs that are not initializers; raise ModelError for what is no tensor."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return tuple(_spec(value) for value in proto.graph.input if value.name not in constants)


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(
            f"graph input {value.name!r} is not a tensor ({kind or 'no type'}): it cannot be fed from arrays"
        )
    shape = tuple(_dimension(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return InputSpec(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


class NotLacking(DataError):
    """Data has inputs that it was taken to lack: ``names``."""

    def __init__(self, message: str, names: Iterable[str]):
        super().__init__(message)
        self.names = frozenset(names)


@dataclass(frozen=True)
class Schema:
    """What one row of data looks like.

    Where all inputs share a leading batch dimension, a row is one sample. Where they do not (a scalar input, or
    ``[sequence, batch, width]`` beside ``[layers, batch, width]``) a row is one whole feed, passed on as it is;
    ``whole_feeds`` says so where the shapes alone do not tell. ``lacking``: further inputs, which the data is taken not to have.
    ``states``: inputs that a run gives to the next one (the cache of a decoder).
    """

    specs: tuple[InputSpec, ...]
    whole_feeds: bool = False
    lacking: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()

    @property
    def fresh(self) -> tuple[InputSpec, ...]:
        """The inputs that come from outside, not from an earlier run."""
        return tuple(spec for spec in self.specs if spec.name not in self.states)

    @cached_property
    def by_name(self) -> dict[str, InputSpec]:
        return {spec.name: spec for spec in self.specs}

    @cached_property
    def samples(self) -> bool:
        """Whether rows are samples of a batch rather than whole feeds."""
        shapes = [spec.shape for spec in self.specs if spec.shape is not None]
        leads = {shape[0] if shape and isinstance(shape[0], int) else None for shape in shapes}
        return not self.whole_feeds and all(shapes) and len(leads) <= 1

    @cached_property
    def fixed_batch(self) -> int | None:
        """The batch size the model insists on, if it does."""
        leads = [spec.shape[0] for spec in self.specs if self.samples and spec.shape]
        return next((lead for lead in leads if isinstance(lead, int)), None)

    @cached_property
    def padding_mask(self) -> str:
        """Name of the input that says which steps of a sequence count ("" where there is none): whole numbers or flags per step."""
        found = (spec for spec in self.specs if "mask" in spec.name.lower() and len(spec.shape or ()) == 2)
        return next((spec.name for spec in found if spec.dtype.kind in "iub" and self.samples), "")

    def row_shape(self, name: str) -> DeclaredShape | None:
        """Shape of one row of an input, without the row axis."""
        shape = self.by_name[name].shape
        return shape[1:] if shape is not None and self.samples else shape

    def is_single_row(self, name: str, ndim: int) -> bool:
        """Whether an array of this rank is one row without a row axis."""
        row = self.row_shape(name)
        return ndim == 0 or (row is not None and ndim == len(row))

    def names(self, keys: Iterable[str], where: str) -> dict[str, str]:
        """Map the keys of arrays to input names and LABELS; raise DataError, with near names, for a mismatch."""
        keys = list(keys)
        names = {key: key for key in keys if key in self.by_name}
        labels = [key for key in keys if key.lower() in LABEL_KEYS and key not in names]
        if found := self.lacking.intersection(keys):
            raise NotLacking(f"{where}: there is data for {', '.join(sorted(found))}", found)
        others = [key for key in keys if key not in names and key not in labels]
        if len(labels) > 1:
            raise DataError(f"{where}: several arrays could be the labels: {', '.join(map(repr, labels))}; keep one")
        if len(self.specs) == 1 and len(others) == 1 and not names:
            names, others = {others[0]: self.specs[0].name}, []
        expected = "the model's inputs are " + ", ".join(map(str, self.specs))
        if others:
            hint = near_names(others[0], list(self.by_name)) or f"; {expected}"
            raise DataError(f"{where}: array {others[0]!r} is no input of the model{hint}")
        missing = [name for name in self.by_name if name not in names.values()]
        if missing:
            raise DataError(
                f"{where}: no array for input {missing[0]!r} (found: {', '.join(keys) or 'none'}); {expected}"
            )
        return names | dict.fromkeys(labels, LABELS)

    def rows(self, arrays: Mapping[str, np.ndarray], where: str) -> Rows:
        """Return named arrays as rows: keys resolved, row axis added to single rows, equal lengths; raise DataError."""
        named = {name: arrays[key] for key, name in self.names(arrays, where).items()}
        labels = named.pop(LABELS, None)
        rows = {name: a[None] if self.is_single_row(name, a.ndim) else a for name, a in named.items()}
        count = equal_count({name: len(array) for name, array in rows.items()}, where)
        if labels is None:
            return rows
        labels = labels[None] if count == 1 and labels.shape[:1] != (1,) else labels
        equal_count({"the inputs": count, "the labels": len(labels) if labels.ndim else 0}, where)
        return rows | {LABELS: labels}

    def conform(self, name: str, array: np.ndarray, where: str) -> np.ndarray:
        """Return the rows in the dtype of the input; raise DataError for a wrong rank, dimension, dtype or NaN/Inf."""
        spec, row = self.by_name[name], self.row_shape(name)
        if row is not None and not _fits(array.shape[1:], row):
            hint = "; --layout, --mean, --std or --scale turn uint8 images into what the model wants"
            raise DataError(
                f"{where}: input {spec} cannot take rows of shape {list(array.shape[1:])}"
                + (hint if array.dtype == np.uint8 and array.ndim == 4 else "; reshape the data or pass the right file")
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise DataError(
                f"{where}: data for input {name!r} has NaN or Inf (first in row {bad} of its block); clean it first"
            )
        return _cast(array, spec, where)


def _fits(actual: tuple[int, ...], expected: DeclaredShape) -> bool:
    return len(actual) == len(expected) and all(
        want == got for want, got in zip(expected, actual, strict=True) if isinstance(want, int)
    )


def _cast(array: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    """Cast where no value is lost but float rounding."""
    if array.dtype == spec.dtype:
        return array
    both_float = np.issubdtype(array.dtype, np.floating) and np.issubdtype(spec.dtype, np.floating)
    from_integer = array.dtype.kind in "iub" and spec.dtype.kind in "iubf"
    text = array.dtype.kind == "U" and spec.dtype.kind == "O"
    if both_float or from_integer or text:
        with np.errstate(over="ignore"):
            result = array.astype(spec.dtype)
        if text or (np.isfinite(result).all() if both_float else np.array_equal(result, array)):
            return result
    raise DataError(
        f"{where}: {array.dtype} data does not fit input {spec} without losing values; "
        f"convert it to {spec.dtype} first, the way the model was trained"
    )


def equal_count(counts: Mapping[str, int], where: str) -> int:
    """Return the common number of rows; raise DataError when the counts differ."""
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(f"{where}: the number of rows differs ({listed}); every input and the labels need the same")
    return next(iter(counts.values()))
