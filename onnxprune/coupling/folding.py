"""What a model computes of stored tensors alone: which nodes do, what comes out, and the model with that stored instead.

Some of these computations are decodings: a tensor is stored in fewer bytes than it has, as numbers of another type, as codes of a
table, or without its zeros. They are told by what goes in and what comes out, whoever wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper, shape_inference

from onnxprune.errors import ModelError
from onnxprune.model.facts import RANDOM_OPS
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model, slim
from onnxprune.model.runtime import session
from onnxprune.model.tensors import FLOATS, skeleton_without_data

Sources = Mapping[Node, frozenset[str]]
"""Node that depends on stored tensors alone -> the names of those tensors."""

STORED_AS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8, TensorProto.INT8}) | {
    number for name, number in TensorProto.DataType.items() if name in ("UINT4", "INT4", "UINT2", "INT2")
}
"""Element types that a decoding begins with."""
LOOKING_UP = frozenset({"Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND"})
DECODING = LOOKING_UP | {
    *(
        "Cast",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Concat",
        "Expand",
        "Identity",
        "Shape",
    ),
    *("CumSum", "Mul", "Add", "Sub", "Div", "Mod", "BitShift", "BitwiseAnd", "ConstantOfShape", "Where", "NonZero"),
}
"""Operators of decodings; scales of quantisers are none, as runtimes compute with what these stand for."""
FULL = 1024
"""Elements that a stored one may stand for: of a gap of 8 bits no more than 255 zeros follow."""


def constant_nodes(graph: Graph) -> dict[Node, frozenset[str]]:
    """Return each node that depends on stored tensors alone -> the names of those tensors, in topological order."""
    leaves = {name: frozenset([name]) for name in graph.tensors}
    found: dict[Node, frozenset[str]] = {}
    for node in graph.top:
        inputs = [name for name in node.inputs if name]
        if inputs and node.op not in RANDOM_OPS and not node.bodies and all(name in leaves for name in inputs):
            found[node] = frozenset().union(*(leaves[name] for name in inputs))
            leaves.update((name, found[node]) for name in node.outputs if name)
    return found


def packed_tensors(graph: Graph, sources: Sources, *, casts: bool) -> dict[str, int]:
    """Return the float tensors that are decoded -> the elements that they may have; ``casts``: those too that are only cast.

    What is decoded on the way to another one is not among them.
    """
    found = {}
    for node in sources:
        for name in node.outputs:
            users = [user for user, _ in graph.consumers.get(name, ())]
            ends = name in graph.outputs or any(user not in sources or user.op not in DECODING for user in users)
            if name and ends and _is_decoded(graph, node, casts):
                found[name] = FULL * sum(_elements(graph.tensors[leaf]) for leaf in sources[node])
    return found


def _is_decoded(graph: Graph, node: Node, casts: bool) -> bool:
    """Whether a node is the end of a decoding: by its operators and the types of what it begins with, and where numbers are
    looked up, because these are a list, not the rows of a matrix.
    """
    nodes, leaves = _behind(graph, node)
    if any(part.op not in DECODING for part in nodes) or not leaves:
        return False
    tensors = [graph.tensors[name] for name in leaves]
    if any(part.op in LOOKING_UP for part in nodes):
        lists = all(len(tensor.dims) <= 1 for tensor in tensors if tensor.data_type in FLOATS)
        return lists and any(tensor.data_type in STORED_AS for tensor in tensors)
    return casts and any(part.op == "Cast" for part in nodes) and max(tensors, key=_elements).data_type in STORED_AS


def _elements(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))


def _behind(graph: Graph, node: Node) -> tuple[list[Node], set[str]]:
    """Return the nodes that a constant depends on, and the stored tensors."""
    found, leaves, todo = {node}, set[str](), [node]
    while todo:
        for name in filter(None, todo.pop().inputs):
            if name in graph.tensors:
                leaves.add(name)
            elif (maker := graph.producer[name]) not in found:
                found.add(maker)
                todo.append(maker)
    return list(found), leaves


def evaluated(model: Model, graph: Graph, sources: Sources, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Return what nodes on stored tensors give, run by themselves; {} where ONNX Runtime cannot."""
    try:
        found = session(_alone(model, graph, sources, wanted), optimise=False).run({})
    except ModelError:
        return {}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _alone(model: Model, graph: Graph, sources: Sources, wanted: Collection[str]) -> Model:
    """Return a model of the nodes that make ``wanted`` of stored tensors."""
    needed, names = set[Node](), set(wanted)
    for node in reversed(list(sources)):
        if names.intersection(node.outputs):
            needed.add(node)
            names.update(filter(None, node.inputs))
    used = {name for name in names if name in graph.tensors}
    probe = skeleton_without_data(model.structure)
    for part in ("node", "input", "output", "value_info", "quantization_annotation"):
        probe.graph.ClearField(part)
    probe.graph.node.extend(
        [graph.producer[name].proto for name in graph.tensors if name in used and name in graph.producer]
    )
    probe.graph.node.extend(node.proto for node in sources if node in needed)
    probe.graph.output.extend(ValueInfoProto(name=name) for name in wanted)
    probe.graph.initializer.extend(t for t in model.structure.graph.initializer if t.name in used)
    return model.derived(probe)


