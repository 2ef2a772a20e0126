"""Tables and heads with the tokens that stay alone; the numbers of tokens are those of the original, looked up in front of each table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.changes.vocabulary.find import TokenTensor
from onnxprune.model.graph import Graph, Insertions, Names, forget_values
from onnxprune.model.model import Model

NEW_NUMBERS = "new_numbers"
LOOKED_UP = "onnxprune.new_numbers"
"""Key of the metadata that names, while a run lasts, the table by which the model looks up its own numbers of tokens."""


@dataclass(frozen=True, eq=False)
class TokenMap:
    """``ids``: int64, ascending: the tokens that stay, of ``tokens``. ``stand_in``: the one of them that is taken for a token that went.

    ``unknown``: whether that is what the tokenizer takes for what it does not know; else the written file refuses such tokens.
    """

    ids: np.ndarray
    tokens: int
    stand_in: int
    unknown: bool = False

    @property
    def new(self) -> np.ndarray:
        """int64[tokens]: the numbers of tokens in the result, -1 for those that go."""
        found = np.full(self.tokens, -1, np.int64)
        found[self.ids] = np.arange(len(self.ids))
        return found

    def table(self, refusing: bool = False) -> np.ndarray:
        """Return int32[tokens]: what the model looks up; ``refusing``: no row where a token went and nothing stands for it."""
        gone = len(self.ids) if refusing and not self.unknown else int(np.searchsorted(self.ids, self.stand_in))
        return np.where(self.new < 0, gone, self.new).astype(np.int32)


def narrowed(model: Model, parts: Sequence[TokenTensor], tokens: TokenMap) -> Model:
    """Return the model in which the parts have the tokens that stay, and take the original's numbers."""
    arrays = {}
    graph = Graph(model.structure)
    stored = {part.name: part.axis for part in parts}
    stored |= {name: axis for part in parts for head in part.heads for name, axis in head.stored.items()}
    for name, axis in stored.items():
        arrays[name] = np.take(model.array(graph.tensors[name]), tokens.ids, axis)
    small = model.replaced(arrays)
    structure = small.draft()
    _forget(structure)  # what a file says is not this run's
    values = {v for part in parts for head in part.heads for v in (*head.between, *head.values)}
    forget_values(structure.graph, values - set(graph.outputs))
    _declare_outputs(structure.graph, {o for part in parts for o in part.outputs}, len(tokens.ids))
    lookups = {node.outputs[0] for part in parts for node in part.lookups}
    if lookups:
        _look_up(structure, lookups, tokens.table())
    return small.derived(structure)


def _declare_outputs(graph: GraphProto, outputs: set[str], width: int) -> None:
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if value.name in outputs and len(dims):
            dims[-1].Clear()
            dims[-1].dim_value = width


def _look_up(structure: ModelProto, lookups: set[str], table: np.ndarray) -> None:
    """Put the new numbers in front of the nodes that look rows up, named by their outputs."""
    graph = Graph(structure)
    names, inserted = Names(graph.model.graph), Insertions(graph)
    stored = numpy_helper.from_array(table, names.fresh(NEW_NUMBERS))
    graph.model.graph.initializer.append(stored)
    if graph.model.ir_version < 4:
        graph.model.graph.input.append(helper.make_tensor_value_info(stored.name, TensorProto.INT32, list(stored.dims)))
    made: dict[str, str] = {}
    for node in [node for node in graph.top if node.outputs and node.outputs[0] in lookups]:
        old = node.inputs[1]
        if old not in made:
            made[old] = names.fresh(f"{old}/{NEW_NUMBERS}")
            fresh = helper.make_node("Gather", [stored.name, old], [made[old]], name=names.fresh(made[old]), axis=0)
            inserted.before(node, fresh)
        node.proto.input[1] = made[old]
    inserted.carry_out()
    graph.model.metadata_props.add(key=LOOKED_UP, value=stored.name)


def refusing(model: Model, tokens: TokenMap) -> Model:
    """Return the model as it is written: one that refuses tokens that went, unless one that stays stands for them."""
    name = next((entry.value for entry in model.structure.metadata_props if entry.key == LOOKED_UP), "")
    structure = model.draft()
    _forget(structure)
    plain = model.derived(structure)
    return plain.replaced({name: tokens.table(refusing=True)}) if name else plain


def _forget(structure: ModelProto) -> None:
    for place in reversed(range(len(structure.metadata_props))):
        if structure.metadata_props[place].key == LOOKED_UP:
            del structure.metadata_props[place]


def of_staying(model: Model, outputs: Mapping[str, int] | set[str], tokens: TokenMap) -> Model:
    """Return the model whose named outputs have the positions of the tokens that stay alone."""
    if not outputs:
        return model
    structure = model.draft()
    names = Names(structure.graph)
    stored = numpy_helper.from_array(tokens.ids, names.fresh("staying"))
    structure.graph.initializer.append(stored)
    whole = {name: names.fresh(f"{name}/whole") for name in outputs}
    for node in structure.graph.node:
        for ends in (node.input, node.output):
            for place, name in enumerate(ends):
                ends[place] = whole.get(name, name)
    structure.graph.node.extend(_selecting(whole, stored.name))
    _declare_outputs(structure.graph, set(outputs), len(tokens.ids))
    return model.derived(structure)


def _selecting(whole: Mapping[str, str], stored: str) -> list[NodeProto]:
    return [
        helper.make_node("Gather", [full, stored], [name], name=f"{name}/staying", axis=-1)
        for name, full in whole.items()
    ]
