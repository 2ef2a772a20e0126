"""The map of tokens left to the caller: the file takes the new numbers, and what else reads them inside gets the original's."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxprune.changes.vocabulary.find import INTEGERS, PASSED_ON
from onnxprune.changes.vocabulary.surgery import TokenMap, forget_looked_up, looked_up, store
from onnxprune.errors import ModelError
from onnxprune.model.graph import Graph, Insertions, Names, Node, forget_values
from onnxprune.model.model import Model

SIZES = frozenset({"Shape", "Size"})
"""Operators that read no number."""
DTYPES: dict[int, type[np.integer]] = {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}


def renumbered(model: Model, inputs: Collection[str], tokens: TokenMap) -> Model:
    """Return the model that takes new numbers in ``inputs``: the lookup of the map goes, other readers look the old ones up.

    Raises ModelError where a body of a node reads the numbers, or an output is made of them unchanged.
    """
    table = looked_up(model)
    structure = model.draft()
    forget_looked_up(structure)
    graph = Graph(structure)
    kinds = _numbers(graph, inputs)
    _require_reachable(graph, kinds)
    names, inserted = Names(structure.graph), Insertions(graph)
    made = dict[tuple[int, str], str]()
    for node in graph.top:
        for place, value in _others(node, kinds, table):
            kind = kinds[value]
            if (kind, "") not in made:
                made[kind, ""] = names.fresh("old_numbers")
                store(structure, numpy_helper.from_array(tokens.ids.astype(DTYPES[kind]), made[kind, ""]))
            if (kind, value) not in made:
                result = made[kind, value] = names.fresh(f"{value}/old_numbers")
                inserted.before(node, helper.make_node("Gather", [made[kind, ""], value], [result], name=result))
            node.proto.input[place] = made[kind, value]
    inserted.carry_out()
    _without_map(graph, table)
    return model.derived(structure)


def _numbers(graph: Graph, inputs: Collection[str]) -> dict[str, int]:
    """Return every value that holds the inputs' numbers unchanged, with its element type."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.model.graph.input if value.name in inputs}
    for node in graph.top:
        if node.op in PASSED_ON and node.input(0) in kinds:
            kind = int(node.attribute("to")) if node.op == "Cast" else kinds[node.inputs[0]]
            if kind in INTEGERS:
                kinds[node.outputs[0]] = kind
    return kinds


def _require_reachable(graph: Graph, kinds: Collection[str]) -> None:
    inner = next((node for node in graph.top if node.bodies and set(kinds) & node.reads()), None)
    given = next((name for name in graph.outputs if name in kinds), None)
    if inner is not None or given is not None:
        told = f"{inner.op} {inner.label!r} reads" if inner is not None else f"the output {given!r} holds"
        raise ModelError(f"{told} the numbers of tokens as they come in; leave token_numbers out")


def _others(node: Node, kinds: Collection[str], table: str) -> Iterator[tuple[int, str]]:
    """Yield the inputs by which a node reads the numbers for anything else than the map, with their values."""
    if node.op in SIZES or (node.op == "Gather" and node.inputs[0] == table):
        return
    passes = node.op in PASSED_ON and node.outputs[0] in kinds
    yield from (
        (place, value) for place, value in enumerate(node.inputs) if value in kinds and not (passes and place == 0)
    )


def _without_map(graph: Graph, table: str) -> None:
    """Take out the lookups of the map, whose readers get what was looked up."""
    proto = graph.model.graph
    gone = {node.outputs[0]: node.inputs[1] for node in graph.top if node.op == "Gather" and node.inputs[0] == table}
    for place in reversed(range(len(proto.node))):
        if proto.node[place].output[:1] and proto.node[place].output[0] in gone:
            del proto.node[place]
    for node in proto.node:
        node.input[:] = [gone.get(name, name) for name in node.input]
    forget_values(proto, {table, *gone})
