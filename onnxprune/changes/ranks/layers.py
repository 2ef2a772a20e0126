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
from onnxprune.repair.stored import Contents, Stored

LINEAR = frozenset({"Conv", "Gemm", "MatMul"})
TURNING = frozenset({"Gemm", "com.microsoft::FusedMatMul"})
"""Products that transpose what they multiply by themselves."""


class TiedHead(NamedTuple):
    """A product of ``source`` with the transposed table; ``turned``: the table as a Transpose gives it ("": the node does it)."""

    node: Node
    source: str
    turned: str = ""


@dataclass(frozen=True)
class TableRead:
    """A lookup in a stored table, seen as a product of rows of which one entry is 1 with ``weight`` [rows, channels].

    ``source``: the numbers. ``head``: what multiplies by the table as well.
    """

    node: Node
    weight: str
    source: str
    head: TiedHead | None = None
    window: None = None
    bias: str = ""

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Return float64[1, channels, rows]."""
        return weight.T[None].astype(np.float64)

    def stored(self, matrix: np.ndarray, like: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(matrix[0].T, like.dtype)


@dataclass(frozen=True, eq=False)
class Layer:
    """y = W h + b, W float64[outputs, inputs, taps], which is evaluated at ``made`` positions of a run.

    ``read``: positions of its input, where a 1x1 convolution in front of it is evaluated; of a table those of a tied head. ``between``: positions between a
    column and a row of a kernel of two axes, one after the other (0: it has no two such axes).
    """

    linear: Linear | TableRead
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
    def looked_up(self) -> bool:
        """Whether its weight is a table of which rows are taken as they are."""
        return isinstance(self.linear, TableRead)

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
        return self.parameters * (self.read if self.looked_up else self.made)

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """Return float64[outputs, inputs, taps] of the stored weight."""
        return self.linear.matrix(weight)[0].reshape(self.outputs, self.taps, self.inputs).swapaxes(1, 2)


class Layers(NamedTuple):
    """What can be written as factors, and for every other node that multiplies by a weight the reason why it cannot."""

    found: tuple[Layer, ...]
    kept: tuple[tuple[Node, str], ...]


def find_layers(analysis: Analysis, most_outputs: int = GRAM_LIMIT, tables: bool = False) -> Layers:
    """Look at every node of the main graph that costs MACs; ``most_outputs``: of a layer; ``tables``: at lookups too."""
    facts = analysis.facts
    tensors = {name: t for name, t in facts.graph.tensors.items() if t.data_type in NATIVE_FLOATS}
    stored = Stored(facts.graph, Contents(tensors, facts.model.array))
    added = {one.matrix for one in facts.model.widened}  # which do nothing, and are not there in the end
    costly = [volume.node for volume in analysis.macs if volume.node is not None]
    nodes = dict.fromkeys(node for node in costly if added.isdisjoint(node.inputs))
    found, kept = [], []
    nodes |= dict.fromkeys(node for node in facts.graph.top if tables and _looks_up(facts, node))
    for node in nodes:
        layer = _table(facts, node) if node.op == "Gather" else _layer(facts, stored, node, most_outputs)
        if isinstance(layer, Layer):
            found.append(layer)
        else:
            kept.append((node, layer))
    tied = {e.linear.head.node: e.name for e in found if isinstance(e.linear, TableRead) and e.linear.head}
    told = [(n, f"tied to the table {tied[n]!r}, whose factors it takes" if n in tied else why) for n, why in kept]
    return Layers(tuple(found), tuple(told))


def _looks_up(facts: Facts, node: Node) -> bool:
    """Whether a node takes rows of a stored matrix of floats by numbers that are not stored."""
    if node.op != "Gather" or node.inputs[0] not in facts.graph.tensors or node.inputs[1] in facts.constants:
        return False
    return len(facts.shape(node.inputs[0]) or ()) == 2 and facts.dtype(node.inputs[0]) in NATIVE_FLOATS


def _table(facts: Facts, node: Node) -> Layer | str:
    """Return a table as a layer, or why it is none."""
    name, after = node.inputs[0], facts.shape(node.outputs[0])
    rows, channels = facts.shape(name) or (0, 0)
    others = [(reader, place) for reader, place in facts.graph.consumers[name] if reader is not node]
    head = _tied(facts, *others[0]) if len(others) == 1 else None
    if (others and head is None) or name in facts.graph.outputs:
        return "its table is read by several nodes, or an output"
    if int(node.attribute("axis", 0)) % 2 or after is None:
        return "its rows are not the first axis of the table"
    if channels > GRAM_LIMIT:
        return f"wider than {GRAM_LIMIT}"
    made, scored = (
        int(np.prod(shape, dtype=np.int64))
        for shape in (after, facts.shape(head.node.outputs[0]) or () if head else (0,))
    )
    size = facts.content(name).dtype.itemsize
    read = TableRead(node, name, node.inputs[1], head)
    return Layer(read, rows, channels, 1, scored // max(rows, 1), made // max(channels, 1), (0, len(after) - 1), size)


def _tied(facts: Facts, node: Node, place: int) -> TiedHead | None:
    """Return the product that a table's only other reader makes of it, transposed; None where it is something else."""
    turned = ""
    if node.op == "Transpose":
        turned, readers = node.outputs[0], facts.graph.consumers.get(node.outputs[0], ())
        if len(readers) != 1 or turned in facts.graph.outputs:
            return None
        node, place = readers[0]
    plain = not any(node.attribute(name, 0) for name in ("transA", "transBatchA", "transBatchB"))
    able = node.op == "MatMul" if turned else node.op in TURNING and bool(node.attribute("transB", 0))
    if not (able and plain) or place != 1 or node not in facts.graph.top or facts.shape(node.outputs[0]) is None:
        return None
    return TiedHead(node, node.inputs[0], turned)


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
