"""Sparsely stored tensors: whole while a model is worked on, sparse again where that takes less room."""

from __future__ import annotations

import numpy as np
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from onnxprune.model.model import Model

INDEX_BYTES = 8  # of the int64 that says where a value stands


def dense(model: Model) -> Model:
    """Return the model with sparse initializers and Constants stored whole; ``sparse`` names the initializers."""
    sparse = model.structure.graph.sparse_initializer
    constants = [node for node in model.structure.graph.node if node.op_type == "Constant" and _sparse_value(node)]
    if not sparse and not constants:
        return model
    result = model.draft()
    result.graph.ClearField("sparse_initializer")
    result.graph.initializer.extend(_whole(tensor, model) for tensor in sparse)
    for node in result.graph.node:
        if node.op_type == "Constant" and (value := _sparse_value(node)) is not None:
            node.attribute[0].CopyFrom(helper.make_attribute("value", _whole(value, model)))
    return model.derived(result, sparse=tuple(tensor.values.name for tensor in sparse))


def _sparse_value(node: object) -> SparseTensorProto | None:
    return next((a.sparse_tensor for a in node.attribute if a.name == "sparse_value"), None)  # type: ignore[attr-defined]


def _whole(tensor: SparseTensorProto, model: Model) -> TensorProto:
    """Return a sparse tensor with its zeros; its places are numbers of elements or rows of coordinates."""
    values, places = model.array(tensor.values), model.array(tensor.indices)
    array = np.zeros(tuple(tensor.dims), values.dtype)
    flat = places if places.ndim < 2 else np.ravel_multi_index(tuple(places.T), array.shape)
    array.reshape(-1)[flat] = values
    return numpy_helper.from_array(array, tensor.values.name)


def store_sparsely(model: Model, names: tuple[str, ...]) -> Model:
    """Return the model with the named initializers stored sparsely, as far as that takes less room."""
    if not names:
        return model
    proto = model.draft()
    for index in reversed(range(len(proto.graph.initializer))):
        tensor = proto.graph.initializer[index]
        if tensor.name not in names:
            continue
        array = np.ascontiguousarray(model.array(tensor))
        places = np.flatnonzero(array)
        if 0 < len(places) * (array.itemsize + INDEX_BYTES) < array.nbytes:
            values = numpy_helper.from_array(array.reshape(-1)[places], tensor.name)
            indices = numpy_helper.from_array(places.astype(np.int64), f"{tensor.name}_indices")
            proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, list(array.shape)))
            del proto.graph.initializer[index]
    return model.derived(proto)
