"""How the axes of a checkpoint's tensor lie in one of a model's: alike, without axes of one position, or in another order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from onnxprune.model.sizes import Shape

AxisMap = tuple[int | None, ...]
"""Axis of a checkpoint's tensor -> the axis of a model's that it is; None for one of a single position that is none there."""
ORDERS: tuple[tuple[int, ...], ...] = ((1, 0), (2, 1, 0), (2, 3, 1, 0))
"""Orders in which frameworks keep what operators take: a product's matrix turned over, kernels with their window in front."""


def placings(own: Shape, other: Shape) -> Iterator[AxisMap]:
    """Yield how a tensor of shape ``own`` can be one of shape ``other``, the likeliest first; axes of one position do not count."""
    if own == other:
        yield tuple(range(len(own)))
    mine = [axis for axis, size in enumerate(own) if size != 1]
    theirs = [axis for axis, size in enumerate(other) if size != 1]
    for order in (tuple(range(len(theirs))), *ORDERS):
        if len(order) != len(mine) or len(mine) != len(theirs):
            continue
        found: list[int | None] = [None] * len(own)
        for axis, place in zip(mine, order, strict=True):
            found[axis] = theirs[place]
        if all(own[axis] == other[theirs[place]] for axis, place in zip(mine, order, strict=True)):
            axes = tuple(found)
            if own != other or axes != tuple(axis if own[axis] != 1 else None for axis in range(len(own))):
                yield axes


def is_turned(axes: AxisMap) -> bool:
    """Whether axes lie in another order."""
    there = [axis for axis in axes if axis is not None]
    return there != sorted(there)


def laid_as(array: np.ndarray, axes: AxisMap, shape: Shape) -> np.ndarray:
    """Return a checkpoint's tensor as the model has it, of this shape."""
    there = [axis for axis in axes if axis is not None]
    own = [axis for axis, place in enumerate(axes) if place is not None]
    core = array.reshape([array.shape[axis] for axis in own])
    return core.transpose(np.argsort(there)).reshape(shape)


def laid_back(array: np.ndarray, axes: AxisMap) -> np.ndarray:
    """Return a model's tensor as the checkpoint has it: the opposite of ``laid_as``."""
    there = [axis for axis in axes if axis is not None]
    rest = [axis for axis in range(array.ndim) if axis not in there]
    core = array.transpose([*there, *rest]).reshape([array.shape[axis] for axis in there])
    return core.reshape([array.shape[axis] if axis is not None else 1 for axis in axes])


def content_of(array: np.ndarray, kind: np.dtype) -> bytes:
    """Return a digest of the sizes other than one and of all numbers, rounded to ``kind``; both zeros are one."""
    core = np.squeeze(array).astype(kind)
    plain = np.ascontiguousarray(core + np.zeros((), kind))
    return hashlib.sha256(repr(plain.shape).encode() + plain.tobytes()).digest()


def equal_content(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of one shape hold the same numbers, as the coarser of their types has them."""
    coarse = min((one.dtype, other.dtype), key=lambda kind: kind.itemsize)
    return bool((one.astype(coarse) == other.astype(coarse)).all())
