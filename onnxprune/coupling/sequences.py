"""Sequences whose elements are known one by one, written as what is done with the elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnxprune.model.graph import Graph, Insertions, Names, Node
from onnxprune.model.model import Model

AXES_AS_INPUT = 13  # opset of Unsqueeze


def unpacked(model: Model) -> Model:
    """Return the model in which elements of a SequenceConstruct are joined, or one is taken, without the sequence."""
    if all(node.op_type != "SequenceConstruct" for node in model.structure.graph.node):
        return model
    proto = model.draft()
    graph = Graph(proto)
    writer = _Writer(model, graph, Names(proto.graph), Insertions(graph))
    done = {node.outputs[0] for node in graph.top if writer.write(node)}
    if not done:
        return model
    writer.inserted.carry_out()
    _drop(proto, done)
    return model.derived(proto)


class _Writer:
    def __init__(self, model: Model, graph: Graph, names: Names, inserted: Insertions):
        self.model, self.graph, self.names, self.inserted = model, graph, names, inserted

    def write(self, node: Node) -> bool:
        """Put nodes that do without the sequence before one that reads it; return whether that was possible."""
        source = self.graph.producer.get(node.input(0))
        if source is None or source.op != "SequenceConstruct" or source.owner is not self.graph.model.graph:
            return False
        if node.op == "ConcatFromSequence":
            self._join(node, source.inputs)
            return True
        place = self.graph.tensors.get(node.input(1)) if node.op == "SequenceAt" else None
        if place is None:
            return False
        number = int(self.model.array(place))
        if not -len(source.inputs) <= number < len(source.inputs):
            return False
        self.inserted.before(node, helper.make_node("Identity", [source.inputs[number]], [node.outputs[0]]))
        return True

    def _join(self, node: Node, parts: Sequence[str]) -> None:
        axis = int(node.attribute("axis"))
        if node.attribute("new_axis", 0):
            parts = [self._with_axis(node, part, axis) for part in parts]
        self.inserted.before(
            node, helper.make_node("Concat", parts, [node.outputs[0]], name=node.proto.name, axis=axis)
        )

    def _with_axis(self, node: Node, part: str, axis: int) -> str:
        name = self.names.fresh(f"{part}_unsqueezed")
        if node.version < AXES_AS_INPUT:
            self.inserted.before(node, helper.make_node("Unsqueeze", [part], [name], axes=[axis]))
            return name
        listed = self.names.fresh(f"{name}_axes")
        self.graph.model.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), listed))
        self.inserted.before(node, helper.make_node("Unsqueeze", [part, listed], [name]))
        return name


def _drop(proto: ModelProto, done: set[str]) -> None:
    """Take out the nodes that were written anew, and sequences that nobody reads any more."""

    def old(node: NodeProto) -> bool:
        return node.op_type in ("ConcatFromSequence", "SequenceAt") and node.output[0] in done

    for index in reversed([i for i, node in enumerate(proto.graph.node) if old(node)]):
        del proto.graph.node[index]
    read = {name for node in Graph(proto).nodes for name in node.inputs} | {v.name for v in proto.graph.output}
    for index in reversed(range(len(proto.graph.node))):
        node = proto.graph.node[index]
        if node.op_type == "SequenceConstruct" and node.output[0] not in read:
            del proto.graph.node[index]
