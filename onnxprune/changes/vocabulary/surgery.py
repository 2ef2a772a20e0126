"""Tables and heads with the tokens that stay alone; the numbers of tokens are those of the original, looked up in front of each table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from onnxprune.changes.vocabulary.find import TokenTensor, known_outputs
from onnxprune.changes.vocabulary.follow import Along
from onnxprune.coupling.edits import Edits
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Insertions, Names, Node, forget_values
from onnxprune.model.lookups import Lookup
from onnxprune.model.model import Model
from onnxprune.settings import ORIGINAL_NUMBERS

NEW_NUMBERS = "new_numbers"
LOOKED_UP = "onnxprune.new_numbers"
"""Key of the metadata that names, while a run lasts, the table by which the model looks up its own numbers of tokens."""


@dataclass(frozen=True, eq=False)
class TokenMap:
    """``ids``: int64, ascending: the tokens that stay, of ``tokens``. ``stand_in``: the one of them that is taken for a token that went.

    ``unknown``: whether that is what the tokenizer takes for what it does not know; else the written file refuses such tokens.
    ``numbers``: whether the written file takes the original's numbers of tokens, or new ones.
    """

    ids: np.ndarray
    tokens: int
    stand_in: int
    unknown: bool = False
    numbers: str = ORIGINAL_NUMBERS

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


def narrowed(facts: Facts, parts: Sequence[TokenTensor], tokens: TokenMap) -> Model:
    """Return the model in which the parts have the tokens that stay, and take the original's numbers."""
    model = facts.model
    cut = [part.slices for part in parts if part.slices is not None]
    arrays = {
        name: np.take(facts.content(name), along.positions(tokens.ids), along.axis)
        for slices in cut
        for name, along in slices.stored.items()
    }
    small = model.replaced(arrays)
    structure = small.draft()
    forget_looked_up(structure)  # what a file says is not this run's
    values = {value for slices in cut for value in slices.values}
    forget_values(structure.graph, values - set(facts.graph.outputs))
    _declare_outputs(structure.graph, known_outputs(parts), len(tokens.ids))
    for slices in cut:
        for node in slices.nodes:
            _edit(structure, facts, node, slices.edits(facts, node, len(tokens.ids)))
    if lookups := {(node.outputs[0], look.ids): look for s in cut for node, look in s.lookups if look.ids is not None}:
        _look_up(structure, lookups, tokens)
    return small.derived(structure)


def _edit(structure: ModelProto, facts: Facts, node: Node, edits: Edits) -> None:
    """Give a node the attributes and operands that it needs for fewer tokens."""
    proto = next((other for other in structure.graph.node if other.output[:1] == node.proto.output[:1]), None)
    assert proto is not None and not edits.results and not edits.instead, "no statistics are taken over tokens"
    for name, value in edits.attributes.items():
        if value != node.attribute(name):
            kept = [attribute for attribute in proto.attribute if attribute.name != name]
            del proto.attribute[:]
            proto.attribute.extend([*kept, helper.make_attribute(name, value)])
    for place, content in edits.operands.items():
        have = facts.array(node.inputs[place])
        if have is None or not np.array_equal(content, have):
            name = Names(structure.graph).fresh(f"{node.inputs[place]}/staying")
            store(structure, numpy_helper.from_array(content, name))
            proto.input[place] = name


def store(structure: ModelProto, tensor: TensorProto) -> None:
    """Add a tensor to a graph, as an input too where its IR wants that."""
    structure.graph.initializer.append(tensor)
    if structure.ir_version < 4:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        structure.graph.input.append(value)


def _declare_outputs(graph: GraphProto, outputs: Mapping[str, Along], width: int) -> None:
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if value.name in outputs and len(dims):
            along = outputs[value.name]
            dims[along.axis].Clear()
            dims[along.axis].dim_value = width * along.each


def _look_up(structure: ModelProto, lookups: Mapping[tuple[str, int], Lookup], tokens: TokenMap) -> None:
    """Put the new numbers in front of the nodes that look rows up, named by their outputs and by the input that takes numbers.

    Nodes that would not refuse a number without a row look it up among the rows first, which refuses it.
    """
    graph = Graph(structure)
    names, inserted = Names(structure.graph), Insertions(graph)
    stored = numpy_helper.from_array(tokens.table(), names.fresh(NEW_NUMBERS))
    store(structure, stored)
    rows = names.fresh(f"{NEW_NUMBERS}/rows")
    if not all(lookup.refuses for lookup in lookups.values()):
        store(structure, numpy_helper.from_array(np.arange(len(tokens.ids), dtype=np.int32), rows))
    made = dict[tuple[str, str], str]()

    def taken(table: str, numbers: str, node: Node) -> str:
        if (table, numbers) not in made:
            result = made[table, numbers] = names.fresh(f"{numbers}/{NEW_NUMBERS}")
            inserted.before(node, helper.make_node("Gather", [table, numbers], [result], name=result, axis=0))
        return made[table, numbers]

    for node in graph.top:
        for place in range(len(node.inputs)):
            lookup = lookups.get((node.outputs[0], place)) if node.outputs else None
            if lookup is not None:
                new = taken(stored.name, node.inputs[place], node)
                node.proto.input[place] = new if lookup.refuses else taken(rows, new, node)
    inserted.carry_out()
    structure.metadata_props.add(key=LOOKED_UP, value=stored.name)


def looked_up(model: Model) -> str:
    """Return the name of the table by which a model looks up its own numbers of tokens ("": none)."""
    return next((entry.value for entry in model.structure.metadata_props if entry.key == LOOKED_UP), "")


def refusing(model: Model, tokens: TokenMap) -> Model:
    """Return the model as it is written: one that refuses tokens that went, unless one that stays stands for them."""
    name = looked_up(model)
    structure = model.draft()
    forget_looked_up(structure)
    plain = model.derived(structure)
    return plain.replaced({name: tokens.table(refusing=True)}) if name else plain


def forget_looked_up(structure: ModelProto) -> None:
    """Take out the metadata that names the table while a run lasts."""
    for place in reversed(range(len(structure.metadata_props))):
        if structure.metadata_props[place].key == LOOKED_UP:
            del structure.metadata_props[place]


def of_staying(model: Model, outputs: Mapping[str, Along], tokens: TokenMap) -> Model:
    """Return the model whose named outputs have the positions of the tokens that stay alone."""
    if not outputs:
        return model
    structure = model.draft()
    names = Names(structure.graph)
    whole = {name: names.fresh(f"{name}/whole") for name in outputs}
    for node in structure.graph.node:
        for ends in (node.input, node.output):
            for place, name in enumerate(ends):
                ends[place] = whole.get(name, name)
    for name, along in outputs.items():
        stored = numpy_helper.from_array(along.positions(tokens.ids), names.fresh("staying"))
        structure.graph.initializer.append(stored)
        ends = ([whole[name], stored.name], [name])
        structure.graph.node.append(helper.make_node("Gather", *ends, name=f"{name}/staying", axis=along.axis))
    _declare_outputs(structure.graph, outputs, len(tokens.ids))
    return model.derived(structure)
