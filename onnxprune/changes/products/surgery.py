"""Products written as Gemm or as a convolution of one position, each under the name of the value that it makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, helper

from onnxprune.changes.products.find import CONV, GEMM, StoredProduct, WeightChain
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Names, Node, forget_values, names_read
from onnxprune.model.model import Model
from onnxprune.model.surgeon import Splicer

AXES_AS_INPUT = 13
"""Opset from which Squeeze and Unsqueeze are told their axes by an input."""
BIAS_OPTIONAL = 11
"""Opset from which a Gemm may go without a bias."""


class Writing:
    """The nodes that take the place of one product, built one after the other; the last makes its output."""

    def __init__(self, facts: Facts, product: StoredProduct, chain: WeightChain):
        self.facts, self.product, self.chain = facts, product, chain
        self.opset = facts.graph.versions.get("", 1)
        self.source = gs.Variable(product.node.inputs[0])
        self.nodes: list[gs.Node] = []

    def add(self, op: str, *inputs: gs.Tensor, **attributes: Any) -> gs.Variable:
        made = gs.Variable(f"{self.product.output}/{op.lower()}")
        self.nodes.append(gs.Node(op, made.name, attributes, list(inputs), [made]))
        return made

    def constant(self, what: str, values: Any) -> gs.Constant:
        array = values if isinstance(values, np.ndarray) else np.array(values, np.int64)
        return gs.Constant(f"{self.product.output}/{what}", array)

    def axes(self, op: str, value: gs.Tensor, axes: Sequence[int]) -> gs.Variable:
        """Squeeze or Unsqueeze ``axes``."""
        if self.opset < AXES_AS_INPUT:
            return self.add(op, value, axes=list(axes))
        return self.add(op, value, self.constant("axes", list(axes)))

    def graph(self) -> gs.Graph:
        self.nodes[-1].outputs[0].name = self.product.output
        return gs.Graph(self.nodes, outputs=self.nodes[-1].outputs)

    @property
    def columns(self) -> int:
        shape = self.facts.shape(self.product.node.outputs[0])
        assert shape
        return shape[-1]


def _gemm(writing: Writing) -> None:
    """Rows of all leading axes beside each other, times the matrix, and the axes again."""
    product, chain, value = writing.product, writing.chain, writing.source
    if product.rank != 2:
        rows = writing.facts.shape(product.node.inputs[0])
        assert rows
        value = writing.add("Reshape", value, writing.constant("rows", [-1, rows[-1]]))
    operands = [value, gs.Variable(chain.value)]
    if product.bias:
        operands.append(gs.Variable(product.bias))
    elif writing.opset < BIAS_OPTIONAL:
        kind = helper.tensor_dtype_to_np_dtype(writing.facts.dtype(product.node.outputs[0]))
        operands.append(writing.constant("bias", np.zeros(writing.columns, kind)))
    result = writing.add("Gemm", *operands, **({"transB": 1} if chain.turned else {}))
    if product.rank != 2:
        writing.add("Reshape", result, _leading_axes(writing))


def _leading_axes(writing: Writing) -> gs.Tensor:
    """Return the sizes of the product: stored where at most one of them may vary, else taken from what it reads."""
    facts, output, lead = writing.facts, writing.product.node.outputs[0], writing.product.rank - 1
    shape = facts.shape(output)
    assert shape
    free = [axis for axis in range(lead) if not facts.static(output, axis)]
    if len(free) < 2:
        return writing.constant("shape", [-1 if axis in free else shape[axis] for axis in range(lead)] + [shape[-1]])
    sizes = writing.add("Shape", writing.source)
    first = writing.add("Gather", sizes, writing.constant("lead", list(range(lead))))
    return writing.add("Concat", first, writing.constant("columns", [shape[-1]]), axis=0)


def _convolution(writing: Writing) -> None:
    """Columns as channels: behind the first axis, the other leading axes being positions, of which there are two at least."""
    product, value, rank = writing.product, writing.source, writing.product.rank
    added = {2: [2, 3], 3: [1]}.get(rank, [])
    if added:
        value = writing.axes("Unsqueeze", value, added)
    axes = max(rank, 4)
    if rank > 2:
        value = writing.add("Transpose", value, perm=[0, axes - 1, *range(1, axes - 1)])
    operands = [value, _kernel(writing, (1,) * (axes - 2))]
    if product.bias:
        operands.append(gs.Variable(product.bias))
    value = writing.add("Conv", *operands, kernel_shape=[1] * (axes - 2))
    if rank > 2:
        value = writing.add("Transpose", value, perm=[0, *range(2, axes), 1])
    if added:
        writing.axes("Squeeze", value, added)


def _kernel(writing: Writing, window: tuple[int, ...]) -> gs.Tensor:
    """Return the matrix as [outputs, inputs, 1, ..], through its DequantizeLinear where it is stored as integers."""
    chain, node, facts = writing.chain, writing.product.node, writing.facts
    turns = chain.turned == bool(node.attribute("transB", 0) if node.op == "Gemm" else 0)  # stored as [inputs, outputs]

    def arranged(name: str) -> np.ndarray:
        array = np.asarray(facts.content(name))
        return np.ascontiguousarray((array.T if turns else array).reshape(*array.shape[:: -1 if turns else 1], *window))

    kernel = gs.Constant(f"{chain.tensor}/kernel", arranged(chain.tensor))
    if chain.dequantizer is None:
        return kernel
    grid = [
        gs.Constant(f"{name}/kernel", arranged(name)) if len(facts.graph.tensors[name].dims) == 2 else gs.Variable(name)
        for name in chain.dequantizer.inputs[1:]
        if name
    ]
    attributes = {a.name: helper.get_attribute_value(a) for a in chain.dequantizer.proto.attribute}
    axis = int(attributes.get("axis", 1)) % 2
    if writing.opset >= AXES_AS_INPUT:
        attributes["axis"] = 1 - axis if turns else axis
    return writing.add("DequantizeLinear", kernel, *grid, **attributes)


FORMS: Mapping[str, Callable[[Writing], None]] = {GEMM: _gemm, CONV: _convolution}


def written_as(facts: Facts, products: Sequence[StoredProduct], form: str) -> Model:
    """Return the model with the products in another form: ``gemm`` or ``conv``; what only they read goes."""
    structure = facts.model.draft()
    graph = Graph(structure)
    splicer, maker = Splicer(graph, Names(structure.graph)), {name: node for node in graph.top for name in node.outputs}
    old, sources = list[Node](), list[Node]()
    for product in products:
        assert product.chain is not None
        writing = Writing(facts, product, product.chain)
        FORMS[form](writing)
        old += [maker[each.outputs[0]] for each in (product.node, product.adder) if each is not None]
        splicer.before(old[-1], writing.graph())  # a bias may be made between the product and what adds it
        sources += [maker[each.outputs[0]] for each in product.chain.nodes]
        sources += [maker[name] for name in (product.chain.tensor, product.bias) if name in maker]
    for node in old:
        del node.proto.output[:]  # the new nodes make these
    splicer.carry_out()
    _take_out(structure, graph, old, sources)
    return facts.model.derived(structure)


def _take_out(structure: ModelProto, graph: Graph, old: Sequence[Node], sources: Iterable[Node]) -> None:
    """Take out the ``old`` nodes, which make nothing any more, those of ``sources`` that nothing reads then, readers first, and what these alone read or made."""
    left = [proto for proto in structure.graph.node if proto.output]
    readers = Counter(name for proto in left for name in names_read(proto))
    readers.update(value.name for value in structure.graph.output)
    gone = list[Node]()
    for node in dict.fromkeys(sources):
        if not any(readers[name] for name in node.outputs):
            gone.append(node)
            readers.subtract(names_read(node.proto))
    unread = {name for node in gone for name in node.outputs}
    for place in reversed(range(len(structure.graph.node))):
        if unread.issuperset(structure.graph.node[place].output):
            del structure.graph.node[place]
    made = {name for proto in structure.graph.node for name in proto.output}
    touched = {name for node in (*old, *gone) for name in (*node.inputs, *node.outputs)}
    forget_values(structure.graph, {name for name in touched if not readers[name]} - made - set(graph.inputs))
