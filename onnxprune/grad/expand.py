"""Operators without a rule of their own, rewritten in terms of operators that have one, before the reverse walk.

Recurrent layers are unrolled, an If whose condition is known becomes its branch, and what ONNX itself defines by other
operators (Attention, SoftmaxCrossEntropyLoss, CenterCropPad, ...) becomes that definition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx
import onnx.inliner
from onnx import NodeProto, helper

from onnxprune.errors import ModelError
from onnxprune.grad.emitter import Emitter, Unsupported, Value
from onnxprune.grad.recurrent import UNROLLED
from onnxprune.grad.view import ForwardNode
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model, slim


def rewritten(
    model: Model, wrt: Collection[str], rules: Collection[str], input_shapes: Mapping[str, Sequence[int]] | None
) -> Model:
    """Return the model with every rewritable operator without a rule, among those that depend on ``wrt``, rewritten.

    Raises ModelError where a recurrent layer or If cannot be rewritten; other operators are left to the walk to name.
    """
    missing = _without_rule(Graph(model.structure), wrt, rules)
    functions = sorted({node.op for node in missing if _is_function(node)})
    if functions:
        return rewritten(_inlined(model, functions), wrt, rules, input_shapes)
    replaced = {node.outputs for node in missing if node.op in UNROLLED or node.op == "If"}
    if not replaced:
        return model
    graph = Graph(model.structure)
    emit = Emitter(gather_facts(model, graph, input_shapes))
    nodes: list[NodeProto] = []
    for node in graph.top:
        nodes.extend(_replacement(emit, node, model.name) if node.outputs in replaced else [node.proto])
    result = model.draft()
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(emit.tensors.values())
    return rewritten(model.derived(result), wrt, rules, input_shapes)


def _without_rule(graph: Graph, wrt: Collection[str], rules: Collection[str]) -> list[Node]:
    reached, missing = set(wrt), []
    for node in graph.top:
        if reached.intersection(node.reads()):
            reached.update(node.outputs)
            if node.op not in rules:
                missing.append(node)
    return missing


def _is_function(node: Node) -> bool:
    if "::" in node.op or not onnx.defs.has(node.op, ""):
        return False
    schema: Any = onnx.defs.get_schema(node.op, node.version, "")
    return schema.has_function or schema.has_context_dependent_function


def _inlined(model: Model, functions: Sequence[str]) -> Model:
    """Replace calls of operators by ONNX's own definitions; stored tensors are typed inputs meanwhile."""
    light = onnx.shape_inference.infer_shapes(slim(model, keep_bytes=0))
    result = onnx.inliner.inline_selected_functions(light, [("", op) for op in functions], inline_schema_functions=True)
    stored = {header.name for header in model.structure.graph.initializer}
    inputs = [value for value in result.graph.input if value.name not in stored]
    del result.graph.input[:], result.graph.value_info[:]
    result.graph.input.extend(inputs)
    result.graph.initializer.extend(model.structure.graph.initializer)
    return model.derived(result)


def _replacement(emit: Emitter, node: Node, where: str) -> list[NodeProto]:
    start = len(emit.nodes)
    try:
        if node.op == "If":
            return _branch(emit, node)
        results = UNROLLED[node.op](emit, ForwardNode(node, emit))
    except Unsupported as error:
        raise ModelError(f"{where}: no gradient through {node.op} (node {node.label!r}): {error}") from error
    named = zip(node.outputs, results, strict=False)
    ends = [helper.make_node("Identity", [value.name], [name]) for name, value in named if name]
    return [*(inner.proto for inner in emit.nodes[start:]), *ends]


def _branch(emit: Emitter, node: Node) -> list[NodeProto]:
    """Return the nodes of the branch that is always taken; raises Unsupported where that depends on the inputs."""
    condition = Value(node.inputs[0], emit).array
    if condition is None:
        raise Unsupported("which branch is taken depends on the inputs")
    wanted = "then_branch" if condition.all() else "else_branch"
    body = next(body for body in node.bodies if body.attribute == wanted)
    if any(inner.bodies for inner in body.nodes):
        raise Unsupported("its branch holds further control flow")
    path = f"{node.proto.name or node.proto.output[0]}/{wanted}:"
    for tensor in body.proto.initializer:
        emit.tensors[path + tensor.name] = onnx.TensorProto()
        emit.tensors[path + tensor.name].CopyFrom(tensor)
        emit.tensors[path + tensor.name].name = path + tensor.name
    nodes = []
    for inner in body.nodes:
        flat = NodeProto()
        flat.CopyFrom(inner.proto)
        flat.input[:], flat.output[:], flat.name = inner.inputs, inner.outputs, path + inner.label
        nodes.append(flat)
    ends = zip(body.outputs, node.outputs, strict=True)
    return [*nodes, *(helper.make_node("Identity", [result], [name]) for result, name in ends if name)]
