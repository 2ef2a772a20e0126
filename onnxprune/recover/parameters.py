"""The trainable parameters of a model: read from it, and written back into it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from onnx import TensorProto, helper

from onnxprune.errors import ModelError
from onnxprune.model.graph import Graph, Node
from onnxprune.model.read import FLOATS, Model

CARRIERS = ("Identity", "Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Flatten")
"""A stored tensor that only passes through these is still that tensor."""

# operator -> inputs that hold weights; running statistics, limits, scales of quantisation and the like are none
WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Einsum": (0, 1, 2),
    "GRU": (1, 2, 3),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3),
    "com.microsoft::Attention": (1, 2),
    "com.microsoft::FusedConv": (1, 2),
    "com.microsoft::FusedGemm": (0, 1, 2),
    "com.microsoft::FusedMatMul": (0, 1),
    "com.microsoft::SkipLayerNormalization": (2, 3, 4),
    "com.microsoft::SkipSimplifiedLayerNormalization": (2, 3),
}
VECTORS = ("Add", "Sub", "Mul", "Div")
"""Operators whose stored operands are biases or scales if they vary along one axis only."""


def trainable(model: Model) -> dict[str, np.ndarray]:
    """Return name -> array in graph order, 16-bit floats widened to 32; raises ModelError where there is none.

    What the model gives out as it is stored stays.
    """
    graph = Graph(model.structure)
    found: dict[str, np.ndarray] = {}
    for node in graph.top:
        for name in stored_weights(node, graph):
            if name not in found and name not in graph.outputs:
                array = model.array(graph.tensors[name])
                found[name] = array.astype(np.float32 if array.itemsize == 2 else array.dtype)
    if not found:
        raise ModelError(f"{model.name}: no float weights that could be trained")
    return found


def to_train(pruned: Model, original: Model, masked: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Return the trainable parameters but those of layers up to which both models compute the same; all where that leaves none.

    ``masked``: parameters that take part in any case.
    """
    found, graph = trainable(pruned), Graph(pruned.structure)
    same = _unchanged(pruned, original)
    changed = {name for node in graph.top if node.outputs not in same for name in stored_weights(node, graph)}
    return {name: array for name, array in found.items() if name in changed or name in masked} or found


def _unchanged(pruned: Model, original: Model) -> set[tuple[str, ...]]:
    """Return the nodes, by their outputs, that have equals in the original and read what is equal there."""
    narrow, dense = Graph(pruned.structure), Graph(original.structure)
    before = {node.outputs: node.proto for node in dense.top}
    equal = set(narrow.inputs) & set(dense.inputs) | {""}
    for name in narrow.tensors.keys() & dense.tensors.keys():
        one, other = pruned.array(narrow.tensors[name]), original.array(dense.tensors[name])
        if one.dtype == other.dtype and np.array_equal(one, other):
            equal.add(name)
    found = set()
    for node in narrow.top:
        if node.op == "Constant" and node.outputs[0] in narrow.tensors:
            continue
        if before.get(node.outputs) == node.proto and equal.issuperset(node.reads()):
            equal.update(node.outputs)
            found.add(node.outputs)
    return found


def stored_weights(node: Node, graph: Graph) -> Iterator[str]:
    """Yield the stored float tensors that a node multiplies by, adds or the like, and that can be trained."""
    for place in WEIGHTS.get(node.op, range(2) if node.op in VECTORS else ()):
        name = _stored(node.input(place), graph)
        if not name or (node.op in VECTORS and not _is_vector(graph.tensors[name])):
            continue
        if graph.tensors[name].data_type in FLOATS and graph.tensors[name].dims and _in_file(name, graph):
            yield name


def _stored(name: str, graph: Graph) -> str:
    """Return the stored tensor behind a value, or an empty string."""
    while name and name not in graph.tensors:
        node = graph.producer.get(name)
        name = node.inputs[0] if node is not None and node.op in CARRIERS else ""
    return name


def _in_file(name: str, graph: Graph) -> bool:
    """Whether the tensor is stored as one, not as the list of numbers that a Constant node may hold."""
    node = graph.producer.get(name)
    return node is None or graph.tensors[name] is node.proto.attribute[0].t


def _is_vector(tensor: TensorProto) -> bool:
    return sum(size > 1 for size in tensor.dims) == 1


def with_parameters(model: Model, values: Mapping[str, np.ndarray]) -> Model:
    """Return the model with these values, in the types it had."""
    return model.replaced(as_stored(Graph(model.structure), values))


def as_stored(graph: Graph, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return copies of values in the types in which a graph stores them."""
    types = {name: helper.tensor_dtype_to_np_dtype(graph.tensors[name].data_type) for name in values}
    return {name: array.astype(types[name]) for name, array in values.items()}
