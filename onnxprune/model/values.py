"""What inputs are fed where no data says so: values that were given by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.registry import near_names

Numbers = tuple[int | float | bool, ...]
FedValues = Mapping[str, Numbers]
"""Input -> a number, or several that are its last axes or all of it."""


def filled(name: str, numbers: Sequence[float], shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return the content of an input of this shape; raises UsageError where the numbers are not of its type or do not fill it."""
    array = np.asarray(numbers)
    with np.errstate(all="ignore"):
        cast = array.astype(dtype) if dtype.kind in "fiub" or dtype.name == "bfloat16" else array[:0]
    if cast.size != array.size or not np.allclose(cast.astype(np.float64), array.astype(np.float64), rtol=1e-2, atol=0):
        raise UsageError(f"--input-value {name}: {_said(numbers)} is not of the input's type {dtype}")
    if array.size == 1:
        return np.full(shape, cast[0], dtype)
    try:
        whole = cast.reshape(shape) if cast.size == np.prod(shape, dtype=np.int64) else np.broadcast_to(cast, shape)
    except ValueError:
        raise UsageError(
            f"--input-value {name}: {len(numbers)} numbers do not fill an input of the shape {list(shape)}; "
            f"give one number, {shape[-1] if shape else 1} or {np.prod(shape, dtype=np.int64)}"
        ) from None
    return np.ascontiguousarray(whole).reshape(shape)


def check_names(values: FedValues, inputs: Iterable[str]) -> None:
    """Raise UsageError, with near names, for a value of what is no input."""
    known = list(inputs)
    for name in values:
        if name not in known:
            hint = near_names(name, known) or f"; its inputs are {', '.join(known)}"
            raise UsageError(f"--input-value: the model has no input {name!r}{hint}")


def _said(numbers: Sequence[float]) -> str:
    return ",".join(str(number).lower() for number in numbers)
