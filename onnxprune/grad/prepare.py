"""A copy of the model that the rules can be written for: recent opset, 32-bit floats, chosen parameters as inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.graph import DEFAULT_DOMAINS, Names
from onnxprune.model.model import Model, embedded, slim
from onnxprune.model.tensors import skeleton_without_data

FLOOR = 18
"""Models of an older opset are converted to this one: reductions take their axes as inputs, ScatterElements can add."""

NARROW = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
TYPE_ATTRIBUTES = ("to", "dtype", "saturate")


def prepare_backward(
    model: Model,
    fed: Collection[str] = (),
    dtype: int = TensorProto.FLOAT,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """Return a copy in opset 18 or later whose floats are ``dtype`` (FLOAT keeps doubles), ``fed`` tensors as inputs.

    16-bit inputs keep their type and are cast on entry; with DOUBLE the inputs are double. Inputs named in
    ``input_shapes`` get that shape for good. Raises ModelError where the opset cannot be raised.
    """
    proto = embedded(_raised(_inlined(model) if model.structure.functions else model))
    del proto.graph.value_info[:]
    _drop_initializer_inputs(proto.graph)
    narrow = NARROW | {TensorProto.FLOAT} if dtype == TensorProto.DOUBLE else NARROW
    if dtype == TensorProto.FLOAT:
        _cast_inputs(proto.graph)
    _retype(proto.graph, narrow, dtype)
    _feed(proto.graph, fed)
    for value in proto.graph.input:
        if input_shapes and value.name in input_shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(input_shapes[value.name])))
    return Model.of(proto, digest=model.digest, size=model.size)


def _inlined(model: Model) -> Model:
    """Inline the model's own functions; stored tensors stay aside meanwhile."""
    result = onnx.inliner.inline_local_functions(skeleton_without_data(model.structure))
    result.graph.initializer.extend(model.structure.graph.initializer)
    return model.derived(result)


def _raised(model: Model) -> Model:
    """Convert to the opset floor; large tensors stay aside meanwhile."""
    version = next((o.version for o in model.structure.opset_import if o.domain in DEFAULT_DOMAINS), FLOOR)
    if version >= FLOOR:
        return model
    light = slim(model, keep_bytes=4096)
    held = {tensor.name for tensor in light.graph.initializer}
    try:
        raised = onnx.version_converter.convert_version(light, FLOOR)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"{model.name}: gradients need opset {FLOOR}, and raising opset {version} failed: {reason}"
        ) from error
    aside = [header for header in model.structure.graph.initializer if header.name not in held]
    inputs = [value for value in raised.graph.input if value.name not in {tensor.name for tensor in aside}]
    raised.graph.initializer.extend(aside)
    del raised.graph.input[:]
    raised.graph.input.extend(inputs)
    raised.ir_version = max(model.structure.ir_version, 8)
    return model.derived(raised)


def _drop_initializer_inputs(graph: GraphProto) -> None:
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)


def _cast_inputs(graph: GraphProto) -> None:
    """Cast 16-bit inputs to 32 bits on entry; the inputs themselves keep name and type."""
    casts, names = {}, Names(graph)
    for value in graph.input:
        if value.type.tensor_type.elem_type in NARROW:
            casts[value.name] = names.fresh(f"{value.name}:float32")
    for node in _nodes(graph):
        node.input[:] = [casts.get(name, name) for name in node.input]
    for position, (name, wide) in enumerate(casts.items()):
        graph.node.insert(position, helper.make_node("Cast", [name], [wide], name=wide, to=TensorProto.FLOAT))


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in [attribute.g] * (attribute.type == AttributeProto.GRAPH) + list(attribute.graphs):
                yield from _nodes(body)


def _retype(graph: GraphProto, narrow: Collection[int], dtype: int) -> None:
    """Give every tensor and type attribute of a narrow float type the wider one, bodies included."""
    widen_inputs = dtype == TensorProto.DOUBLE
    for value in [*(graph.input if widen_inputs else ()), *graph.output]:
        if value.type.tensor_type.elem_type in narrow:
            value.type.tensor_type.elem_type = dtype
    for tensor in graph.initializer:
        _widen(tensor, narrow, dtype)
    for node in graph.node:
        for attribute in node.attribute:
            _retype_attribute(node, attribute, narrow, dtype)


def _retype_attribute(node: NodeProto, attribute: AttributeProto, narrow: Collection[int], dtype: int) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t, narrow, dtype)
    elif attribute.name in TYPE_ATTRIBUTES and attribute.i in narrow:
        attribute.i = dtype
    elif (
        node.op_type == "Constant" and attribute.name in ("value_float", "value_floats") and TensorProto.FLOAT in narrow
    ):
        content = np.asarray(helper.get_attribute_value(attribute), helper.tensor_dtype_to_np_dtype(dtype))
        attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(content)))
    for body in [attribute.g] * (attribute.type == AttributeProto.GRAPH) + list(attribute.graphs):
        for value in body.input:
            if value.type.tensor_type.elem_type in narrow:
                value.type.tensor_type.elem_type = dtype
        _retype(body, narrow, dtype)


def _widen(tensor: TensorProto, narrow: Collection[int], dtype: int) -> None:
    if tensor.data_type in narrow:
        content = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(dtype))
        tensor.CopyFrom(numpy_helper.from_array(content, tensor.name))


def _feed(graph: GraphProto, fed: Collection[str]) -> None:
    """Turn stored tensors (initializers and Constant nodes) into graph inputs of the same name, type and shape."""
    chosen = set(fed)
    tensors = {t.name: t for t in graph.initializer if t.name in chosen}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in chosen and node.attribute[0].type == AttributeProto.TENSOR:
            tensors[node.output[0]] = node.attribute[0].t
    for name in (name for name in fed if name in tensors):
        tensor = tensors[name]
        graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    initializers = [t for t in graph.initializer if t.name not in tensors]
    nodes = [n for n in graph.node if n.op_type != "Constant" or n.output[0] not in tensors]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend(nodes)
