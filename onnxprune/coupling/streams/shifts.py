"""Shifts of norms moved behind what reads them: ``(n g + b) W + c = (n g) W + (b W + c)``, so that a direction of no energy carries nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.coupling.links import Links
from onnxprune.coupling.streams.residual import ResidualStream
from onnxprune.model.graph import Graph, Insertions, Names, Node, forget_values
from onnxprune.model.model import Model

CONSTANT = frozenset(
    {
        "Identity",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Gather",
        "Split",
        "Expand",
        "ReduceMean",
        "Flatten",
    }
)
"""Operators that hand on what is the same at all places of a value as it is."""


class Moved(NamedTuple):
    """A shift that leaves: the result that reads it no longer, and for each reader what it gives more then, float64[outputs]."""

    add: Node
    data: int
    more: dict[str, np.ndarray]  # first result of a reader -> what it gives more


class Shifts:
    """Collects shifts of a model, and writes the model that has them elsewhere."""

    def __init__(self, links: Links, weight_of: Callable[[Node, int], tuple[str, int] | None]):
        self.facts, self.weight_of = links.facts, weight_of
        self.moved: list[Moved] = []

    def move(self, stream: ResidualStream) -> None:
        """Move the shift that a normalised stream has, where it is all that is added, and all that reads it can take it."""
        adds = [self._adding(name) for name in stream.writers]
        if len(adds) != 1 or adds[0] is None:
            return
        node, place = adds[0]
        between = {self.facts.graph.producer.get(value) for value, _ in stream.places} - {None, node}
        between -= {self.facts.graph.producer.get(node.input(1 - place))}
        if any(maker is not None and maker.op not in CONSTANT for maker in between):
            return
        more: dict[str, np.ndarray] = {}
        for reader, number in stream.readers:
            part = self._part(reader, number, node.input(place))
            if part is None:
                return
            more[reader.outputs[0]] = part + more.get(reader.outputs[0], 0.0)
        self.moved.append(Moved(node, 1 - place, more))
        del stream.writers[node.input(place)]

    def _adding(self, name: str) -> tuple[Node, int] | None:
        users = self.facts.graph.consumers.get(name, [])
        vector = max(self.facts.shape(name) or (0,)) == np.prod(self.facts.shape(name) or (0,))
        alone = len(users) == 1 and users[0][0].op == "Add" and vector
        return users[0] if alone and users[0][0].outputs[0] not in self.facts.graph.outputs else None

    def _part(self, reader: Node, number: int, shift: str) -> np.ndarray | None:
        """Return float64[outputs]: what a shift comes to behind a reader; None where it is not the same everywhere."""
        place = self.weight_of(reader, number)
        if place is None:
            return None
        weight = self.facts.content(place[0]).astype(np.float64)
        part = np.tensordot(self.facts.content(shift).reshape(-1).astype(np.float64), weight, axes=(0, place[1]))
        if reader.op == "Conv":
            padded = any(reader.attribute("pads", [])) or reader.attribute("auto_pad", "NOTSET") not in (
                "NOTSET",
                "VALID",
            )
            return None if padded else part.reshape(len(part), -1).sum(axis=1)
        if part.ndim != 1 or reader.op not in ("MatMul", "Gemm"):
            return None
        return part * float(reader.attribute("alpha", 1.0)) if reader.op == "Gemm" else part

    def made(self, model: Model) -> Model:
        """Return ``model``, the collector's with other weights, with the shifts where they are now."""
        return _Writer(model).written(self.moved) if self.moved else model


class _Writer:
    def __init__(self, model: Model):
        self.model, self.graph = model, Graph(model.draft())
        self.names, self.inserted = Names(self.graph.model.graph), Insertions(self.graph)
        self.arrays: dict[str, np.ndarray] = {}

    def written(self, moved: Sequence[Moved]) -> Model:
        graph = self.graph.model.graph
        for add, data, more in moved:
            for node, position in self.graph.consumers[add.outputs[0]]:
                node.proto.input[position] = add.proto.input[data]
            for result, vector in more.items():
                self._give_more(self.graph.producer[result], vector)
        self.inserted.carry_out()
        gone = {add.outputs[0] for add, _, _ in moved} | {add.input(1 - data) for add, data, _ in moved}
        for index in reversed([i for i, node in enumerate(graph.node) if node.output and node.output[0] in gone]):
            del graph.node[index]
        forget_values(graph, gone)
        return self.model.derived(self.graph.model).replaced(self.arrays)

    def _give_more(self, reader: Node, vector: np.ndarray) -> None:
        """Add a vector to what a reader gives: to its own bias, to the one behind it, or by a sum of its own."""
        bias = _bias_of(self.graph, reader)
        if bias is not None:
            old = self.arrays.get(bias, self.model.array(self.graph.tensors[bias]))
            self.arrays[bias] = (old.astype(np.float64) + vector.reshape(old.shape)).astype(old.dtype)
            return
        result, weight = reader.proto.output[0], self.graph.tensors[reader.input(1)]
        name = self.names.fresh(f"{result}_shift")
        kind = helper.tensor_dtype_to_np_dtype(weight.data_type)
        self.graph.model.graph.initializer.append(numpy_helper.from_array(vector.astype(kind), name))
        if reader.op in ("Gemm", "Conv") and not reader.input(2):
            del reader.proto.input[2:]
            reader.proto.input.append(name)
            return
        reader.proto.output[0] = self.names.fresh(f"{result}_unshifted")
        label = self.names.fresh(f"{reader.label}/shift")
        self.inserted.after(reader, helper.make_node("Add", [reader.proto.output[0], name], [result], label))


def _bias_of(graph: Graph, reader: Node) -> str | None:
    """Return the stored vector that is added to what a reader gives, if that is all it is there for."""
    name = ""
    if reader.op in ("Gemm", "Conv"):
        name = reader.input(2) if float(reader.attribute("beta", 1.0)) == 1.0 else ""
    else:
        users = graph.consumers.get(reader.outputs[0], [])
        if len(users) == 1 and users[0][0].op == "Add" and reader.outputs[0] not in graph.outputs:
            name = users[0][0].input(1 - users[0][1])
    tensor = graph.tensors.get(name)
    if tensor is None or len(graph.consumers[name]) != 1 or not tensor.dims:
        return None
    width = tensor.dims[-1]
    return name if width > 1 and np.prod(tensor.dims, dtype=np.int64) == width else None
