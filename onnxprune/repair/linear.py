"""Convolutions and products with a stored matrix, seen alike: rows times a matrix, plus something that can take an intercept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.evidence.needs import Need, Window, convolution_window
from onnxprune.evidence.rows import Sampler, patches, sampled_rows
from onnxprune.evidence.sites import CONVOLUTIONS
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.repair.maps import MAX_INPUTS, LinearMap, WeightBlock, factor_of
from onnxprune.repair.operands import Operands, operands_of
from onnxprune.repair.stored import Stored


@dataclass(frozen=True)
class Linear(LinearMap):
    """A convolution or a product with a stored weight: t[g, row, o] = W[g, o, d] x[g, row, d] + intercept.

    ``window``: of a convolution.
    """

    window: Window | None = None

    @property
    def reads(self) -> int:
        """The axis of its input that it sums over."""
        return self.axis if self.window else -1

    @property
    def weight_axis(self) -> int:
        """The axis of its weight that it sums over, channel by channel."""
        return 1 if self.window or self._rows_first else 0

    @property
    def by_position(self) -> bool:
        """Whether an output position reads the input position of the same number alone, so that a padding mask holds for both."""
        return self.window is None or self.window.is_point

    def rows_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        return self.rows(values[0], sampler)

    def rows(self, x: np.ndarray, sampler: Sampler) -> np.ndarray:
        """Return float32[groups, rows, d] that nobody else holds: what the node sums over at the sampled output positions, tap by tap."""
        x = x if self.operands.reads is None else self.operands.reads.read(x)
        if self.window is None or self.window.is_point:
            need = Need("gram", self.source, self.reads, self.groups)
            return np.ascontiguousarray(sampled_rows(x, need, sampler), np.float32)
        found = patches(x, self.window, self.groups, replace(sampler, mask=None))
        return np.ascontiguousarray(found, np.float32).reshape(*found.shape[:2], -1)

    def counts_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        if self.window is None or self.window.is_point:
            return self.sought(self.source).counts(values[0], sampler)
        size = int(np.prod(self.window.out_shape(values[0].shape[2:]), dtype=np.int64))
        return np.full(len(values[0]), min(size, sampler.positions))

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Return float64[groups, o, d] of a stored weight, the inputs of one tap side by side."""
        return self.arranged(self.operands.weight.read(weight)) * self.blocks[0].factor

    def whole(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.matrix(arrays[self.weight])

    def arranged(self, w: np.ndarray) -> np.ndarray:
        """Return [groups, o, d] of an array of anything that is shaped like the stored weight."""
        if self.window is not None:
            taps = w.reshape(self.groups, self.channels // self.groups, -1, self.window.taps)
            return taps.swapaxes(2, 3).reshape(*taps.shape[:2], -1)
        return (w if self._rows_first else w.T)[None]

    def stored(self, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return a matrix as the weight that it replaces is stored; of a product of floats it may have other sizes."""
        if self.window is None:
            return self.operands.weight.write(
                (matrix[0] if self._rows_first else matrix[0].T) / self.blocks[0].factor, like
            )
        channels_last = matrix.reshape(*matrix.shape[:2], self.window.taps, -1).swapaxes(2, 3)
        return self.operands.weight.write(channels_last.reshape(like.shape), like)

    @property
    def _rows_first(self) -> bool:
        return bool(self.node.attribute("transB", 0))


def as_linear(node: Node, stored: Stored, facts: Facts) -> Linear | None:
    """Return how a convolution or a product multiplies by a weight that is its own; None where it does not, or a shape is not known.

    ``facts``: the shapes of its values while nothing was cut.
    """
    operands = operands_of(node, stored)
    return None if operands is None else linear_of(node, operands, stored, facts)


def linear_of(node: Node, operands: Operands, stored: Stored, facts: Facts, activation: str = "") -> Linear | None:
    """Return a node with these operands, which does ``activation`` to the product; None where it is too wide, or a shape is not known."""
    if operands.source in stored.arrays:
        return None
    before, after = facts.shape(operands.source), facts.shape(operands.output)
    if not before or not after:
        return None
    shape = stored.arrays[operands.weight.name].shape
    if node.op in CONVOLUTIONS:
        window, groups = convolution_window(node, shape[2:], before[2:]), int(node.attribute("group", 1))
        sizes = (groups, shape[0] // groups, shape[1], window.taps)
        along = 1 if groups == 1 else None
        block = WeightBlock(operands.weight, sizes, ((0,), (1,), (3, 2)), taps=window.taps, along=along)
        plain = Linear(node, operands, groups, 1, shape[0], (block,), window, activation=activation)
    elif len(shape) == 2 and not node.attribute("transA", 0):
        order = ((), (0,), (1,)) if node.attribute("transB", 0) else ((), (1,), (0,))
        block = WeightBlock(operands.weight, shape, order, along=order[2][0], factor=factor_of(node))
        plain = Linear(node, operands, 1, -1, block.shape[1], (block,), activation=activation)
    else:
        return None
    return plain.taking(stored, len(after)) if block.shape[2] <= MAX_INPUTS else None
