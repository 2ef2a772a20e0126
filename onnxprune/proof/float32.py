"""Models of two-byte floats as the same models in float32, in which every number of theirs is one too.

ONNX Runtime's CPU cannot run bfloat16; and what is compared in float32 is told apart to a thousandth of what float16 rounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.model.graph import Names, names_read
from onnxprune.model.model import Model
from onnxprune.model.tensors import all_tensors, node_tensors

TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")
BRAIN = frozenset({TensorProto.BFLOAT16})
HALF = BRAIN | {TensorProto.FLOAT16}


def has_any(proto: ModelProto, types: Collection[int]) -> bool:
    """Whether a model stores, takes or gives one of the element types."""
    declared = {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}
    return any(kind in types for kind in declared | {tensor.data_type for tensor in all_tensors(proto.graph)})


def in_float32(model: Model) -> Model:
    """Return the model with every bfloat16 tensor, value and cast in float32."""
    wide = {
        name: tensor.read().astype(np.float32)
        for name, tensor in model.weights.items()
        if tensor.dtype == TensorProto.BFLOAT16
    }
    wider = model.replaced(wide)
    _retype(wider.structure, BRAIN)
    _widen(all_tensors(wider.structure.graph), BRAIN, model)
    return wider


def computed_in_float32(model: Model) -> Model:
    """Return a model that takes, computes and gives float32 where it was two-byte floats; its weights stay as they are stored.

    Each is cast where it is read first; of a table only the rows that are looked up.
    """
    proto = model.draft()
    names, nodes, waiting = Names(proto.graph), list[NodeProto](), dict[str, NodeProto]()
    for header in proto.graph.initializer:
        if header.data_type in HALF:
            whole, header.name = header.name, names.fresh(f"{header.name}:half")
            waiting[whole] = helper.make_node("Cast", [header.name], [whole], to=TensorProto.FLOAT)
    half = {name: node.input[0] for name, node in waiting.items()}
    for node in proto.graph.node:
        read = half.keys() & names_read(node)
        if node.op_type == "Gather" and read == {node.input[0]}:
            nodes += _cast_rows(node, half[node.input[0]], names)
        else:
            nodes += [*(waiting.pop(name) for name in sorted(read & waiting.keys())), node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    _retype(proto, HALF)
    _widen(node_tensors(proto.graph.node), HALF, model)
    return model.derived(proto)


def _widen(tensors: Iterable[TensorProto], types: Collection[int], model: Model) -> None:
    """Make tensors of the types that nodes hold float32."""
    for tensor in tensors:
        if tensor.data_type in types:
            tensor.CopyFrom(numpy_helper.from_array(model.array(tensor).astype(np.float32), tensor.name))


def _cast_rows(node: NodeProto, table: str, names: Names) -> list[NodeProto]:
    """Cast what a node looks up in a table instead of the table."""
    found = names.fresh(f"{node.output[0]}:half")
    looks_up = NodeProto()
    looks_up.CopyFrom(node)
    looks_up.input[0], looks_up.output[0] = table, found
    return [looks_up, helper.make_node("Cast", [found], [node.output[0]], to=TensorProto.FLOAT)]


def _retype(proto: ModelProto, types: Collection[int]) -> None:
    """Write float32 where a model says one of the types: of inputs and results, in casts."""
    for graph in _graphs(proto.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in types:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in types:
                attribute.i = TensorProto.FLOAT


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
