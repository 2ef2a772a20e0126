"""Tensors of a model exchanged for the nodes that decode them, each in front of the first node that reads it, under its own name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxprune.changes.storage.building import Decoder, Shared
from onnxprune.changes.storage.bundling import bundles, decoded_together
from onnxprune.changes.storage.choose import MOST_CODES
from onnxprune.changes.storage.forms import Packing, TensorNumbers
from onnxprune.coupling.folding import constant_nodes, evaluated
from onnxprune.model.graph import Graph, Names, Node, forget_values
from onnxprune.model.model import Model
from onnxprune.model.surgeon import Splicer

TOGETHER = 1 << 28  # bytes that are decoded at once


def stored_as(model: Model, forms: Mapping[str, Packing]) -> Model:
    """Return the model with the named tensors, whose numbers the forms hold, in these forms."""
    structure = model.draft()
    graph = Graph(structure)
    names = Names(structure.graph)
    splicer = Splicer(graph, names)
    shared, readers = Shared(graph, splicer, names), _first_readers(graph)
    for number, together in enumerate(bundles(forms, {name: graph.tensors[name] for name in forms})):
        decoder = Decoder(number, shared)
        members = {n: TensorNumbers.of(np.asarray(model.array(graph.tensors[n])), MOST_CODES) for n in together}
        first = min((readers.get(name, graph.top[-1]) for name in together), key=graph.top.index)
        splicer.before(first, decoder.graph(decoded_together(decoder, members, forms[together[0]])))
    splicer.carry_out()
    forget_values(structure.graph, forms)
    for index in reversed([i for i, node in enumerate(structure.graph.node) if _makes_one(node, forms)]):
        del structure.graph.node[index]
    return model.derived(structure)


def _makes_one(node: object, names: Mapping[str, Packing]) -> bool:
    return node.op_type == "Constant" and node.output[0] in names  # type: ignore[attr-defined]


def _first_readers(graph: Graph) -> dict[str, Node]:
    """Return value -> the first node of the main graph that reads it, itself or in a body."""
    found: dict[str, Node] = {}
    for node in graph.top:
        for name in node.reads():
            found.setdefault(name, node)
    return found


def wrongly_decoded(model: Model, wanted: Mapping[str, np.ndarray]) -> list[str]:
    """Return the tensors that a model does not decode to what they are to be, bit for bit."""
    graph = Graph(model.structure)
    sources = constant_nodes(graph)
    wrong = []
    for names in _in_parts(wanted):
        found = evaluated(model, graph, sources, names)
        wrong += [name for name in names if not _equal(found.get(name), wanted[name])]
    return wrong


def _in_parts(arrays: Mapping[str, np.ndarray]) -> Iterable[list[str]]:
    part, size = list[str](), 0
    for name, array in arrays.items():
        if part and size + array.nbytes > TOGETHER:
            yield part
            part, size = [], 0
        part.append(name)
        size += array.nbytes
    if part:
        yield part


def _equal(found: np.ndarray | None, wanted: np.ndarray) -> bool:
    if found is None or found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    return np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(wanted).tobytes()
