"""Which products of a value with stored weights can be written as Gemm or as a convolution of one position, and why others stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from onnx import TensorProto

from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Node
from onnxprune.model.read import NATIVE_FLOATS

GEMM, CONV = "gemm", "conv"
LEAST_OPSET = 7
"""From which on a bias of one number per column broadcasts, whatever the rank."""
MOST_AXES = 5
"""Of what is multiplied, as a convolution over up to three axes."""


class WeightChain(NamedTuple):
    """The stored ``tensor`` behind an operand, the Transposes and the DequantizeLinear between them, whether it is ``turned`` by these."""

    tensor: str
    value: str
    turned: bool
    dequantizer: Node | None
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class StoredProduct:
    """x[.., k] times a stored matrix, perhaps plus a stored bias[n] that ``adder`` adds; ``reason``: why it stays as it is."""

    node: Node
    chain: WeightChain | None
    rank: int = 0
    adder: Node | None = None
    bias: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        return self.node.label

    @property
    def output(self) -> str:
        return (self.adder or self.node).outputs[0]


def stored_products(facts: Facts, form: str) -> Iterator[StoredProduct]:
    """Yield every MatMul (for a convolution every Gemm too) that reads a stored tensor, in the order of the nodes."""
    graph = facts.graph
    for node in graph.nodes:
        if node.op == "MatMul" or (node.op == "Gemm" and form == CONV):
            sides = [weight_chain(graph, node.input(place)) for place in (0, 1)]
            if any(sides):
                yield _product(facts, node, sides, form)


def weight_chain(graph: Graph, value: str) -> WeightChain | None:
    """Follow an operand back to a stored tensor, through Transposes of two axes and one DequantizeLinear; None: it is computed."""
    turned, nodes = False, list[Node]()
    while (node := graph.producer.get(value)) is not None and node.op == "Transpose":
        if list(node.attribute("perm", [1, 0])) != [1, 0]:
            return None
        turned, value = not turned, node.inputs[0]
        nodes.append(node)
    inner, dequantizer = value, node if node is not None and node.op == "DequantizeLinear" else None
    if dequantizer is not None:
        value = dequantizer.inputs[0]
        if not all(name in graph.tensors for name in dequantizer.inputs if name):
            return None
        nodes.append(dequantizer)
    return WeightChain(value, inner, turned, dequantizer, tuple(nodes)) if value in graph.tensors else None


def _product(facts: Facts, node: Node, sides: list[WeightChain | None], form: str) -> StoredProduct:
    chain, shape = sides[1], facts.shape(node.inputs[0])
    rank = len(shape or ())
    reason = _reason(facts, node, chain, rank, form)
    if reason or chain is None:
        return StoredProduct(node, chain, rank, reason=reason)
    if node.op == "Gemm":
        return StoredProduct(node, chain, rank, bias=node.input(2))
    adder, bias = _bias_behind(facts, node)
    return StoredProduct(node, chain, rank, adder, bias)


def _reason(facts: Facts, node: Node, chain: WeightChain | None, rank: int, form: str) -> str:
    graph = facts.graph
    if node not in graph.top:
        return "it stands in a body"
    if chain is None:
        return "its weights stand on the left"
    if len(graph.tensors[chain.tensor].dims) != 2:
        return "its weights are no single matrix"
    if facts.dtype(node.outputs[0]) not in NATIVE_FLOATS:
        return f"it does not compute in floats that a {'Gemm' if form == GEMM else 'Conv'} takes"
    if graph.versions.get("", 1) < LEAST_OPSET:
        return f"the file has opset {graph.versions.get('', 1)}, and this needs {LEAST_OPSET}"
    if not rank:
        return "how many axes it multiplies is not known"
    return _reason_for_conv(facts, node, chain, rank) if form == CONV else ""


def _reason_for_conv(facts: Facts, node: Node, chain: WeightChain, rank: int) -> str:
    graph = facts.graph
    if not 2 <= rank <= MOST_AXES:
        return f"it multiplies {rank} axes, and a convolution takes 2 to {MOST_AXES}"
    between = [chain.tensor, *(inner.outputs[0] for inner in chain.nodes)]
    if any(len(graph.consumers[name]) > 1 or name in graph.outputs for name in between):
        return "its weights are read by other nodes too"
    if graph.tensors[chain.tensor].data_type in (TensorProto.INT4, TensorProto.UINT4):
        return "its weights are stored in 4 bits"
    if node.op == "Gemm":
        if node.attribute("transA", 0) or (node.attribute("alpha", 1.0), node.attribute("beta", 1.0)) != (1.0, 1.0):
            return "it scales or transposes what it reads"
        if node.input(2) and not _is_bias(facts, node.input(2), node):
            return "its bias is no stored number per column"
    return ""


def _bias_behind(facts: Facts, node: Node) -> tuple[Node | None, str]:
    """Return the Add of one stored number per column that alone reads the product, and that bias; None and "" where there is none."""
    graph, output = facts.graph, node.outputs[0]
    readers = graph.consumers[output]
    if len(readers) != 1 or output in graph.outputs or readers[0][0].op != "Add" or readers[0][0] not in graph.top:
        return None, ""
    adder, place = readers[0]
    other = adder.input(1 - place)
    return (adder, other) if _is_bias(facts, other, node) else (None, "")


def _is_bias(facts: Facts, value: str, node: Node) -> bool:
    tensor, shape = facts.graph.tensors.get(value), facts.shape(node.outputs[0]) or ()
    return tensor is not None and bool(shape) and list(tensor.dims) == [shape[-1]] and facts.static(node.outputs[0], -1)