def _bounded(model: Model, graph: Graph, sources: Sources, room: Mapping[str, int]) -> list[str]:
    """Return those of the tensors on whose way nothing is larger than ``room`` says; raises ModelError where something is.

    Left out are those on whose way a size is not told before it is computed.
    """
    inferred = shape_inference.infer_shapes(slim(_alone(model, graph, sources, list(room))), data_prop=True).graph
    told = (value for values in (inferred.value_info, inferred.output) for value in values)
    shapes = {
        value.name: value.type.tensor_type.shape.dim for value in told if value.type.tensor_type.HasField("shape")
    }
    found = []
    for name, most in room.items():
        made = [output for node in _behind(graph, graph.producer[name])[0] for output in node.outputs if output]
        known = [one for one in made if one in shapes and all(dim.HasField("dim_value") for dim in shapes[one])]
        dims = [[dim.dim_value for dim in shapes[one]] for one in known]
        if any(math.prod(map(float, sizes)) > most for sizes in dims):
            raise ModelError(
                f"{model.name}: the packed tensor {name!r} claims more elements than what is stored of it can say; refused"
            )
        if len(dims) == len(made):
            found.append(name)
    return found


def with_stored(graph: Graph, sources: Sources, contents: Mapping[str, np.ndarray]) -> ModelProto:
    """Return the model with ``contents`` stored, without the nodes and tensors that were used for them only."""
    outputs = {value.name for value in graph.model.graph.output}
    users = {name: {node for node, _ in uses} for name, uses in graph.consumers.items()}
    gone: set[Node] = set()

    def needed(name: str) -> bool:
        return name in outputs or bool(users.get(name, set()) - gone)

    for node in reversed(list(sources)):
        if all(name in contents for name in node.outputs if needed(name)):
            gone.add(node)
    leaves = {leaf for node in sources if node in gone for leaf in sources[node]}
    unused = {leaf for leaf in leaves if not needed(leaf)}
    gone.update(graph.producer[leaf] for leaf in unused if leaf in graph.producer)
    unused.update(name for node in gone for name in node.outputs)
    return _rebuilt(graph, gone, unused, {name: array for name, array in contents.items() if needed(name)})


def _rebuilt(graph: Graph, gone: set[Node], unused: Iterable[str], contents: Mapping[str, np.ndarray]) -> ModelProto:
    """Return a copy of the model without some nodes and tensors, with ``contents`` stored."""
    old, lost = graph.model.graph, set(unused)
    result = skeleton_without_data(graph.model)
    for part in ("node", "value_info"):
        result.graph.ClearField(part)
    result.graph.node.extend(node.proto for node in graph.top if node not in gone)
    result.graph.value_info.extend(value for value in old.value_info if value.name not in lost)
    result.graph.initializer.extend(tensor for tensor in old.initializer if tensor.name not in lost)
    result.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in contents.items())
    return result


def unpacked_tensors(model: Model, *, casts: bool) -> tuple[Model, tuple[str, ...]]:
    """Return the model with what is decoded stored plainly, and the names of these tensors; ``casts``: see ``packed_tensors``.

    Raises ModelError where ONNX Runtime cannot decode what is packed, or a tensor has more elements than its parts can say.
    """
    if model.structure.ir_version < 4:  # which has no place for it
        return model, ()
    graph = Graph(model.structure)
    sources = constant_nodes(graph)
    room = packed_tensors(graph, sources, casts=casts)
    if not room:
        return model, ()
    wanted = _bounded(model, graph, sources, room)
    found = evaluated(model, graph, sources, wanted) if wanted else {}
    if wanted and not found:
        raise ModelError(f"{model.name}: what is packed cannot be decoded by this ONNX Runtime; a newer release may")
    contents = {name: array for name, array in found.items() if array.dtype.kind == "f"}
    return (model.derived(with_stored(graph, sources, contents)), tuple(contents)) if contents else (model, ())
