"""What has weights to lose: every stored tensor of floats, or of integers on a grid, that a contraction multiplies by and nothing else reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.spec import Spec
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Node
from onnxprune.model.read import FLOATS
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.stored import Stored

SHARED = "several nodes read its weight"
COMPUTED = "its weight is computed, or read inside a body"


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A node and the stored tensor ``name`` that it multiplies by, seen as float[groups, o, d], the ``inputs`` of one tap side by side.

    ``linear``: how it is refitted to data (None: it is not); ``summed``: the axes of the tensor that it sums over otherwise.
    """

    node: Node
    name: str
    shape: tuple[int, int, int]
    inputs: int
    linear: Linear | None = None
    summed: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def reads(self) -> int | None:
        """The axis of the tensor along which its inputs stand; None: along several."""
        if self.linear is not None:
            return self.linear.weight_axis
        return self.summed[0] if len(self.summed) == 1 else None

    @property
    def kernel(self) -> tuple[int, ...]:
        """The taps of a window along each of its axes; none without one."""
        return self.linear.window.kernel if self.linear is not None and self.linear.window is not None else ()

    def arranged(self, array: np.ndarray) -> np.ndarray:
        """Return [groups, o, d] of an array of anything that is shaped like the stored tensor."""
        if self.linear is not None:
            return self.linear.arranged(array)
        return np.moveaxis(array, self.summed, range(-len(self.summed), 0)).reshape(self.shape)

    def matrix(self, stored: np.ndarray) -> np.ndarray:
        """Return float64[groups, o, d]: the numbers that the stored tensor stands for."""
        return self.arranged(stored).astype(np.float64) if self.linear is None else self.linear.matrix(stored)

    def left(self, mask: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return bool of the shape of the stored tensor for bool[groups, o, d]."""
        found = np.empty(like.size, bool)
        found[self.arranged(np.arange(like.size).reshape(like.shape))] = mask
        return found.reshape(like.shape)

    def emptied(self, mask: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Return the stored tensor with zero outside of bool[groups, o, d], as it holds zero."""
        zero = np.zeros(self.shape)
        nothing = zero.dtype.type(0) if self.linear is None else self.linear.stored(zero, like)
        return np.where(self.left(mask, like), like, nothing).astype(like.dtype)


def weight_layers(analysis: Analysis) -> tuple[tuple[WeightLayer, ...], tuple[tuple[Node, str], ...]]:
    """Return the layers in the order of the nodes, and the nodes that keep their weights with the reason."""
    facts = analysis.facts
    graph = Graph(facts.model.structure)
    stored = Stored.of(facts.model, graph)
    found, kept, seen = list[WeightLayer](), list[tuple[Node, str]](), set[str]()
    top = {node.outputs for node in graph.top}
    for node, spec in analysis.solution.links.specs:
        if not spec.cost or node.outputs not in top:
            continue
        linear = as_linear(node, stored, facts)
        own = [_linear(linear, stored)] if linear is not None else list(_others(node, spec, facts))
        for layer in own:
            if layer.name in seen or len(graph.consumers[layer.name]) > 1:
                kept.append((node, SHARED))
            else:
                found.append(layer)
                seen.add(layer.name)
        if not own and any(name in facts.constants for name in node.inputs if name):
            kept.append((node, COMPUTED))
    return tuple(found), tuple(kept)


def _linear(linear: Linear, stored: Stored) -> WeightLayer:
    shape = linear.matrix(stored.arrays[linear.weight]).shape
    taps = linear.window.taps if linear.window else 1
    return WeightLayer(linear.node, linear.weight, (shape[0], shape[1], shape[2]), shape[2] // taps, linear)


def _others(node: Node, spec: Spec, facts: Facts) -> Iterator[WeightLayer]:
    """Yield the operands that a node of any other kind sums over (transposed convolutions, recurrent layers, fused attention)."""
    gone = spec.sinks()
    for number, operand in enumerate(spec.inputs):
        name = node.input(number)
        if operand is None or name not in facts.graph.tensors or facts.dtype(name) not in FLOATS or len(operand) < 2:
            continue
        summed = tuple(axis for axis, term in enumerate(operand) if term.letters and gone.issuperset(term.letters))
        sizes = facts.shape(name) or ()
        d = int(np.prod([sizes[axis] for axis in summed], dtype=np.int64))
        rows = int(np.prod(sizes, dtype=np.int64)) // max(d, 1)
        if summed and d > 1 and rows > 1:
            yield WeightLayer(node, name, (1, rows, d), sizes[summed[-1]], None, summed)
