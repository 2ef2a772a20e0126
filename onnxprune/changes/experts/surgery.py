"""The model without experts, and the original in which no token goes to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from onnxprune.changes.experts.absent import Absent
from onnxprune.changes.experts.find import Expert, Mixtures
from onnxprune.changes.experts.wiring import resolved
from onnxprune.coupling.cut import cut
from onnxprune.coupling.kept import Kept
from onnxprune.errors import SurgeryError
from onnxprune.model.graph import Graph, Insertions, Names
from onnxprune.model.model import Model


def masked(mixtures: Mixtures, gone: Sequence[Expert], everywhere: bool = False) -> Model:
    """Return the original in which the scores of these experts are minus infinity: where they begin, and where experts are picked.

    ``everywhere``: whether layers that lose none have masks too, so that models differ in the content of these alone.
    """
    facts, kept = mixtures.facts, mixtures.keeping(gone)
    structure = facts.model.draft()
    graph = Graph(structure)
    masks = _Masks(graph, kept)
    layers = mixtures.layers if everywhere else list(dict.fromkeys(expert.layer for expert in gone))
    scores = {name: axis for layer in layers for name, axis in layer.scores}
    for name, axis in scores.items():
        fresh = masks.after(name, axis, facts.dtype(name), len(facts.shape(name) or ()))
        for node in graph.top:
            node.proto.input[:] = [fresh if value == name else value for value in node.proto.input]
    pickers = {p.node.outputs[0]: p for layer in layers for p in layer.pickers if p.value not in scores}
    for node in graph.top:
        picker = pickers.get(node.outputs[0]) if node.outputs else None
        if picker is not None:
            rank, place = len(facts.shape(picker.value) or ()), node.inputs.index(picker.value)
            node.proto.input[place] = masks.before(node, place, picker.axis, facts.dtype(picker.value), rank)
    masks.inserted.carry_out()
    return facts.model.derived(structure)


class _Masks:
    """Puts Where in front of what reads scores; ``kept`` says whose stay."""

    def __init__(self, graph: Graph, kept: Kept):
        self.graph, self.kept = graph, kept
        self.names, self.inserted = Names(graph.model.graph), Insertions(graph)

    def after(self, name: str, axis: int, dtype: int, rank: int) -> str:
        fresh = self.names.fresh(f"{name}/masked")
        self.inserted.after(self.graph.producer[name], self._where(name, name, axis, dtype, rank, fresh))
        return fresh

    def before(self, node: Any, place: int, axis: int, dtype: int, rank: int) -> str:
        source = node.inputs[place]
        fresh = self.names.fresh(f"{source}/masked")
        self.inserted.before(node, self._where(source, node.proto.input[place], axis, dtype, rank, fresh))
        return fresh

    def _where(self, name: str, source: str, axis: int, dtype: int, rank: int, fresh: str) -> NodeProto:
        mask = self.kept.mask(name, axis)
        size = len(self.kept.analysis.solution.links.axis(name, axis))
        stays = (np.ones(size, bool) if mask is None else mask).reshape([-1 if a == axis else 1 for a in range(rank)])
        lowest = np.full((), -np.inf, helper.tensor_dtype_to_np_dtype(dtype))
        stored = [self._stored(array, what) for array, what in ((stays, "stay"), (lowest, "lowest"))]
        return helper.make_node("Where", [stored[0], source, stored[1]], [fresh], name=fresh)

    def _stored(self, array: np.ndarray, what: str) -> str:
        return _store(self.graph.model, array, self.names.fresh(what))


def _store(model: ModelProto, array: np.ndarray, name: str) -> str:
    tensor = numpy_helper.from_array(array, name)
    model.graph.initializer.append(tensor)
    if model.ir_version < 4:
        model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return name


def without_experts(mixtures: Mixtures, gone: Sequence[Expert]) -> Model:
    """Return the model in which these experts are not there; raises SurgeryError where something of them is needed.

    Axes are cut, then nodes that would add nothing are passed by, what nothing reads goes, and numbers of experts that are
    more than places to look up are those of the original.
    """
    follows = mixtures.without(gone)
    unread = mixtures.gone(follows)
    needed = next((node for name, node in follows.parts.items() if name not in unread), None)
    if needed is not None:
        raise SurgeryError(f"{needed.op} {needed.label!r} takes the part of an expert that goes, and it is needed")
    small = cut(mixtures.analysis, follows.kept)
    structure = small.structure
    graph = Graph(structure)
    _bypass(graph, follows)
    _number(graph, mixtures, follows.kept)
    _drop(structure.graph, graph, unread, mixtures.facts.graph)
    return small.derived(structure)


def _bypass(graph: Graph, follows: Absent) -> None:
    """Read what stands for values instead of them, and leave operands out."""
    left = {node.outputs[0]: places for node, places in follows.left.items()}
    for node in graph.top:
        if node.outputs and node.outputs[0] in left:
            node.proto.input[:] = [node.proto.input[place] for place in left[node.outputs[0]]]
        node.proto.input[:] = [resolved(follows.instead, name) for name in node.proto.input]
    outputs = [name for name in graph.outputs if name in follows.instead]
    makers = {name: node for node in graph.top for name in node.outputs}
    inserted = Insertions(graph)
    for name in outputs:
        inserted.after(makers[name], helper.make_node("Identity", [resolved(follows.instead, name)], [name], name=name))
        makers[name].proto.output[:] = [other if other != name else "" for other in makers[name].proto.output]
    inserted.carry_out()


def _number(graph: Graph, mixtures: Mixtures, kept: Kept) -> None:
    """Give the original's numbers to whoever does not look up by them."""
    names, inserted = Names(graph.model.graph), Insertions(graph)
    makers = {name: node for node in graph.top for name in node.outputs if name}
    known: dict[str, str] = {}
    for use in mixtures.routing.others:
        mask = kept.mask(use.picker.value, use.picker.axis)
        if mask is None:
            continue
        if use.value not in known:
            numbers = np.flatnonzero(mask).astype(helper.tensor_dtype_to_np_dtype(mixtures.facts.dtype(use.value)))
            stored = _store(graph.model, numbers, names.fresh("numbers_of_experts"))
            known[use.value] = names.fresh(f"{use.value}/new")
            gather = helper.make_node("Gather", [stored, known[use.value]], [names.fresh(f"{use.value}/old")], axis=0)
            _renumber(graph, makers[use.value], use.value, known[use.value], gather, inserted)
        old = f"{use.value}"
        if use.node is not None:
            reader = makers[use.node.outputs[0]]
            reader.proto.input[use.place] = old
    inserted.carry_out()


