"""Layers as factors: weights projected on the directions that stay, and the thin nodes that then do the same for less."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto, numpy_helper

from onnxprune.changes.ranks.choose import Cut
from onnxprune.changes.ranks.costs import FORMS
from onnxprune.changes.ranks.layers import Layer
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Names, Node
from onnxprune.model.model import Model, declare_stored
from onnxprune.model.surgeon import Splicer
from onnxprune.repair.moments import Subspace

Factors = tuple[np.ndarray | None, np.ndarray, np.ndarray | None]
"""float64[q, inputs] in front, [p, q, taps], [outputs, p] behind; None where a side is whole."""


def projection(cut: Cut, weight: np.ndarray) -> np.ndarray:
    """Return float64[o, i, taps]: the layer's weight without the directions that go, P_S W P_A."""
    first, second = cut.reading, cut.basis.outputs[:, : cut.rank]
    kept = np.einsum("op,xp,xit->oit", second, second, weight, optimize=True)
    return np.einsum("oit,iq,jq->ojt", kept, first, first, optimize=True)


def projected(facts: Facts, cuts: Sequence[Cut]) -> Model:
    """Return the model with the same nodes, the weights of the layers in ``cuts`` being their projections."""
    arrays = {}
    for cut in cuts:
        layer, old = cut.layer, facts.content(cut.layer.name)
        fresh = projection(cut, layer.matrix(old)).swapaxes(1, 2).reshape(1, layer.outputs, -1)
        arrays[layer.name] = layer.linear.stored(fresh, old)
    return facts.model.replaced(arrays)


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


def with_factors(model: Model, cuts: Sequence[Cut]) -> Model:
    """Return ``model``, the model with projected and perhaps repaired weights, with every cut layer written as factors.

    The last factor makes the layer's output and takes its bias; strides, padding and dilations stay with the kernel.
    """
    result = model.draft()
    graph = Graph(result)
    splicer = Splicer(graph, Names(result.graph))
    by_output = {cut.layer.node.outputs[0]: cut for cut in cuts}
    for node in graph.top:
        cut = by_output.get(next(iter(node.outputs), ""))
        if cut is not None:
            tensor = graph.tensors[cut.layer.name]
            old = model.array(tensor)
            write = _convolutions if cut.layer.linear.window else _products
            weight = write(cut.layer, node, factorised(cut, cut.layer.matrix(old)), old, splicer)
            _store(result, tensor, weight.astype(old.dtype))
    splicer.carry_out()
    return model.derived(result)


def _convolutions(layer: Layer, node: Node, factors: Factors, old: np.ndarray, splicer: Splicer) -> np.ndarray:
    """Put 1x1 convolutions beside the node; return its kernel."""
    before, core, after = factors
    proto, output = node.proto, node.proto.output[0]
    if before is not None:
        proto.input[0] = _in_front(layer, node, _point(before, old), splicer)
    if after is not None:
        proto.output[0] = splicer.names.fresh(f"{output}/core")
        last = _thin(layer, "out", _point(after, old), [proto.output[0], *proto.input[2:]], output)
        splicer.after(node, gs.Graph([last], outputs=last.outputs))
        del proto.input[2:]
    return core.reshape(*core.shape[:2], *old.shape[2:])


def _products(layer: Layer, node: Node, factors: Factors, old: np.ndarray, splicer: Splicer) -> np.ndarray:
    """Put a MatMul in front of the node, of a Gemm too; return what the node multiplies by."""
    _, core, after = factors
    assert after is not None
    node.proto.input[0] = _in_front(layer, node, core[:, :, 0].T.astype(old.dtype), splicer)
    return layer.linear.stored(after[None], after)


def _in_front(layer: Layer, node: Node, weight: np.ndarray, splicer: Splicer) -> str:
    """Put a thin node in front of ``node``; return the name of the value between them."""
    first = _thin(layer, "in", weight, node.proto.input[:1], f"{node.proto.output[0]}/in")
    splicer.before(node, gs.Graph([first]))
    return first.outputs[0].name


def _thin(layer: Layer, part: str, weight: np.ndarray, operands: Sequence[str], output: str) -> gs.Node:
    """A node of the layer's kind; ``operands``: what it reads, and for a convolution the bias."""
    op = "Conv" if layer.linear.window else "MatMul"
    read, *bias = map(gs.Variable, operands)
    inputs = [read, gs.Constant(f"{layer.name}/{part}", weight), *bias]
    return gs.Node(op, f"{layer.node.label}/{part}", inputs=inputs, outputs=[gs.Variable(output)])


def _point(factor: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return a matrix as the kernel of a 1x1 convolution of the old kernel's rank and element type."""
    return factor.reshape(*factor.shape, *(1 for _ in old.shape[2:])).astype(old.dtype)


def _store(result: ModelProto, tensor: TensorProto, weight: np.ndarray) -> None:
    """Put the weight of a layer into the model, and its sizes wherever the model declares it."""
    declare_stored(result, {tensor.name: weight})
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
