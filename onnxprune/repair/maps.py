"""Nodes that are linear in stored weights, whatever else they do, seen alike: rows of what they read times a matrix, plus an intercept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.evidence.rows import Sampler
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.repair.operands import Operands
from onnxprune.repair.stored import DEQUANTISE, Encoding, IntegerGrid, Stored
from onnxprune.repair.targets import ADDED, SUMMED, FitTarget, batch_norm, target_of
from onnxprune.repair.teacher import Sought

MAX_INPUTS = 6144  # wider nodes keep their weights: their second moments alone would take 300 MB
SCALED = frozenset({"Gemm", "com.microsoft::FusedGemm", "com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul"})
"""Operators that multiply the product by ``alpha``, and the bias by ``beta``."""
Finds = Callable[[Node, Stored, Facts], "LinearMap | None"]
"""Tells how a node multiplies by weights that are its own; None where it does not."""


@dataclass(frozen=True, eq=False)
class WeightBlock:
    """A stored tensor as a block of a matrix float64[groups, o, d]: of all its groups, or of ``groups``; columns ``start`` and on.

    ``sizes``: the tensor's axes, parted where one has several meanings; ``order``: which of them make up groups, outputs and inputs.
    ``taps``: so many runs of inputs stand one behind the other; ``along``: the tensor's axis along which those of one tap do, the same
    ones for all groups (None: there is no such axis). ``factor``: what the node multiplies the tensor by.
    """

    encoding: Encoding
    sizes: tuple[int, ...]
    order: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    groups: tuple[int, ...] | None = None
    start: int = 0
    taps: int = 1
    along: int | None = None
    factor: float = 1.0

    @property
    def name(self) -> str:
        return self.encoding.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, outputs and inputs of the block alone."""
        groups, o, d = (int(np.prod([self.sizes[axis] for axis in axes], dtype=np.int64)) for axes in self.order)
        return groups, o, d

    def arranged(self, array: np.ndarray) -> np.ndarray:
        """Return [groups, o, d] of an array of anything that is shaped like the stored tensor."""
        return array.reshape(self.sizes).transpose(sum(self.order, ())).reshape(self.shape)

    def laid(self, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return an array shaped like the stored tensor of [groups, o, d]."""
        order = sum(self.order, ())
        parted = matrix.reshape([self.sizes[axis] for axis in order])
        return parted.transpose(np.argsort(order)).reshape(like.shape)

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Return float64[groups, o, d]: the numbers that the stored tensor stands for."""
        return self.arranged(self.encoding.read(stored)) * self.factor

    def write(self, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return [groups, o, d] as the tensor that it replaces is stored."""
        return self.encoding.write(self.laid(matrix / self.factor, like), like)

    def within(self, whole: np.ndarray) -> np.ndarray:
        """Return the block of the matrix [groups, o, d] of the node, a copy."""
        own = whole if self.groups is None else whole[list(self.groups)]
        return np.array(own[:, :, self.start : self.start + self.shape[2]])

    def put(self, block: np.ndarray, whole: np.ndarray) -> None:
        """Write the block into the matrix [groups, o, d] of the node."""
        groups = slice(None) if self.groups is None else list(self.groups)
        whole[groups, :, self.start : self.start + self.shape[2]] = block


def factor_of(node: Node) -> float:
    """What a node multiplies its weight by."""
    return node.attribute("alpha", 1.0) if node.op in SCALED else 1.0


@dataclass(frozen=True)
class LinearMap(ABC):
    """A node whose product is t[g, row, o] = W[g, o, d] x[g, row, d] + intercept.

    ``axis``: the channel axis of what it gives; ``channels``: groups times outputs. ``blocks``: its stored tensors as blocks of
    one matrix. ``activation``: what is done to the product before it is given out ("": nothing). ``shift``: stored tensor that
    takes a change of the intercept, times ``sign`` (None: none).
    """

    node: Node
    operands: Operands
    groups: int
    axis: int
    channels: int
    blocks: tuple[WeightBlock, ...]
    shift: Encoding | None = field(default=None, kw_only=True)
    sign: float = field(default=1.0, kw_only=True)
    activation: str = field(default="", kw_only=True)

    @property
    def weight(self) -> str:
        """The stored tensor that holds the weight; the first, where there are several."""
        return self.operands.weight.name

    @property
    def weights(self) -> tuple[str, ...]:
        """The stored tensors that hold the weights."""
        return tuple(block.name for block in self.blocks)

    @property
    def bias(self) -> str:
        """The stored tensor that takes a change of the intercept; "": none."""
        return self.shift.name if self.shift else ""

    @property
    def source(self) -> str:
        return self.operands.source

    @property
    def sources(self) -> tuple[str, ...]:
        """The computed values that its rows are made of."""
        return (self.source,)

    @property
    def output(self) -> str:
        return self.operands.output

    @property
    @abstractmethod
    def reads(self) -> int:
        """The axis of its input that it sums over, the last of several."""

    @property
    @abstractmethod
    def by_position(self) -> bool:
        """Whether an output position reads the input position of the same number alone, so that a padding mask holds for both."""

    @property
    def recurs(self) -> bool:
        """Whether its rows depend on its own weights."""
        return False

    # --- what it is to give -----------------------------------------------------------------------------------------

    def target(self, analysis: Analysis, stored: Stored, ready: Callable[[str], bool]) -> FitTarget:
        """Return what the node is to give; see ``target_of``."""
        rank, start, gives = len(analysis.facts.shape(self.output) or ()), self.output, self.operands.gives
        if self.activation:
            return self.own_output()
        if gives is not None:
            use = stored.sole_user(start)
            if gives.rectified or use is None or use[0].op not in DEQUANTISE:
                return self.own_output()
            start = use[0].outputs[0]
        return target_of(analysis, stored, start, self.channels, self.axis, rank, ready)

    def own_output(self) -> FitTarget:
        """The node's own output in the original, or its product where something is done to that before it is given out."""
        gives = self.operands.gives
        ones, zeros = np.ones(self.channels), np.zeros(self.channels)
        rectified = self.activation == "Relu" or (gives is not None and gives.rectified)
        return FitTarget(self.output, "", ones, zeros, rectified)

    def sought(self, value: str) -> Sought:
        """Return which rows of a value shaped like the output go with ``rows_of``."""
        return Sought(value, self.axis, self.by_position, self.operands.gives if value == self.output else None)

    # --- what it reads ----------------------------------------------------------------------------------------------

    @abstractmethod
    def rows_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        """Return float32[groups, rows, d] that nobody else holds: what it sums over at the sampled positions, of its ``sources``."""

    @abstractmethod
    def counts_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        """Return int64[parts]: how many rows come from each part of the values that has positions of its own."""

    # --- its weights ------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, outputs and inputs of the matrix."""
        ends = [block.start + block.shape[2] for block in self.blocks]
        return self.groups, self.channels // self.groups, max(ends)

    def whole(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return float64[groups, o, d] of the stored tensors."""
        matrix = np.zeros(self.shape)
        for block in self.blocks:
            block.put(block.read(arrays[block.name]), matrix)
        return matrix

    def written(self, matrix: np.ndarray, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the stored tensors that hold a matrix."""
        return {block.name: block.write(block.within(matrix), arrays[block.name]) for block in self.blocks}

    def coarse(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether what is written differs from what was to be written by more than float32 does."""
        return any(block.encoding.coarse(arrays[block.name]) for block in self.blocks)

    def grids_of(self, arrays: Mapping[str, np.ndarray]) -> list[IntegerGrid] | None:
        """Return per group the grid of float64[o, d] weights that are stored as integers; None where these are floats."""
        if self.operands.weight.grid is None:
            return None
        scales, zeros = np.ones(self.shape), np.zeros(self.shape)
        for block in self.blocks:
            assert block.encoding.grid is not None
            scale, zero = block.encoding.grid.spread(arrays[block.name].shape)
            block.put(block.arranged(scale) * block.factor, scales)
            block.put(block.arranged(zero), zeros)
        return [IntegerGrid(*parts) for parts in zip(scales, zeros, strict=True)]

    # --- its intercept ----------------------------------------------------------------------------------------------

    def shifted(self, bias: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Return the stored tensor ``bias`` once the intercept has changed by float64[groups, o]."""
        assert self.shift is not None
        moved = self.shift.read(bias) + self.sign * change.reshape(bias.shape)
        return self.shift.write(moved, bias)

    @property
    def _beta(self) -> float:
        return self.node.attribute("beta", 1.0) if self.node.op in SCALED else 1.0

    def offset(self, stored: Stored) -> np.ndarray:
        """Return float64[groups, o]: the node's own bias."""
        own = self.operands.own
        bias = np.zeros(1) if own is None else own.read(stored.arrays[own.name]).reshape(-1)
        return self._beta * np.broadcast_to(bias, self.channels).reshape(self.groups, -1)

    def taking(self, stored: Stored, rank: int) -> Self:
        """Return the same with the tensor that can take an intercept: the node's own bias, or a shift right behind the node."""
        own = self.operands.own
        if self.operands.fixed or own is not None:
            free = own is not None and not self.operands.fixed and stored.arrays[own.name].size == self.channels
            return replace(self, shift=own, sign=1.0 / self._beta) if free and self._beta else self
        use = stored.sole_user(self.output) if self.operands.gives is None and not self.activation else None
        if use is None:
            return self
        user, position = use
        if user.op == "BatchNormalization" and position == 0 and batch_norm(stored, user) is not None:
            return self._shifting(stored, user.inputs[3], -1.0)
        name = user.inputs[1 - position] if user.op == "Add" else ""
        if position < min(ADDED.get(user.op, 0), len(SUMMED)):
            name = user.input(ADDED[user.op])
        if name and stored.vector(name, self.channels, self.axis % rank, rank) is not None:
            return self._shifting(stored, name, 1.0)
        return self

    def _shifting(self, stored: Stored, name: str, sign: float) -> Self:
        found = stored.encoding(name, reshaped=True)
        free = found is not None and stored.arrays[found.name].size == self.channels
        return replace(self, shift=found, sign=sign) if free else self


@dataclass(frozen=True, eq=False)
class OwnProduct:
    """Rows of what a node of the original multiplies out, before anything else is done to it: of no value, but what it reads shows them.

    ``linear``: the node of the original, ``weight`` float32[groups, d, o] and ``offset`` float32[groups, o] as they are there.
    """

    linear: LinearMap
    weight: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, linear: LinearMap, stored: Stored) -> OwnProduct:
        weight = linear.whole(stored.arrays).swapaxes(1, 2)
        return cls(linear, weight.astype(np.float32), linear.offset(stored).astype(np.float32))

    @property
    def value(self) -> str:
        """What is looked at."""
        return self.linear.source

    @property
    def axis(self) -> int:
        return self.linear.reads

    @property
    def values(self) -> tuple[str, ...]:
        return self.linear.sources

    def width(self, arrays: Mapping[str, np.ndarray]) -> int:
        return self.linear.channels

    def rows_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray:
        """Return float32[rows, channels]."""
        rows = self.linear.rows_of([arrays[name] for name in self.values], sampler)
        product = rows @ self.weight + self.offset[:, None]
        return np.moveaxis(product, 0, 1).reshape(rows.shape[1], self.linear.channels)

    def counts_of(self, arrays: Mapping[str, np.ndarray], sampler: Sampler) -> np.ndarray:
        return self.linear.counts_of([arrays[name] for name in self.values], sampler)

    def kept(self, left: Kept, facts: Facts) -> np.ndarray | None:
        """Return bool[channels]: those whose weights stay, by the axes of the stored tensors; None: all."""
        stays = np.ones(self.linear.shape[:2], bool)
        for block in self.linear.blocks:
            shape = facts.shape(block.name) or ()
            everywhere = np.ones(shape, bool)
            for axis, mask in left.masks(block.name).items():
                everywhere &= mask.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            rows = block.arranged(everywhere).any(axis=2)
            groups = slice(None) if block.groups is None else list(block.groups)
            stays[groups] &= rows
        return None if stays.all() else stays.reshape(-1)
