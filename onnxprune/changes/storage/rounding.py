"""The numbers that a form can hold, and how far they are from those that were given."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnxprune.changes.storage.forms import HALF

WITHIN = 2.0**-11
"""Of the largest magnitude: how near every number comes that float16 holds, unless all are large or tiny."""


class Rounded(NamedTuple):
    """``error``: the largest distance from what was given, as a share of the largest magnitude; 0 for what is as it was."""

    array: np.ndarray
    error: float


def to_half(array: np.ndarray) -> Rounded:
    """Return an array rounded to float16, in its own type and with +0 for -0; as it is where float16 cannot hold its values.

    It cannot where a finite value becomes infinite, or tiny ones lose more than ``WITHIN`` of the largest.
    """
    if array.dtype == HALF:
        return Rounded(array + HALF.type(0), 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        half = array.astype(HALF).astype(array.dtype)
    error = distance(array, half)
    return Rounded(half + array.dtype.type(0), error) if error <= WITHIN else Rounded(array + array.dtype.type(0), 0.0)


def distance(array: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of finite values as a share of the largest; infinite where one has become infinite."""
    finite = np.isfinite(array)
    if not finite.all():
        array, other = array[finite], other[finite]
    if not np.isfinite(other).all():
        return np.inf
    largest = max(float(array.max(initial=0.0)), -float(array.min(initial=0.0)))
    return float(np.abs(array - other).max(initial=0.0)) / largest if largest else 0.0
