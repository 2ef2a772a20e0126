"""What a program feeds a session, as plain arrays, and the samples in it."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

TYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip
"""What ONNX Runtime calls an element type -> numpy's name."""

NOT_PLAIN = "an input is no tensor of numbers or text in the memory of the CPU"
NOT_FINITE = "NaN or infinity in an input"
TOO_LARGE = "larger than all that may be kept"


class LeftOut(Exception):
    """A call or sample that is not kept; the message says why."""


def plain(value: Any, kind: str = "") -> np.ndarray:
    """Return a value that ONNX Runtime takes as an array of numbers, flags or text of fixed length; raises LeftOut.

    ``kind``: the element type that the session expects, for lists and numbers.
    """
    if isinstance(value, Bound):
        value = value.array()
    if hasattr(value, "device_name") and hasattr(value, "numpy"):  # an OrtValue
        if value.device_name().lower() != "cpu":
            raise LeftOut(NOT_PLAIN)
        value = value.numpy()
    if isinstance(value, (list, int, float, bool, str)):
        value = np.asarray(value, TYPES.get(kind))
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise LeftOut(NOT_PLAIN)
    if value.dtype.kind in "OS" and all(isinstance(item, (str, bytes)) for item in value.flat):
        value = value.astype("U")
    if value.dtype.kind not in "biufU":
        raise LeftOut(NOT_PLAIN)
    return value


def all_finite(arrays: Mapping[str, np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")


class Bound:
    """Memory of the CPU that a program bound to an input by its address."""

    def __init__(self, element_type: Any, shape: Sequence[int], address: int):
        self._dtype, self._shape, self._address = np.dtype(element_type), tuple(shape), address

    def array(self) -> np.ndarray:
        """Return what the memory holds now."""
        size = self._dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))
        content = ctypes.string_at(self._address, size)
        return np.frombuffer(content, self._dtype).reshape(self._shape)


def sample_count(shapes: Mapping[str, Sequence[Any]], arrays: Mapping[str, np.ndarray]) -> int | None:
    """Return how many samples a call holds along the first axes of its inputs; None where it is one sample as a whole.

    ``shapes``: name -> declared sizes (an integer where fixed; nothing where not even the rank is declared). Samples lie along the
    first axes where all of these are free, or all fixed to one size: what reads the recording takes rows of data so
    (``data.inputs.Schema.samples``).
    """
    leads: set[int | None] = set()
    lengths: set[int] = set()
    for name, array in arrays.items():
        if not array.ndim:
            return None
        lengths.add(len(array))
        if shapes.get(name):
            leads.add(shapes[name][0] if isinstance(shapes[name][0], int) else None)
    return lengths.pop() if len(leads) <= 1 and len(lengths) == 1 else None


def batch_axis(
    declared: Sequence[Any] | None, batch_symbols: Collection[str], count: int | None, array: np.ndarray
) -> int | None:
    """Return the axis of an output along which ``count`` samples lie, None where that cannot be told.

    ``declared``: its declared sizes; ``batch_symbols``: the names that the first axes of the inputs have.
    """
    named = [axis for axis, size in enumerate(declared or ()) if isinstance(size, str) and size in batch_symbols]
    axis = named[0] if named else 0
    return axis if axis < array.ndim and array.shape[axis] == count else None
