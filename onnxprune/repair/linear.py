"""Nodes that multiply by a stored weight, seen alike: rows times a matrix, plus something that can take an intercept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.evidence.needs import Need, Window, convolution_window
from onnxprune.evidence.rows import Sampler, patches, sampled_rows
from onnxprune.evidence.sites import CONVOLUTIONS
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.repair.operands import Operands, operands_of
from onnxprune.repair.stored import DEQUANTISE, Encoding, IntegerGrid, Stored
from onnxprune.repair.targets import FitTarget, batch_norm, target_of
from onnxprune.repair.teacher import Sought

MAX_INPUTS = 6144  # wider nodes keep their weights: their second moments alone would take 300 MB


@dataclass(frozen=True)
class Linear:
    """A convolution or a product with a stored weight: t[g, row, o] = W[g, o, d] x[g, row, d] + intercept.

    ``axis``: the output's channel axis. ``shift``: stored tensor that takes a change of the intercept, times ``sign`` (None: none).
    """

    node: Node
    operands: Operands
    groups: int
    axis: int
    channels: int
    window: Window | None = None
    shift: Encoding | None = None
    sign: float = 1.0

    @property
    def weight(self) -> str:
        """The stored tensor that holds the weight."""
        return self.operands.weight.name

    @property
    def bias(self) -> str:
        """The stored tensor that takes a change of the intercept; "": none."""
        return self.shift.name if self.shift else ""

    @property
    def source(self) -> str:
        return self.operands.source

    @property
    def output(self) -> str:
        return self.operands.output

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

    def target(self, analysis: Analysis, stored: Stored, ready: Callable[[str], bool]) -> FitTarget:
        """Return what the node is to give; see ``target_of``."""
        rank, start, gives = len(analysis.facts.shape(self.output) or ()), self.output, self.operands.gives
        if gives is not None:
            use = stored.sole_user(start)
            if gives.rectified or use is None or use[0].op not in DEQUANTISE:
                return self.own_output()
            start = use[0].outputs[0]
        return target_of(analysis, stored, start, self.channels, self.axis, rank, ready)

    def own_output(self) -> FitTarget:
        """The node's own output in the original."""
        gives = self.operands.gives
        ones, zeros = np.ones(self.channels), np.zeros(self.channels)
        return FitTarget(self.output, "", ones, zeros, gives is not None and gives.rectified)

    def sought(self, value: str) -> Sought:
        """Return which rows of a value shaped like the output go with ``rows``."""
        return Sought(value, self.axis, self.by_position, self.operands.gives if value == self.output else None)

    def rows(self, x: np.ndarray, sampler: Sampler) -> np.ndarray:
        """Return float32[groups, rows, d] that nobody else holds: what the node sums over at the sampled output positions, tap by tap."""
        x = x if self.operands.reads is None else self.operands.reads.read(x)
        if self.window is None or self.window.is_point:
            need = Need("gram", self.source, self.reads, self.groups)
            return np.ascontiguousarray(sampled_rows(x, need, sampler), np.float32)
        found = patches(x, self.window, self.groups, replace(sampler, mask=None))
        return np.ascontiguousarray(found, np.float32).reshape(*found.shape[:2], -1)

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Return float64[groups, o, d] of a stored weight, the inputs of one tap side by side."""
        return self.arranged(self.operands.weight.read(weight)) * self._alpha

    def grids(self, like: np.ndarray) -> list[IntegerGrid] | None:
        """Return per group the grid of float64[o, d] weights that are stored as ``like``; None where these are floats."""
        own = self.operands.weight.grid
        if own is None:
            return None
        scale, zero = (self.arranged(part) for part in own.spread(like.shape))
        return [IntegerGrid(s * self._alpha, z) for s, z in zip(scale, zero, strict=True)]

    def arranged(self, w: np.ndarray) -> np.ndarray:
        """Return [groups, o, d] of an array of anything that is shaped like the stored weight."""
        if self.window is not None:
            taps = w.reshape(self.groups, self.channels // self.groups, -1, self.window.taps)
            return taps.swapaxes(2, 3).reshape(*taps.shape[:2], -1)
        return (w if self._rows_first else w.T)[None]

    def stored(self, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return a matrix as the weight that it replaces is stored; of a product of floats it may have other sizes."""
        if self.window is None:
            return self.operands.weight.write((matrix[0] if self._rows_first else matrix[0].T) / self._alpha, like)
        channels_last = matrix.reshape(*matrix.shape[:2], self.window.taps, -1).swapaxes(2, 3)
        return self.operands.weight.write(channels_last.reshape(like.shape), like)

    def shifted(self, bias: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Return the stored tensor ``bias`` once the intercept has changed by float64[groups, o]."""
        assert self.shift is not None
        moved = self.shift.read(bias) + self.sign * change.reshape(bias.shape)
        return self.shift.write(moved, bias)

    @property
    def _rows_first(self) -> bool:
        return bool(self.node.attribute("transB", 0))

    @property
    def _alpha(self) -> float:
        return self.node.attribute("alpha", 1.0) if self.node.op == "Gemm" else 1.0

    @property
    def _beta(self) -> float:
        return self.node.attribute("beta", 1.0) if self.node.op == "Gemm" else 1.0

    def offset(self, stored: Stored) -> np.ndarray:
        """Return float64[groups, o]: the node's own bias."""
        own = self.operands.own
        bias = np.zeros(1) if own is None else own.read(stored.arrays[own.name]).reshape(-1)
        return self._beta * np.broadcast_to(bias, self.channels).reshape(self.groups, -1)

    def taking(self, stored: Stored, rank: int) -> Linear:
        """Return the same with the tensor that can take an intercept: the node's own bias, or a shift right behind the node."""
        own = self.operands.own
        if self.operands.fixed or own is not None:
            free = own is not None and not self.operands.fixed and stored.arrays[own.name].size == self.channels
            return replace(self, shift=own, sign=1.0 / self._beta) if free and self._beta else self
        use = stored.sole_user(self.output) if self.operands.gives is None else None
        if use is None:
            return self
        user, position = use
        if user.op == "BatchNormalization" and position == 0 and batch_norm(stored, user) is not None:
            return self._shifting(stored, user.inputs[3], -1.0)
        name = user.inputs[1 - position] if user.op == "Add" else ""
        if name and stored.vector(name, self.channels, self.axis % rank, rank) is not None:
            return self._shifting(stored, name, 1.0)
        return self

    def _shifting(self, stored: Stored, name: str, sign: float) -> Linear:
        found = stored.encoding(name, reshaped=True)
        free = found is not None and stored.arrays[found.name].size == self.channels
        return replace(self, shift=found, sign=sign) if free else self


def as_linear(node: Node, stored: Stored, facts: Facts) -> Linear | None:
    """Return how a node multiplies by a weight that is its own; None where it does not, or a shape is not known.

    ``facts``: the shapes of its values while nothing was cut.
    """
    operands = operands_of(node, stored)
    if operands is None or operands.source in stored.arrays:
        return None
    before, after = facts.shape(operands.source), facts.shape(operands.output)
    if not before or not after:
        return None
    shape = stored.arrays[operands.weight.name].shape
    if node.op in CONVOLUTIONS:
        inputs, window = int(np.prod(shape[1:], dtype=np.int64)), convolution_window(node, shape[2:], before[2:])
        plain = Linear(node, operands, int(node.attribute("group", 1)), 1, shape[0], window)
    elif len(shape) == 2 and not node.attribute("transA", 0):
        channels, inputs = shape if node.attribute("transB", 0) else shape[::-1]
        plain = Linear(node, operands, 1, -1, channels)
    else:
        return None
    return plain.taking(stored, len(after)) if inputs <= MAX_INPUTS else None
