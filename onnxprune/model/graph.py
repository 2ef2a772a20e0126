"""A thin, read-only view of an ONNX graph: nodes, values and who makes and uses them, bodies of control flow included.

Values are named by strings. Inside a body (If, Loop, Scan) a name is prefixed with the path of its owner, because sibling
bodies may use the same name twice; names captured from outside keep the name they have there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

DEFAULT_DOMAINS = ("", "ai.onnx")
RANDOM_OPS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


@dataclass(frozen=True, eq=False)
class Body:
    """One graph inside a node; ``inputs`` and ``outputs`` are value names in the flat naming."""

    attribute: str
    proto: GraphProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]

    def runs_if(self, condition: bool) -> bool:
        """Whether this branch of an If is the one taken."""
        return self.attribute == ("then_branch" if condition else "else_branch")


@dataclass(frozen=True, eq=False)
class Node:
    """One node: ``op`` is the type (``domain::Type`` outside the default domain), ``version`` the opset of its domain."""

    proto: NodeProto
    op: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    owner: GraphProto
    bodies: tuple[Body, ...] = ()

    @property
    def label(self) -> str:
        """The node's name, or where it has none, its first output."""
        return self.proto.name or next((name for name in self.outputs if name), self.op)

    def attribute(self, name: str, default: Any = None) -> Any:
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def input(self, index: int) -> str:
        """Return the name of an input, or an empty string where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def inside(self) -> Iterator[Node]:
        """Yield the node itself and all nodes of its bodies."""
        yield self
        for body in self.bodies:
            for node in body.nodes:
                yield from node.inside()

    def reads(self) -> set[str]:
        """Return the values that the node uses, and those that its bodies use or give."""
        inputs = {name for node in self.inside() for name in node.inputs if name}
        return inputs.union(*(body.outputs for node in self.inside() for body in node.bodies))


@dataclass(eq=False)
class Graph:
    """All nodes of a model in topological order, the bodies' nodes just before their owner.

    ``tensors`` maps every initializer and Constant output to its TensorProto; ``owners`` maps an initializer to the
    graph that holds it.
    """

    model: ModelProto
    nodes: list[Node] = field(default_factory=list)
    top: tuple[Node, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    tensors: dict[str, TensorProto] = field(default_factory=dict)
    producer: dict[str, Node] = field(default_factory=dict)
    consumers: dict[str, list[tuple[Node, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.versions = {"" if o.domain in DEFAULT_DOMAINS else o.domain: o.version for o in self.model.opset_import}
        graph = self.model.graph
        self.inputs, self.outputs, self.top = self._read(graph, "", {})
        for node in self.nodes:
            self.producer.update((name, node) for name in node.outputs if name)
            for index, name in enumerate(node.inputs):
                if name:
                    self.consumers[name].append((node, index))

    def _read(self, graph: GraphProto, prefix: str, outer: dict[str, str]) -> tuple[tuple, tuple, tuple]:
        names = dict(outer)

        def define(name: str) -> str:
            if name:
                names[name] = prefix + name
            return prefix + name if name else ""

        for tensor in graph.initializer:
            self.tensors[define(tensor.name)] = tensor
        inputs = tuple(define(value.name) for value in graph.input if names.get(value.name) not in self.tensors)
        nodes = tuple(self._node(proto, graph, names, define, prefix) for proto in graph.node)
        return inputs, tuple(names.get(value.name, value.name) for value in graph.output), nodes

    def _node(
        self, proto: NodeProto, graph: GraphProto, names: dict[str, str], define: Callable[[str], str], prefix: str
    ) -> Node:
        domain = "" if proto.domain in DEFAULT_DOMAINS else proto.domain
        inputs = tuple(names.get(name, name) if name else "" for name in proto.input)
        bodies = []
        for attribute, body in _body_attributes(proto):
            path = f"{prefix}{next(filter(None, proto.output), proto.name)}/{attribute}:"  # node names may repeat
            ends = self._read(body, path, names)
            bodies.append(Body(attribute, body, *ends))
        node = Node(
            proto=proto,
            op=f"{domain}::{proto.op_type}" if domain else proto.op_type,
            version=self.versions.get(domain, 1),
            inputs=inputs,
            outputs=tuple(define(name) for name in proto.output),
            owner=graph,
            bodies=tuple(bodies),
        )
        if node.op == "Constant":
            self.tensors[node.outputs[0]] = _constant_tensor(proto)
        self.nodes.append(node)
        return node


def made_of_weights(graph: Graph) -> frozenset[str]:
    """Return the values that depend on stored tensors alone, whatever the inputs are."""
    constant = set(graph.tensors)
    for node in graph.nodes:
        if node.op not in RANDOM_OPS and not node.bodies and all(name in constant or not name for name in node.inputs):
            constant.update(name for name in node.outputs if name)
    return frozenset(constant)


def give_out(proto: ModelProto, names: Iterable[str]) -> None:
    """Let a model give out inner values too; those that are outputs already stay as they are."""
    declared = {value.name for value in proto.graph.output}
    proto.graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in declared)


def leave_what_makes(proto: ModelProto, names: Collection[str], given: Collection[str] = ()) -> None:
    """Take out of a model what some values do not depend on, or only by way of ``given`` ones; they become its outputs, its inputs stay."""
    graph = proto.graph
    nodes = nodes_behind(graph.node, set(names), given)
    read = set(names).union(*map(names_read, nodes))
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    for held, left in ((graph.node, nodes), (graph.initializer, stored)):
        del held[:]
        held.extend(left)
    del graph.output[:]
    give_out(proto, names)


def nodes_behind(nodes: Sequence[NodeProto], wanted: set[str], given: Collection[str] = ()) -> list[NodeProto]:
    """Return the nodes that the ``wanted`` values depend on, in their order; ``wanted`` grows by what these read.

    What lies behind ``given`` values is left out.
    """
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted |= names_read(node).difference(given)
            kept.append(node)
    return kept[::-1]


def forget_values(graph: GraphProto, names: Container[str]) -> None:
    """Take out what a graph stores and declares under these names, its own results aside."""
    for items in (graph.initializer, graph.input, graph.value_info):
        for index in reversed([i for i, item in enumerate(items) if item.name in names]):
            del items[index]


def names_read(proto: NodeProto) -> set[str]:
    """Return the names that a node reads from outside, those that its bodies capture included."""
    names = {name for name in proto.input if name}
    for _, body in _body_attributes(proto):
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        for inner in body.node:
            names |= names_read(inner) - own
            own.update(inner.output)
        names |= {v.name for v in body.output} - own
    return names


def _body_attributes(proto: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for index, body in enumerate(attribute.graphs):
            yield f"{attribute.name}[{index}]", body


def _constant_tensor(proto: NodeProto) -> TensorProto:
    """Return the tensor a Constant node holds; the one in the file itself where it is stored as a tensor."""
    attribute = proto.attribute[0]
    if attribute.type == AttributeProto.TENSOR:
        return attribute.t
    dtypes = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    value = helper.get_attribute_value(attribute)
    if attribute.name in dtypes:
        return numpy_helper.from_array(np.asarray(value, dtypes[attribute.name]))
    if attribute.name == "sparse_value":
        return TensorProto(dims=value.dims, data_type=value.values.data_type)
    return numpy_helper.from_array(np.asarray(value, dtype=object))


# --- changing a copy ------------------------------------------------------------------------------------------------


def replace_reads(graph: GraphProto, names: Mapping[str, str], outputs: bool = True) -> None:
    """Let all nodes read the new names; ``outputs``: what the graph gives out too, which a body has to make itself."""
    for value in graph.output if outputs else ():
        if value.name in names:
            graph.node.append(NodeProto(op_type="Identity", input=[names[value.name]], output=[value.name]))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                replace_reads(attribute.g, names)


class Names:
    """Names that a graph and its bodies do not have yet, of values as of nodes."""

    def __init__(self, graph: GraphProto, *others: Iterable[str]):
        self._taken = set(_names(graph)).union(*others)
        self._last: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def fresh(self, base: str) -> str:
        """Return ``base``, with the first free number behind it where that is taken, and take it."""
        name, number = base, self._last.get(base, 1)
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._last[base] = number
        self._taken.add(name)
        return name


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for values in (graph.input, graph.output, graph.value_info) for value in values)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output
        for _, body in _body_attributes(node):
            yield from _names(body)


class Insertions:
    """Nodes that are to stand before or after those of a graph, put into their places all at once."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._before: dict[Node, list[NodeProto]] = defaultdict(list)
        self._after: dict[Node, list[NodeProto]] = defaultdict(list)

    def before(self, node: Node, fresh: NodeProto) -> None:
        self._before[node].append(fresh)

    def after(self, node: Node, fresh: NodeProto) -> None:
        self._after[node].append(fresh)

    def carry_out(self) -> None:
        """Insert everything, from the last node of each graph to its first."""
        places: dict[int, int] = defaultdict(int)
        todo = []
        for node in self._graph.nodes:
            place = places[id(node.owner)]
            places[id(node.owner)] = place + 1
            if node in self._before or node in self._after:
                todo.append((node, place))
        for node, place in reversed(todo):
            for at, fresh in ((place + 1, self._after.pop(node, [])), (place, self._before.pop(node, []))):
                for proto in reversed(fresh):
                    node.owner.node.insert(at, proto)
