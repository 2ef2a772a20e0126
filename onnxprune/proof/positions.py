"""How far two values are apart, each position measured on its own scale, so that large positions hide nothing in small ones.

The scale of a position of an axis is the largest magnitude of the original there; an element goes by the smallest scale of its
positions. Boxes in pixels and class scores of one tensor are positions of its channel axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_FEWER = 1000.0  # a position's scale counts at least as this part of the value's largest magnitude
TIES = 0.02  # share of integers that may differ: a tie may fall the other way in an ArgMax
FALLEN = 2  # elements of sixteen or more that may fall to the other side of a step
SEQUENCE_TOLERANCE = 1e-2  # of each element's largest value: elements may be single numbers


@dataclass(frozen=True)
class Difference:
    """``error``: the largest difference over its position's scale; ``absolute``: the largest; ``seen``: whether anything said so.

    Nothing is seen where no element is ``finite``, or where all are zero.
    """

    error: float = 0.0
    absolute: float = 0.0
    seen: bool = False
    finite: bool = False

    def __or__(self, other: Difference) -> Difference:
        """Return what both together say."""
        return Difference(
            max(self.error, other.error),
            max(self.absolute, other.absolute),
            self.seen or other.seen,
            self.finite or other.finite,
        )


WRONG = Difference(np.inf, np.inf, True, True)


def difference(want: Any, have: Any) -> Difference:
    """Compare a value with the reference's where that is finite, integers up to ties.

    Silence is a zero, and zero times infinity is no number: where the reference has none, it says nothing.
    """
    if not isinstance(want, np.ndarray) or want.dtype.kind in "OUS" or want.shape != np.shape(have):
        return Difference(seen=_tells(want), finite=True) if _same(want, have) else WRONG
    if want.dtype.kind not in "fc" and want.dtype.name != "bfloat16":
        wrong = float(np.mean(want != have)) if want.size else 0.0
        return Difference(0.0 if wrong <= TIES else np.inf, wrong, bool(want.size), bool(want.size))
    with np.errstate(over="ignore", invalid="ignore"):
        return _of_floats(_plain(want), _plain(np.asarray(have)))


def _of_floats(a: np.ndarray, b: np.ndarray) -> Difference:
    finite = np.isfinite(a)
    if not np.isfinite(b[finite]).all():
        return WRONG
    if not finite.all():
        a, b = np.where(finite, a, 0), np.where(finite, b, 0)
    largest = float(np.abs(a).max(initial=0.0))
    apart = np.abs(a - b)
    absolute = float(apart.max(initial=0.0))
    if absolute == 0.0 or largest == 0.0:
        return Difference(0.0 if absolute <= 1e-30 else np.inf, absolute, largest > 0.0, bool(finite.any()))
    return Difference(float((apart / _scales(a, largest)).max()), absolute, True, True)


def step_difference(want: Any, have: Any) -> Difference:
    """Compare what quantisers, roundings and comparisons give on equal operands: few elements may fall to the other side."""
    if not isinstance(want, np.ndarray) or want.shape != np.shape(have):
        return WRONG
    apart = np.abs(want - have) > 1e-4 * np.abs(want).max(initial=0.0) if want.dtype.kind == "f" else want != have
    count = int(np.count_nonzero(apart))
    return Difference(
        0.0 if count <= max(min(FALLEN, want.size // 16), TIES * want.size) else np.inf,
        count / max(want.size, 1),
        bool(want.size),
        True,
    )


def _plain(value: np.ndarray) -> np.ndarray:
    return value if value.dtype in (np.float32, np.float64) else value.astype(np.float32)


def _scales(a: np.ndarray, largest: float) -> np.ndarray:
    """Return for each element the smallest scale of its positions; few elements in a position say little about its scale."""
    magnitude, scales = np.abs(a), np.full((1,) * a.ndim, largest, a.dtype)
    for axis, size in enumerate(a.shape):
        if size > 1:
            others = tuple(other for other in range(a.ndim) if other != axis)
            floor = largest / min(a.size // size, MOST_FEWER)
            scales = np.minimum(scales, np.maximum(magnitude.max(axis=others, keepdims=True), floor))
    return scales


def _tells(value: Any) -> bool:
    """Whether a sequence, a map or a text holds anything that could differ."""
    if isinstance(value, list | dict | str):
        return len(value) > 0
    return value is not None and np.size(value) > 0


def _same(want: Any, have: Any) -> bool:
    """Whether sequences, or maps such as a classifier's probabilities, agree element by element."""
    if isinstance(want, list) and isinstance(have, list):
        return len(want) == len(have) and all(map(_same, want, have))
    if isinstance(want, dict) and isinstance(have, dict):
        return want.keys() == have.keys() and all(_same(want[key], have[key]) for key in want)
    if isinstance(want, str) or want is None or have is None:
        return want is have or want == have
    a, b = np.asarray(want), np.asarray(have)
    if a.dtype.kind in "OUS" or a.shape != b.shape:
        return a.shape == b.shape and bool((a == b).all())
    return difference(a, b).error < SEQUENCE_TOLERANCE