def _renumber(graph: Graph, maker: Any, value: str, fresh: str, gather: NodeProto, inserted: Insertions) -> None:
    """Let a value have the original's numbers under its own name, and everyone else read the new ones."""
    for node in graph.top:
        node.proto.input[:] = [fresh if name == value else name for name in node.proto.input]
    maker.proto.output[:] = [fresh if name == value else name for name in maker.proto.output]
    gather.output[0] = value
    gather.name = value
    inserted.after(maker, gather)


# --- what nothing needs ---------------------------------------------------------------------------------------------


def _drop(proto: GraphProto, graph: Graph, unread: set[str], original: Graph) -> None:
    """Take out nodes and stored tensors that nothing needs any more, and what is said about their values."""
    gone = unread - set(original.outputs)
    for node in graph.top:
        if node.op == "Split" and not gone.isdisjoint(node.outputs) and not gone.issuperset(node.outputs):
            _split_into_fewer(proto, graph, node.proto, gone)
    _keep(proto.node, lambda node: not node.output or not all(not name or name in gone for name in node.output))
    read = {name for node in Graph(graph.model).top for name in node.reads()} | set(original.outputs)
    known = original.tensors.keys() - gone
    dropped = {tensor.name for tensor in proto.initializer if tensor.name not in read | known}
    _keep(proto.initializer, lambda tensor: tensor.name not in dropped)
    _keep(proto.input, lambda value: value.name not in dropped)
    _keep(proto.value_info, lambda value: value.name not in gone)
    _keep(proto.quantization_annotation, lambda note: note.tensor_name not in gone)


def _split_into_fewer(proto: GraphProto, graph: Graph, node: NodeProto, gone: set[str]) -> None:
    """Name the parts of a Split that are left, whose sizes have to be said."""
    stays = [place for place, name in enumerate(node.output) if name not in gone]
    if len(node.input) > 1 and node.input[1]:
        tensors = {tensor.name: tensor for tensor in proto.initializer}
        sizes = numpy_helper.to_array(tensors[node.input[1]])[stays]
        node.input[1] = _store(graph.model, sizes, Names(proto).fresh(f"{node.input[1]}_left"))
    for attribute in node.attribute:
        if attribute.name == "split":
            attribute.ints[:] = [attribute.ints[place] for place in stays]
    node.output[:] = [node.output[place] for place in stays]


def _keep(field: Any, stays: Callable[[Any], bool]) -> None:
    for place in reversed([place for place, item in enumerate(field) if not stays(item)]):
        del field[place]
