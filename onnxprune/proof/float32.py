"""A bfloat16 model as the same model in float32, since ONNX Runtime's CPU cannot run the former."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper

from onnxprune.model.model import Model
from onnxprune.model.tensors import all_tensors

TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


def has_bfloat16(proto: ModelProto) -> bool:
    """Whether a model stores or computes bfloat16."""
    declared = (value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output))
    stored = (tensor.data_type for tensor in all_tensors(proto.graph))
    return TensorProto.BFLOAT16 in declared or TensorProto.BFLOAT16 in stored


def in_float32(model: Model) -> Model:
    """Return the model with every bfloat16 tensor, value and cast in float32; every bfloat16 number is one of float32 too."""
    wide = {
        name: tensor.read().astype(np.float32)
        for name, tensor in model.weights.items()
        if tensor.dtype == TensorProto.BFLOAT16
    }
    wider = model.replaced(wide)
    result = wider.structure
    for tensor in all_tensors(result.graph):
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(model.array(tensor).astype(np.float32), tensor.name))
    for graph in _graphs(result.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in TYPE_ATTRIBUTES and attribute.i == TensorProto.BFLOAT16:
                    attribute.i = TensorProto.FLOAT
    return wider


def _graphs(graph: GraphProto) -> Iterable[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
