"""Layers as factors: weights projected on the directions that stay, and the thin nodes that then do the same for less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.changes.ranks.choose import Cut
from onnxprune.changes.ranks.costs import FORMS
from onnxprune.changes.ranks.layers import Layer
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Names
from onnxprune.model.read import tensor_array
from onnxprune.repair.moments import Subspace

Factors = tuple[np.ndarray | None, np.ndarray, np.ndarray | None]
"""float64[q, inputs] in front, [p, q, taps], [outputs, p] behind; None where a side is whole."""


def projection(cut: Cut, weight: np.ndarray) -> np.ndarray:
    """Return float64[o, i, taps]: the layer's weight without the directions that go, P_S W P_A."""
    first, second = cut.reading, cut.basis.outputs[:, : cut.rank]
    kept = np.einsum("op,xp,xit->oit", second, second, weight, optimize=True)
    return np.einsum("oit,iq,jq->ojt", kept, first, first, optimize=True)


def projected(facts: Facts, cuts: Sequence[Cut]) -> ModelProto:
    """Return the model with the same nodes, the weights of the layers in ``cuts`` being their projections."""
    result = ModelProto()
    result.CopyFrom(facts.model.proto)
    tensors = Graph(result).tensors
    for cut in cuts:
        layer, old = cut.layer, facts.content(cut.layer.name)
        fresh = projection(cut, layer.matrix(old)).reshape(1, layer.outputs, -1)
        tensors[layer.name].CopyFrom(numpy_helper.from_array(layer.linear.stored(fresh, old), tensors[layer.name].name))
    return result


def subspaces(cuts: Sequence[Cut]) -> dict[str, Subspace]:
    """Return weight -> what a repair must keep to, so that the weight can still be written as factors."""
    return {cut.layer.name: Subspace(cut.reading, cut.rank, cut.basis.metric) for cut in cuts}


def factorised(cut: Cut, weight: np.ndarray) -> Factors:
    """Return the factors of float64[o, i, taps] that reads the cut's input directions and has its rank.

    The rank is taken off by the singular value decomposition (Eckart & Young 1936), which for such a weight loses nothing.
    """
    layer, form = cut.layer, FORMS[cut.form]
    core = np.einsum("oit,iq->oqt", weight, cut.reading, optimize=True) if form.before else weight
    if not form.after:
        return cut.reading.T, core, None
    rows = core.reshape(layer.outputs, -1)
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    left, inner = left[:, : cut.rank], (values[:, None] * right)[: cut.rank]
    return (cut.reading.T if form.before else None), inner.reshape(-1, *core.shape[1:]), left


def with_factors(facts: Facts, proto: ModelProto, cuts: Sequence[Cut]) -> ModelProto:
    """Return ``proto``, the model with projected and perhaps repaired weights, with every cut layer written as factors.

    The last factor makes the layer's output and takes its bias; strides, padding and dilations stay with the kernel.
    """
    result = ModelProto()
    result.CopyFrom(proto)
    tensors, names = Graph(result).tensors, Names(result.graph)
    by_output = {cut.layer.node.outputs[0]: cut for cut in cuts}
    nodes: list[NodeProto] = []
    for node in result.graph.node:
        cut = by_output.get(next(iter(node.output), ""))
        if cut is None:
            nodes.append(node)
            continue
        tensor = tensors[cut.layer.name]
        old = tensor_array(tensor, facts.model.folder)
        write = _convolutions if cut.layer.linear.window else _products
        written = write(cut.layer, node, factorised(cut, cut.layer.matrix(old)), old.shape[2:], names)
        nodes += written.nodes
        _store(result, tensor, written, old.dtype)
    copies = [_copy(node) for node in nodes]
    del result.graph.node[:]
    result.graph.node.extend(copies)
    return result


class Written(NamedTuple):
    """The nodes that stand for a layer, what its weight becomes, and the tensors that are new, by name."""

    nodes: list[NodeProto]
    weight: np.ndarray
    fresh: dict[str, np.ndarray]


def _convolutions(layer: Layer, node: NodeProto, factors: Factors, kernel: tuple[int, ...], names: Names) -> Written:
    """1x1 convolutions beside the old node; ``kernel``: its window."""
    before, core, after = factors
    point = (1,) * len(kernel)
    middle, fresh = _copy(node), {}
    nodes = [middle]
    if before is not None:
        weight, value = names.fresh(f"{layer.name}/in"), names.fresh(f"{node.output[0]}/in")
        fresh[weight] = before.reshape(*before.shape, *point)
        nodes.insert(0, _node(layer, "Conv", "in", [node.input[0], weight], value, names))
        middle.input[0] = value
    if after is not None:
        weight, value = names.fresh(f"{layer.name}/out"), names.fresh(f"{node.output[0]}/core")
        fresh[weight] = after.reshape(*after.shape, *point)
        nodes.append(_node(layer, "Conv", "out", [value, weight, *node.input[2:]], node.output[0], names))
        middle.output[0] = value
        del middle.input[2:]
    return Written(nodes, core.reshape(*core.shape[:2], *kernel), fresh)


def _products(layer: Layer, node: NodeProto, factors: Factors, kernel: tuple[int, ...], names: Names) -> Written:
    """A MatMul in front of the old node, of a Gemm too."""
    _, core, after = factors
    assert after is not None
    weight, value = names.fresh(f"{layer.name}/in"), names.fresh(f"{node.output[0]}/in")
    first = _node(layer, "MatMul", "in", [node.input[0], weight], value, names)
    last = _copy(node)
    last.input[0] = value
    return Written([first, last], layer.linear.stored(after[None], after), {weight: core[:, :, 0].T})


def _node(layer: Layer, op: str, part: str, inputs: Sequence[str], output: str, names: Names) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=names.fresh(f"{layer.node.label}/{part}"))


def _copy(node: NodeProto) -> NodeProto:
    result = NodeProto()
    result.CopyFrom(node)
    return result


def _store(result: ModelProto, tensor: TensorProto, written: Written, dtype: np.dtype) -> None:
    """Put the tensors of a layer into the model; where it declares stored tensors as inputs, so are these."""
    declared = {value.name: value for value in result.graph.input}
    if tensor.name in declared:
        shape = declared[tensor.name].type.tensor_type.shape
        for dim, size in zip(shape.dim, written.weight.shape, strict=True):
            dim.dim_value = size
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(written.weight, dtype), tensor.name))
    for name, array in written.fresh.items():
        result.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        if tensor.name in declared:
            result.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
