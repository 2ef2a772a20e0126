"""Weights read in blocks: norms of every slice of a tensor in one pass, whatever its type and size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.groups import Analysis, Group
from onnxprune.model.facts import Facts
from onnxprune.model.halves import as_single, is_half
from onnxprune.model.pipeline import made_ahead

BLOCK = 1 << 20  # elements held as float64 at a time, as long as one slice of the longest axis is not larger

# where the scale and the zero point of an operator's quantised weight stand: (operator, weight) -> (scale, zero point)
QUANTISED = {
    ("DequantizeLinear", 0): (1, 2),
    ("QLinearConv", 3): (4, 5),
    ("QLinearMatMul", 3): (4, 5),
    ("ConvInteger", 1): (None, 3),
    ("MatMulInteger", 1): (None, 3),
}


class Slab(NamedTuple):
    """Positions ``start`` to ``stop`` of ``axis`` of a tensor, as float64, or float32 where that holds all it has."""

    axis: int
    start: int
    stop: int
    content: np.ndarray


class Norm(NamedTuple):
    """How weights become a norm: each weight's part, the ufunc that joins parts, and how the total ends."""

    part: np.ufunc
    join: np.ufunc
    end: np.ufunc


NORMS = {
    1: Norm(np.absolute, np.add, np.positive),
    2: Norm(np.square, np.add, np.sqrt),
    np.inf: Norm(np.absolute, np.maximum, np.positive),
}


class WeightReader:
    """The weights behind an analysis; a tensor is read once per kind of norm, for all its axes that groups lie on.

    ``gone``: bool[width] per group: units whose weights count as zero.
    """

    def __init__(self, analysis: Analysis, gone: Sequence[np.ndarray] = ()):
        self._facts = analysis.facts
        self._gone: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for group, mask in zip(analysis.groups, gone, strict=False):
            for member in group.members if mask.any() else ():
                self._gone[member.parameter].append((member.axis, (member.units >= 0) & mask[member.units]))
        self._axes: dict[str, set[int]] = defaultdict(set)
        for group in analysis.groups:
            for member in group.members:
                self._axes[member.parameter].add(member.axis)
        self.quantisation = _operands(analysis.facts)
        self._totals: dict[tuple[str, float], dict[int, np.ndarray]] = {}

    def norms(self, parameter: str, axis: int, units: np.ndarray, width: int, order: float) -> np.ndarray:
        """Return float64[width]: the 1-, 2- or inf-norm of all weights of each unit; ``units``: int64[axis size]."""
        if (parameter, order) not in self._totals:
            self._totals[parameter, order] = self._read(parameter, NORMS[order])
        total = self._totals[parameter, order][axis]
        norm, result = NORMS[order], np.zeros(width)
        inside = units >= 0
        norm.join.at(result, units[inside], total[inside])
        return norm.end(result)

    def blocks(self, parameter: str, whole: int | None = None, dtype: type = np.float64) -> Iterator[Slab]:
        """Yield the tensor in blocks along one axis, as ``dtype``: the first if that is enough, else the longest; not ``whole``."""
        content = self._facts.content(parameter)
        scaling = _scaling(self._facts, parameter, content.ndim)
        for block in _split(content, scaling, whole, dtype):
            for axis, silent in self._gone[parameter]:
                block.content[
                    (slice(None),) * axis + (silent[block.start : block.stop] if axis == block.axis else silent,)
                ] = 0
            yield block

    def _read(self, parameter: str, norm: Norm) -> dict[int, np.ndarray]:
        """Return per wanted axis float64[size]: the joined parts of each position's slice."""
        content, axes = self._facts.content(parameter), sorted(self._axes[parameter])
        if content.size and not any(content.strides) and not self._gone[parameter]:
            return {axis: _uniform(content, axis, norm) for axis in axes}
        totals = {axis: np.zeros(content.shape[axis]) for axis in axes}
        dtype = np.float32 if is_half(content.dtype) else np.float64  # squares of halves are float32 exactly
        blocks = self.blocks(parameter, dtype=dtype)
        for axis, start, stop, block in blocks if content.size <= BLOCK else made_ahead(blocks):
            parts = norm.part(block, out=block)
            for target, total in totals.items():
                place = slice(start, stop) if target == axis else slice(None)
                norm.join(total[place], _joined(parts, target, norm), out=total[place])
        return totals


