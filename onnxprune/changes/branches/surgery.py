"""The removal of branches: sums become their trunks, and what nothing needs any more goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import GraphProto, NodeProto, TensorProto, helper

from onnxprune.coupling.blocks import Block, Flow
from onnxprune.model.facts import Facts
from onnxprune.model.model import Model


def without_blocks(facts: Facts, flow: Flow, removed: Sequence[Block]) -> Model:
    """Return the model without the branches ``removed``; a sum that is an output or read in a body becomes Identity."""
    result = facts.model.draft()
    needed = flow.needed(removed)
    trunks = {block.sum.outputs[0]: block.trunk for block in removed}
    captured = (names for node, names in zip(flow.top, flow.reads, strict=True) if node.bodies)
    held = set(facts.graph.outputs).union(*captured)
    stays = [not needed.isdisjoint(node.outputs) for node in flow.top]
    protos = [proto for proto, stay in zip(result.graph.node, stays, strict=True) if stay]
    fresh = []
    for proto in protos:
        sum_name = next((name for name in proto.output if name in trunks), None)
        if sum_name is None:
            fresh.append(_rewired(proto, trunks, held))
        elif sum_name in held:
            trunk = _trunk(trunks[sum_name], trunks, held)
            fresh.append(helper.make_node("Identity", [trunk], [sum_name], name=proto.name))
    _replace(result.graph.node, fresh)
    _replace(result.graph.output, [value for value in result.graph.output if value.name not in flow.states - needed])
    _drop_unused(result.graph, flow, needed)
    return facts.model.derived(result)


def _trunk(name: str, trunks: Mapping[str, str], held: set[str]) -> str:
    while name in trunks and name not in held:
        name = trunks[name]
    return name


def _rewired(proto: NodeProto, trunks: Mapping[str, str], held: set[str]) -> NodeProto:
    result = NodeProto()
    result.CopyFrom(proto)
    _replace(result.input, [_trunk(name, trunks, held) for name in proto.input])
    return result


def _replace(field: Any, items: Sequence[Any]) -> None:
    del field[:]
    field.extend(items)


def _drop_unused(graph: GraphProto, flow: Flow, needed: set[str]) -> None:
    """Leave the stored tensors that are still read (or never were); forget what is said about values that went."""
    gone = {name for name in flow.users if name not in needed}
    stored = {tensor.name for tensor in _named(graph)}
    held = [tensor for tensor in graph.initializer if tensor.name not in gone]
    sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name not in gone]
    inputs = [value for value in graph.input if value.name not in gone & stored]
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    infos = [value for value in graph.value_info if value.name in made or value.name not in flow.maker]
    notes = [note for note in graph.quantization_annotation if note.tensor_name not in flow.maker.keys() - made | gone]
    for field, items in (
        (graph.initializer, held),
        (graph.sparse_initializer, sparse),
        (graph.input, inputs),
        (graph.value_info, infos),
        (graph.quantization_annotation, notes),
    ):
        _replace(field, items)


def _named(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from (tensor.values for tensor in graph.sparse_initializer)
