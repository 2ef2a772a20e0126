"""Which models can be quantised, and which nodes of them have an 8-bit form: refused before any work where there is none."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxprune.allocate import matcher
from onnxprune.changes.quantising.recipes import DYNAMIC
from onnxprune.errors import ModelError, UsageError
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model
from onnxprune.model.quantiser import eight_bit_operators
from onnxprune.model.tensors import FLOATS

KEPT_FLOAT = "kept float, as asked for"
LEAST_OPSET, LEAST_IR = 11, 4
"""What ONNX Runtime's quantiser would raise a file to, or refuses."""
ALREADY = re.compile(r"(?i:quantize)|Integer|QLinear|::Q[A-Z]|NBits|Bnb4")
"""Operators of a model that computes with integers already."""
UNREAD = frozenset({"Cast", "Shape", "Identity", "ConstantOfShape"})
"""Operators that a half-precision tensor may go through without anything being computed in it."""


@dataclass(frozen=True)
class WeighingNode:
    """A node with a float weight of two axes or more: ``reason`` why it stays float ("": it need not)."""

    name: str
    op: str
    weight: str
    bytes: int
    reason: str = ""


def require_quantisable(model: Model) -> None:
    """Refuse what the quantiser does not take, or would change beyond what was asked for; raises ModelError."""
    graph = Graph(model.structure)
    already = next((node for node in graph.nodes if ALREADY.search(node.op)), None)
    if already is not None:
        raise ModelError(
            f"{model.name} is quantised already ({already.label} is a {already.op}); leave quantize out, or give the float model"
        )
    for name, tensor in graph.tensors.items():
        reader = next((node for node, _ in graph.consumers.get(name, ()) if node.op not in UNREAD), None)
        if tensor.data_type in FLOATS and tensor.data_type != TensorProto.FLOAT and len(tensor.dims) > 1 and reader:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise ModelError(
                f"{model.name} computes in {kind} ({name}, read by {reader.label}), and ONNX Runtime's quantiser takes float32 "
                "alone; give the model as float32, or leave quantize out"
            )
    opset, ir = graph.versions.get("", LEAST_OPSET), model.structure.ir_version
    for what, version, least in (("opset", opset, LEAST_OPSET), ("IR version", ir, LEAST_IR)):
        if version < least:
            raise ModelError(
                f"{model.name} has {what} {version}, and ONNX Runtime's quantiser needs {least}: no file is raised unasked; "
                f"give one of {'opset 13 or later' if what == 'opset' else f'{what} {least} or later'}, or leave quantize out"
            )


def names_kept(graph: Graph, patterns: Sequence[str], *, all_match: bool = False) -> frozenset[str]:
    """Return the names by which nodes that match a pattern are known, in this graph and in what ONNX Runtime's preparation makes of it.

    These are its label, its outputs and its weights: a product that becomes a Gemm keeps the last, a convolution that takes in a norm
    the first. Raises UsageError for a pattern that matches no node, if ``all_match``.
    """
    names = {node: _known_by(graph, node) for node in graph.top}
    every, found = frozenset[str]().union(*names.values()), set[str]()
    for pattern in patterns:
        by_node, by_name = matcher(pattern, every)
        hit = [own for node, own in names.items() if by_node(node) or any(map(by_name, own))]
        if not hit and all_match:
            raise UsageError(
                f"keep_float {pattern!r} matches no node of the model; give names that onnxprune inspect MODEL --quantize dynamic lists"
            )
        found |= set[str]().union(*hit)
    return frozenset(found)


def kept_float(graph: Graph, names: frozenset[str]) -> frozenset[str]:
    """Return the first outputs of the nodes that are known by one of ``names``; see ``names_kept``."""
    return frozenset(node.outputs[0] for node in graph.top if not names.isdisjoint(_known_by(graph, node)))


def _known_by(graph: Graph, node: Node) -> frozenset[str]:
    weights = (name for name in node.inputs if _is_weight(graph, name))
    return frozenset(filter(None, (node.label, *node.outputs, *weights)))


def weighing_nodes(graph: Graph, mode: str, kept: Collection[str] = ()) -> Iterator[WeighingNode]:
    """Yield every node that reads a float tensor of two axes or more, by its first such tensor, and why it would stay float.

    ``kept``: first outputs of nodes that are to stay so.
    """
    known = eight_bit_operators(dynamic=mode == DYNAMIC)
    for node in graph.nodes:
        weight = next((name for name in node.inputs if _is_weight(graph, name)), None)
        if weight is None:
            continue
        tensor = graph.tensors[weight]
        size = 4
        for dim in tensor.dims:
            size *= dim
        reason = KEPT_FLOAT if node.outputs[0] in kept else _reason(graph, node, known, mode)
        yield WeighingNode(node.label, node.op, weight, size, reason)


def _is_weight(graph: Graph, name: str) -> bool:
    tensor = graph.tensors.get(name)
    return tensor is not None and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1


def _reason(graph: Graph, node: Node, known: list[str], mode: str) -> str:
    kind = node.proto.op_type
    if kind not in known:
        form = "as values come" if mode == DYNAMIC else "with fixed ranges"
        return f"ONNX Runtime's quantiser has no 8-bit {node.op} {form}"
    return "" if node in graph.top else "it is inside a body, which ONNX Runtime's quantiser leaves alone"