def _uniform(content: np.ndarray, axis: int, norm: Norm) -> np.ndarray:
    """The same for a generated tensor of one repeated value."""
    part = norm.part(np.float64(content.reshape(-1)[0]))
    count = content.size // content.shape[axis] if norm.join is np.add else 1
    return np.full(content.shape[axis], part * count)


def _joined(parts: np.ndarray, axis: int, norm: Norm) -> np.ndarray:
    """Join all but one axis, trailing ones first (by a matrix product for sums)."""
    inner = parts.reshape(*parts.shape[: axis + 1], -1)
    if inner.shape[-1] > 1:
        inner = (
            inner @ np.ones(inner.shape[-1], inner.dtype) if norm.join is np.add else norm.join.reduce(inner, axis=-1)
        )
    return norm.join.reduce(inner.reshape(-1, parts.shape[axis]), axis=0)


def _split(
    content: np.ndarray, scaling: Sequence[tuple[np.ufunc, np.ndarray]], whole: int | None, dtype: type
) -> Iterator[Slab]:
    shape = content.shape
    free = [axis for axis in range(len(shape)) if axis != whole] or [0]
    longest = max(free, key=lambda axis: shape[axis])
    axis = free[0] if content.size <= BLOCK * shape[free[0]] else longest
    step = shape[axis] if axis == whole else max(1, BLOCK * shape[axis] // max(content.size, 1))
    for start in range(0, shape[axis], step):
        stop = min(start + step, shape[axis])
        stored = content[(slice(None),) * axis + (slice(start, stop),)]
        block: np.ndarray = (
            as_single(stored).astype(dtype, copy=False) if is_half(stored.dtype) else stored.astype(dtype)
        )
        for apply, operand in scaling:
            apply(block, _fitted(operand, shape, axis, start, stop), out=block)
        yield Slab(axis, start, stop, block)


def _scaling(facts: Facts, parameter: str, rank: int) -> list[tuple[np.ufunc, np.ndarray]]:
    """Return the steps that give a quantised tensor its meaning: subtract the zero point, multiply by the scale."""
    for node, position in facts.graph.consumers.get(parameter, ()):
        places = QUANTISED.get((node.op, position))
        if places is None:
            continue
        axis = int(node.attribute("axis", 1 if node.op == "DequantizeLinear" else 0)) % max(rank, 1)
        steps = ((np.subtract, places[1]), (np.multiply, places[0]))
        named = [(apply, node.input(place)) for apply, place in steps if place is not None]
        stored = [(apply, facts.content(name)) for apply, name in named if facts.is_parameter(name)]
        return [(apply, _aligned(content, axis, rank)) for apply, content in stored]
    return []


def _operands(facts: Facts) -> frozenset[str]:
    """Return the tensors that are scale or zero point of a quantised weight."""
    return frozenset(
        node.input(place)
        for node in facts.graph.nodes
        for (op, weight), places in QUANTISED.items()
        if node.op == op and facts.is_parameter(node.input(weight))
        for place in places
        if place is not None
    )


def _aligned(operand: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Give a per-tensor, per-axis or blocked operand as many axes as the tensor it belongs to."""
    operand = operand.astype(np.float64)
    if operand.ndim == rank and operand.ndim > 1:
        return operand
    return operand.reshape([-1 if a == axis else 1 for a in range(rank)])


def _fitted(operand: np.ndarray, shape: tuple[int, ...], axis: int, start: int, stop: int) -> np.ndarray:
    """Spread an operand (one value per position, per run of positions, or one for all) over a block."""
    for a, (size, whole) in enumerate(zip(operand.shape, shape, strict=True)):
        if size > 1 and (a == axis or size != whole):
            low, high = (start, stop) if a == axis else (0, whole)
            operand = operand.take(np.arange(low, high) // -(-whole // size), axis=a)
    return operand


def unit_positions(group: Group, units: np.ndarray) -> np.ndarray:
    """Return int64[width, positions per unit]: where each unit of a group lies on an axis, in order."""
    inside = np.flatnonzero(units >= 0)
    return inside[np.argsort(units[inside], kind="stable")].reshape(group.width, -1)
