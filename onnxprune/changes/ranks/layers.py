"""Which layers can be written as factors: a whole stored matrix or kernel that belongs to one node alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.evidence.sites import GRAM_LIMIT
from onnxprune.model.facts import Facts, Shape
from onnxprune.model.graph import Node
from onnxprune.model.read import NATIVE_FLOATS
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.stored import Stored

LINEAR = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class Layer:
    """y = W h + b, W float64[outputs, inputs, taps], which is evaluated at ``made`` positions of a run.

    ``read``: positions of its input, where a 1x1 convolution in front of it is evaluated. ``between``: positions between a
    column and a row of a kernel of two axes, one after the other (0: it has no two such axes).
    """

    linear: Linear
    inputs: int
    outputs: int
    taps: int
    read: int
    made: int
    axes: tuple[int, int]
    itemsize: int
    between: int = 0

    @property
    def node(self) -> Node:
        return self.linear.node

    @property
    def name(self) -> str:
        return self.linear.weight

    @property
    def slides(self) -> bool:
        """Whether the layer is a convolution with a window, in front of which another one makes sense."""
        return self.taps > 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """The sizes of its window; empty for a product."""
        return self.linear.window.kernel if self.linear.window else ()

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.taps

    @property
    def macs(self) -> int:
        return self.parameters * self.made

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Return float64[outputs, inputs, taps] of the stored weight."""
        return self.linear.matrix(weight)[0].reshape(self.outputs, self.taps, self.inputs).swapaxes(1, 2)


class Layers(NamedTuple):
    """What can be written as factors, and for every other node that multiplies by a weight the reason why it cannot."""

    found: tuple[Layer, ...]
    kept: tuple[tuple[Node, str], ...]


def find_layers(analysis: Analysis, most_outputs: int = GRAM_LIMIT) -> Layers:
    """Look at every node of the main graph that costs MACs; ``most_outputs``: of a layer."""
    facts = analysis.facts
    tensors = {name: t for name, t in facts.graph.tensors.items() if t.data_type in NATIVE_FLOATS}
    stored = Stored(facts.graph, {name: facts.model.array(tensor) for name, tensor in tensors.items()})
    nodes = dict.fromkeys(volume.node for volume in analysis.macs if volume.node is not None)
    found, kept = [], []
    for node in nodes:
        layer = _layer(facts, stored, node, most_outputs)
        if isinstance(layer, Layer):
            found.append(layer)
        else:
            kept.append((node, layer))
    return Layers(tuple(found), tuple(kept))


def _layer(facts: Facts, stored: Stored, node: Node, most_outputs: int) -> Layer | str:
    """Return the layer, or why there is none."""
    if node.op not in LINEAR or node not in facts.graph.top:
        return "no Conv, Gemm or MatMul of the main graph"
    if node.input(1) not in stored.arrays:
        return "its weight is no stored float tensor"
    if len(facts.graph.consumers[node.input(1)]) > 1:
        return "its weight is read by several nodes"
    if node.attribute("group", 1) != 1:
        return "a grouped convolution, which has no full matrix"
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    linear = as_linear(node, stored, facts)
    if linear is None or before is None or after is None:
        return "too wide, or its operands are not a value and a matrix"
    axes = (1, 1) if linear.window else (len(before) - 1, len(after) - 1)
    inputs, outputs = before[axes[0]], after[axes[1]]
    if inputs > GRAM_LIMIT or outputs > most_outputs:
        return f"wider than {GRAM_LIMIT if inputs > GRAM_LIMIT else most_outputs}"
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in (before, after)]
    weight = stored.arrays[linear.weight]
    return Layer(
        linear, inputs, outputs, weight.size // (inputs * outputs),
        sizes[0] // inputs, sizes[1] // outputs, axes, weight.itemsize, _between(linear, before, after),
    )  # fmt: skip


def _between(linear: Linear, before: Shape, after: Shape) -> int:
    """Return the positions of what a kernel's columns make alone: rows of the output, columns of the input."""
    separable = linear.window is not None and len(linear.window.kernel) == 2 and min(linear.window.kernel) > 1
    return before[0] * after[2] * before[3] if separable else 0
