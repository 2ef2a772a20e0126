"""Sums that are inside of a norm (``SkipLayerNormalization``), written apart and joined again: a sum is where a branch ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import NodeProto, helper

from onnxprune.coupling.rules.microsoft import SKIP, SUM
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Names, Node
from onnxprune.model.model import Model

NORMS = dict(zip(SKIP, ("LayerNormalization", "SimplifiedLayerNormalization"), strict=True))
LAYER_NORM_OPSET = 17
EPSILON = 1e-12
"""What the fused operators add where they do not say."""
JoinedNorms = Mapping[str, NodeProto]
"""Result of a norm -> the node that made it together with the sum, as the file has it."""


def sums_apart(facts: Facts) -> tuple[Model, JoinedNorms]:
    """Return the model in which a sum and its norm are two nodes, and the nodes that were both."""
    graph = Graph(facts.model.draft())
    names, joined, nodes = Names(graph.model.graph), dict[str, NodeProto](), list[NodeProto]()
    wanted = {node.proto.SerializeToString() for node in facts.graph.top if _parts(facts, node)}
    for proto in graph.model.graph.node:
        if proto.SerializeToString() not in wanted:
            nodes.append(proto)
            continue
        was = NodeProto()
        was.CopyFrom(proto)
        joined[was.output[0]] = was
        nodes += _two(was, names)
    if not joined:
        return facts.model, {}
    fresh = [_copied(node) for node in nodes]
    del graph.model.graph.node[:]
    graph.model.graph.node.extend(fresh)
    return facts.model.derived(graph.model), joined


def _parts(facts: Facts, node: Node) -> bool:
    """Whether a node is a sum of two values of one shape, without a bias, and its norm."""
    bias = node.input(4 if node.op == SKIP[0] else 3)
    statistics = [name for name in node.outputs[1:SUM] if name]
    if node.op not in SKIP or bias or statistics or node.inputs[0] == node.inputs[1]:
        return False
    plain = node.op != SKIP[0] or facts.graph.versions.get("", 1) >= LAYER_NORM_OPSET
    return plain and facts.shape(node.inputs[0]) == facts.shape(node.inputs[1])


def _two(node: NodeProto, names: Names) -> list[NodeProto]:
    given = len(node.output) > SUM and node.output[SUM]
    total = node.output[SUM] if given else names.fresh(f"{node.output[0]}/sum")
    label = names.fresh(f"{node.name or node.output[0]}/sum")
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), EPSILON)
    kind = NORMS[f"{node.domain}::{node.op_type}"]
    own: dict[str, Any] = {} if kind == "LayerNormalization" else {"stash_type": 1}
    norm = helper.make_node(
        kind, [total, *node.input[2:]], [node.output[0]], node.name, axis=-1, epsilon=epsilon, **own
    )
    return [helper.make_node("Add", list(node.input[:2]), [total], label), norm]


def _copied(node: NodeProto) -> NodeProto:
    result = NodeProto()
    result.CopyFrom(node)
    return result


def sums_joined(model: Model, joined: JoinedNorms) -> Model:
    """Return the model in which sums and norms that are there still are one node again."""
    graph = Graph(model.draft())
    proto = graph.model.graph
    for result, was in joined.items():
        norm = graph.producer.get(result)
        total = norm.inputs[0] if norm is not None else ""
        add = graph.producer.get(total)
        given = len(was.output) > SUM and was.output[SUM]
        still_apart = add is not None and add.op == "Add" and total == (given or total)
        if norm is None or add is None or not still_apart or not (given or total.startswith(f"{result}/sum")):
            continue
        node = _copied(was)
        node.input[:] = [*add.inputs, *norm.inputs[1:]]
        place = next(number for number, one in enumerate(proto.node) if one is add.proto or one == add.proto)
        proto.node.remove(norm.proto)
        proto.node.remove(add.proto)
        proto.node.insert(place, node)
    return model.derived(graph.model)
