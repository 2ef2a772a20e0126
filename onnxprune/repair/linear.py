"""Nodes that multiply by a stored weight, seen alike: rows times a matrix, plus something that can take an intercept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.evidence.needs import Need, Window, convolution_window
from onnxprune.evidence.rows import Sampler, patches, sampled_rows
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.repair.targets import FitTarget, Stored, batch_norm, target_of
from onnxprune.repair.teacher import Sought

MAX_INPUTS = 6144  # wider nodes keep their weights: their second moments alone would take 300 MB


@dataclass(frozen=True)
class Linear:
    """A Conv, Gemm or MatMul with a stored weight: t[g, row, o] = W[g, o, d] x[g, row, d] + intercept.

    ``axis``: the output's channel axis. ``bias``: stored tensor that takes a change of the intercept, times ``sign`` ("": none).
    """

    node: Node
    weight: str
    groups: int
    axis: int
    channels: int
    window: Window | None = None
    bias: str = ""
    sign: float = 1.0

    @property
    def source(self) -> str:
        return self.node.inputs[0]

    @property
    def reads(self) -> int:
        """The axis of its input that it sums over."""
        return self.axis if self.window else -1

    @property
    def by_position(self) -> bool:
        """Whether an output position reads the input position of the same number alone, so that a padding mask holds for both."""
        return self.window is None or self.window.is_point

    def target(self, analysis: Analysis, stored: Stored, ready: Callable[[str], bool]) -> FitTarget:
        """Return what the node is to give; see ``target_of``."""
        rank = len(analysis.facts.shape(self.node.outputs[0]) or ())
        return target_of(analysis, stored, self.node, self.channels, self.axis, rank, ready)

    def sought(self, value: str) -> Sought:
        """Return which rows of a value shaped like the output go with ``rows``."""
        return Sought(value, self.axis, self.by_position)

    def rows(self, x: np.ndarray, sampler: Sampler) -> np.ndarray:
        """Return float32[groups, rows, d]: what the node sums over at the sampled output positions, tap by tap."""
        if self.window is None or self.window.is_point:
            need = Need("gram", self.source, self.reads, self.groups)
            return np.ascontiguousarray(sampled_rows(x, need, sampler), np.float32)
        found = patches(x, self.window, self.groups, replace(sampler, mask=None))
        return np.ascontiguousarray(found, np.float32).reshape(*found.shape[:2], -1)

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Return float64[groups, o, d] of a stored weight, the inputs of one tap side by side."""
        w = weight.astype(np.float64)
        if self.window is not None:
            taps = w.reshape(self.groups, self.channels // self.groups, -1, self.window.taps)
            return taps.swapaxes(2, 3).reshape(*taps.shape[:2], -1)
        return (w if self._rows_first else w.T)[None] * self._alpha

    def stored(self, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return a matrix in the layout and type of the weight it replaces; of a product it may have other sizes."""
        if self.window is None:
            return np.ascontiguousarray((matrix[0] if self._rows_first else matrix[0].T) / self._alpha, like.dtype)
        channels_last = matrix.reshape(*matrix.shape[:2], self.window.taps, -1).swapaxes(2, 3)
        return np.ascontiguousarray(channels_last.reshape(like.shape), like.dtype)

    @property
    def _rows_first(self) -> bool:
        return self.node.op == "Gemm" and bool(self.node.attribute("transB", 0))

    @property
    def _alpha(self) -> float:
        return self.node.attribute("alpha", 1.0) if self.node.op == "Gemm" else 1.0

    def offset(self, stored: Stored) -> np.ndarray:
        """Return float64[groups, o]: the node's own bias."""
        own = stored.arrays.get(self.node.input(2))
        bias = np.zeros(self.channels) if own is None else np.broadcast_to(own.reshape(-1), self.channels)
        beta = self.node.attribute("beta", 1.0) if self.node.op == "Gemm" else 1.0
        return beta * bias.astype(np.float64).reshape(self.groups, -1)


def as_linear(node: Node, stored: Stored, facts: Facts) -> Linear | None:
    """Return how a node multiplies by a weight that is its own; None where it does not, or a shape is not known.

    ``facts``: the shapes of its values while nothing was cut.
    """
    before, after = facts.shape(node.input(0)), facts.shape(node.outputs[0])
    if not before or not after:
        return None
    rank, space = len(after), before[2:]
    weight = stored.arrays.get(node.input(1))
    alone = weight is not None and stored.belongs_to_one(node.input(1))
    if weight is None or not alone or node.input(0) in stored.arrays or len(node.inputs) > 3:
        return None
    if node.op == "Conv":
        groups = int(node.attribute("group", 1))
        window = convolution_window(node, weight.shape[2:], space)
        plain = Linear(node, node.inputs[1], groups, 1, weight.shape[0], window)
        return _with_intercept(plain, weight.size // weight.shape[0], stored, rank)
    if weight.ndim != 2 or node.op not in ("Gemm", "MatMul") or node.attribute("transA", 0):
        return None
    rows_first = node.op == "Gemm" and node.attribute("transB", 0)
    channels, inputs = weight.shape if rows_first else weight.shape[::-1]
    return _with_intercept(Linear(node, node.inputs[1], 1, -1, channels), inputs, stored, rank)


def _with_intercept(linear: Linear, inputs: int, stored: Stored, rank: int) -> Linear | None:
    """Return the same with the tensor that can take an intercept; None where it has more ``inputs`` than are refitted."""
    if inputs > MAX_INPUTS:
        return None
    bias, sign = _intercept(linear.node, linear.channels, linear.axis % rank, rank, stored)
    return replace(linear, bias=bias, sign=sign)


def _intercept(node: Node, channels: int, axis: int, rank: int, stored: Stored) -> tuple[str, float]:
    """Find the stored tensor that can take an intercept: the node's own bias, or a shift right behind the node."""

    def free(name: str) -> bool:
        array = stored.arrays.get(name)
        return array is not None and array.size == channels and stored.belongs_to_one(name)

    if node.input(2):
        beta = node.attribute("beta", 1.0) if node.op == "Gemm" else 1.0
        return (node.input(2), 1.0 / beta) if free(node.input(2)) and beta else ("", 1.0)
    use = stored.sole_user(node.outputs[0])
    if use is None:
        return "", 1.0
    user, position = use
    if (
        user.op == "BatchNormalization"
        and position == 0
        and batch_norm(stored, user) is not None
        and free(user.inputs[3])
    ):
        return user.inputs[3], -1.0
    shift = user.inputs[1 - position] if user.op == "Add" else ""
    if shift and free(shift) and stored.vector(shift, channels, axis, rank) is not None:
        return shift, 1.0
    return "", 1.0
