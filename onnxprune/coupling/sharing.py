"""Sharing that means nothing: per-channel constants that several nodes read only because their contents are equal.

Simplifiers store equal tensors once, so that the zero biases of unrelated layers become one tensor, and a cut of one layer
a cut of all. Before the analysis each reader whose channels go for themselves is given a copy; afterwards copies that
are equal still become one tensor again. Matrices that are tied stay tied.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.coupling.links import FREE, Adapt, Links, as_it_is, build_links
from onnxprune.model.facts import RANDOM_OPS, Fact, Facts
from onnxprune.model.graph import Graph, Insertions, Names
from onnxprune.model.model import Model, described

OWN_TYPES = frozenset({1, 2, 3, 4, 5, 6, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23})  # floats and quantised integers


class Use(NamedTuple):
    """One place where a value is read, and the label of the node that reads it in the end."""

    node: NodeProto
    position: int
    label: str


def unshared(
    facts: Facts,
    allowed: frozenset[str],
    adapting: Callable[[Facts], Adapt] = lambda facts: as_it_is,
    types: frozenset[int] = OWN_TYPES,
) -> Facts:
    """Return the facts of a model in which per-channel constants are shared only where their channels share their fate.

    ``facts.model.copies`` says what was copied; the facts given are returned where nothing has to be. ``adapting``: what becomes of
    signatures, in a model of its own nodes; ``types``: of elements of what is copied.
    """
    light = facts.model.draft()
    copies = _split(facts, light, types)
    if not copies:
        return facts
    every = _facts_of(facts, light, copies)
    links = build_links(every, allowed, adapting(every))
    labels, reasons = links.components()
    fates = np.where(reasons == FREE, np.arange(len(reasons)), FREE)[labels]
    stands_for = _representatives(copies, links, fates)
    kept = {copy: origin for copy, origin in copies.items() if stands_for[copy] == copy}
    if not kept:
        return facts
    light = every.model.draft()
    _rewire(light, stands_for)
    return _facts_of(replace(facts, model=every.model), light, kept)


def _facts_of(facts: Facts, proto: ModelProto, copies: Mapping[str, str]) -> Facts:
    """Return the facts with each copy behind what it is a copy of."""
    graph = Graph(proto)
    present = {*graph.tensors, *graph.producer}
    copies = {copy: origin for copy, origin in copies.items() if copy in present}
    of: dict[str, list[str]] = defaultdict(list)
    for copy, origin in copies.items():
        of[origin].append(copy)

    def extended(values: Mapping[str, Fact]) -> dict[str, Fact]:
        return {name: fact for origin, fact in values.items() for name in (origin, *of[origin])}

    first, known = extended(facts.first), facts.model.copies
    return replace(
        facts,
        graph=graph,
        model=facts.model.derived(proto, copies={**known, **{copy: known.get(o, o) for copy, o in copies.items()}}),
        first=first,
        second=first if facts.second is facts.first else extended(facts.second),
        constants=facts.constants | copies.keys(),
    )


# --- a copy for every reader ----------------------------------------------------------------------------------------


@dataclass
class _Splitter:
    """Gives every reader of a constant one of its own, from the last constant to the first."""

    graph: Graph
    uses: dict[str, list[Use]]
    names: Names
    inserted: Insertions
    copies: dict[str, str] = field(default_factory=dict)

    def split(self, name: str) -> None:
        producer = self.graph.producer.get(name)
        for use in self.uses[name][1:]:
            copy = self.names.fresh(f"{name}/{use.label}")
            use.node.input[use.position] = copy
            self.copies[copy] = name
            if producer is None:
                _add_tensor(self.graph.model, self.graph.tensors[name], copy)
                continue
            again = _renamed(producer.proto, copy, self.names)
            self.inserted.after(producer, again)
            for position, source in enumerate(producer.inputs):
                self.uses[source].append(Use(again, position, use.label))


def _split(facts: Facts, light: ModelProto, types: frozenset[int]) -> dict[str, str]:
    """Change ``light`` so that no two nodes share a per-channel constant; return copy -> what it is a copy of."""
    graph = Graph(light)
    uses: dict[str, list[Use]] = defaultdict(list)
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            if name:
                uses[name].append(Use(node.proto, position, node.label))
    splitter = _Splitter(graph, uses, Names(light.graph), Insertions(graph))
    computed = [node.outputs[0] for node in graph.top if _copyable(facts, node.op, node.outputs, bool(node.bodies))]
    stored = [tensor.name for tensor in list(light.graph.initializer)]
    for name in [*reversed(computed), *stored]:
        if name not in graph.outputs and len(uses[name]) > 1 and _per_channel(facts, name, types):
            splitter.split(name)
    splitter.inserted.carry_out()
    return splitter.copies


def _copyable(facts: Facts, op: str, outputs: tuple[str, ...], bodies: bool) -> bool:
    return len(outputs) == 1 and outputs[0] in facts.constants and not bodies and op not in RANDOM_OPS


def _per_channel(facts: Facts, name: str, types: frozenset[int]) -> bool:
    """Whether a constant has one entry per position of one axis, or is small and the same everywhere."""
    fact = facts.first.get(name)
    if fact is None or fact.shape is None or fact.dtype not in types:
        return False
    axes = [size for size in fact.shape if size > 1]
    uniform = fact.array is not None and fact.array.size > 0 and bool((fact.array == fact.array.flat[0]).all())
    return len(axes) == 1 or (len(axes) > 1 and uniform)


def _renamed(node: NodeProto, output: str, names: Names) -> NodeProto:
    result = NodeProto()
    result.CopyFrom(node)
    result.output[0] = output
    result.name = names.fresh(node.name) if node.name else ""
    return result


def _add_tensor(model: ModelProto, tensor: TensorProto, name: str) -> None:
    """Store a tensor under another name; where the file declares stored tensors as inputs, so is this one."""
    added = model.graph.initializer.add()
    added.CopyFrom(tensor)
    added.name = name
    for declared in [value for value in model.graph.input if value.name == tensor.name]:
        value = model.graph.input.add()
        value.CopyFrom(declared)
        value.name = name


# --- one copy for all that go together ------------------------------------------------------------------------------


def _representatives(copies: Mapping[str, str], links: Links, fates: np.ndarray) -> dict[str, str]:
    """Return for each copied constant and each copy the first one of the same origin whose positions share their fates."""
    first: dict[tuple[str, bytes], str] = {}
    found = {}
    for name in dict.fromkeys([*copies.values(), *copies]):
        shape = links.facts.shape(name) or ()
        fate = b"".join(fates[links.axis(name, axis)].tobytes() for axis, size in enumerate(shape) if size > 1)
        found[name] = first.setdefault((copies.get(name, name), fate), name)
    return found


def _rewire(model: ModelProto, stands_for: Mapping[str, str]) -> None:
    """Let readers read what stands for a value, and take out nodes and tensors that nobody reads any more."""
    for node in _nodes(model):
        node.input[:] = [stands_for.get(name, name) for name in node.input]
    readers = Counter(name for node in _nodes(model) for name in node.input)
    readers.update(value.name for value in model.graph.output)
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if len(node.output) == 1 and node.output[0] in stands_for and not readers[node.output[0]]:
            readers.subtract(node.input)
            del model.graph.node[index]
    for items in (model.graph.initializer, model.graph.input, model.graph.value_info):
        for index in reversed([i for i, item in enumerate(items) if item.name in stands_for]):
            if not readers[items[index].name]:
                del items[index]


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    return (node.proto for node in Graph(model).nodes)


def rejoined(model: Model, copies: Mapping[str, str]) -> Model:
    """Return the model in which copies that are equal still, tensors and the nodes that make them, are one again."""
    if not copies:
        return model
    light = model.draft()
    graph = Graph(light)
    first: dict[tuple, str] = {}
    stands_for: dict[str, str] = {}
    order = {name: place for place, name in enumerate(n for node in graph.top for n in node.outputs)}
    for name in sorted(dict.fromkeys([*copies.values(), *copies]), key=lambda name: order.get(name, -1)):
        content = _content(model, graph, name, stands_for)
        if content is not None:
            stands_for[name] = first.setdefault((copies.get(name, name), content), name)
    _rewire(light, stands_for)
    return model.derived(light)


def _content(model: Model, graph: Graph, name: str, stands_for: Mapping[str, str]) -> bytes | None:
    """Return what tells a constant from others: a tensor without its name, a node without name and output."""
    if name in model.weights:
        tensor = described(graph.tensors[name])
        tensor.name = ""
        model.weights[name].fill(tensor)
        return tensor.SerializeToString(deterministic=True)
    if name not in graph.producer:
        return None
    node = NodeProto()
    node.CopyFrom(graph.producer[name].proto)
    node.name, node.output[:] = "", []
    node.input[:] = [stands_for.get(source, source) for source in node.input]
    return node.SerializeToString(deterministic=True)
