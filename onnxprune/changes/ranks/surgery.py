"""Layers as factors: weights projected on the directions that stay, and the thin nodes that then do the same for less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.changes.ranks.basis import Cut, by_columns
from onnxprune.changes.ranks.costs import FORMS
from onnxprune.changes.ranks.layers import Layer, TableRead
from onnxprune.changes.ranks.tables import TableFactors, multiplied
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Names, Node, forget_values
from onnxprune.model.model import Model, declare_stored
from onnxprune.model.surgeon import Splicer
from onnxprune.repair.moments import Subspace


class Factors(NamedTuple):
    """Of one layer: ``before`` float64[q, inputs] in front, ``core`` [p, q, ..], ``after`` [outputs, p, ..]; None where a side is whole."""

    before: np.ndarray | None
    core: np.ndarray
    after: np.ndarray | None


def projected(facts: Facts, cuts: Sequence[Cut]) -> Model:
    """Return the model with the same nodes, the weights of the layers in ``cuts`` being their projections."""
    arrays = {}
    for cut in cuts:
        layer, old = cut.layer, facts.content(cut.layer.name)
        if layer.looked_up:
            arrays[layer.name] = multiplied(old, _projection(cut).T)
            continue
        fresh = cut.basis.projected(cut, layer.matrix(old)).swapaxes(1, 2).reshape(1, layer.outputs, -1)
        arrays[layer.name] = layer.linear.stored(fresh, old)
    return facts.model.replaced(arrays)


def form_limits(facts: Facts, cuts: Sequence[Cut]) -> dict[str, Subspace]:
    """Return weight -> what a repair must keep to, so that the weight can still be written as factors."""
    return {
        cut.layer.name: Subspace(None, cut.rank)
        if cut.layer.looked_up
        else cut.basis.limit(cut, cut.layer.matrix(facts.content(cut.layer.name)))
        for cut in cuts
    }


def _projection(cut: Cut) -> np.ndarray:
    """Return float64[channels, channels]: what becomes of an embedding."""
    return cut.basis.projected(cut, np.eye(cut.layer.outputs)[:, :, None])[:, :, 0]


def factorised(cut: Cut, weight: np.ndarray) -> Factors:
    """Return the factors of float64[o, i, taps], which is of the form of ``cut`` and has its rank.

    The rank is taken off by the singular value decomposition (Eckart & Young 1936), which for such a weight loses nothing.
    """
    layer, form = cut.layer, FORMS[cut.form]
    if form.splits:
        left, inner = _of_rank(by_columns(weight, layer.kernel).reshape(layer.outputs * layer.kernel[1], -1), cut.rank)
        column = inner.reshape(-1, layer.kernel[0], layer.inputs).swapaxes(1, 2)  # [p, i, kernel height]
        return Factors(None, column, left.reshape(layer.outputs, layer.kernel[1], -1).swapaxes(1, 2))
    reading = cut.basis.reading(cut) if form.before else np.eye(0)
    core = np.einsum("oit,iq->oqt", weight, reading, optimize=True) if form.before else weight
    if not form.after:
        return Factors(reading.T, core, None)
    left, inner = _of_rank(core.reshape(layer.outputs, -1), cut.rank)
    return Factors(reading.T if form.before else None, inner.reshape(-1, *core.shape[1:]), left)


def _of_rank(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float64[n, r] and float64[r, m] whose product a matrix of that rank is."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank], (values[:, None] * right)[:rank]


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
            if cut.layer.looked_up:
                _store(result, tensor, _rows(cut, node, old, splicer))
                continue
            write = _convolutions if cut.layer.linear.window else _products
            weight = write(cut.layer, node, factorised(cut, cut.layer.matrix(old)), old, splicer)
            _store(result, tensor, weight.astype(old.dtype))
    splicer.carry_out()
    return model.derived(result)


def _convolutions(layer: Layer, node: Node, factors: Factors, old: np.ndarray, splicer: Splicer) -> np.ndarray:
    """Put thin convolutions beside the node; return its kernel."""
    before, core, after = factors
    proto, output, window = node.proto, node.proto.output[0], old.shape[2:]
    if before is not None:
        proto.input[0] = _in_front(layer, node, _kernel(before, (1,) * len(window), old), splicer)
    if after is not None:
        proto.output[0] = splicer.names.fresh(f"{output}/core")
        splits = after.ndim > 2
        row = _along(node, 1) if splits else {}
        window = (window[0], 1) if splits else window
        kernel = _kernel(after, (1, old.shape[3]) if splits else (1,) * len(window), old)
        last = _thin(layer, "out", kernel, [proto.output[0], *proto.input[2:]], output, row)
        if splits:
            _set_attributes(node, _along(node, 0))
        splicer.after(node, gs.Graph([last], outputs=last.outputs))
        del proto.input[2:]
    return core.reshape(*core.shape[:2], *window)


def _along(node: Node, axis: int) -> dict[str, Any]:
    """Return the attributes of a convolution of two axes that looks along one of them, and past the other position by position."""
    found: dict[str, Any] = {}
    for name in ("kernel_shape", "strides", "dilations"):
        if values := node.attribute(name):
            found[name] = [int(value) if place == axis else 1 for place, value in enumerate(values)]
    if pads := node.attribute("pads"):
        found["pads"] = [int(value) if place % 2 == axis else 0 for place, value in enumerate(pads)]
    if node.attribute("auto_pad"):
        found["auto_pad"] = node.attribute("auto_pad")
    return found


def _set_attributes(node: Node, values: Mapping[str, Any]) -> None:
    for attribute in node.proto.attribute:
        if attribute.name in values:
            attribute.CopyFrom(helper.make_attribute(attribute.name, values[attribute.name]))


def _products(layer: Layer, node: Node, factors: Factors, old: np.ndarray, splicer: Splicer) -> np.ndarray:
    """Put a MatMul in front of the node, of a Gemm too; return what the node multiplies by."""
    _, core, after = factors
    assert after is not None
    node.proto.input[0] = _in_front(layer, node, core[:, :, 0].T.astype(old.dtype), splicer)
    return layer.linear.stored(after[None], after)


def _rows(cut: Cut, node: Node, table: np.ndarray, splicer: Splicer) -> np.ndarray:
    """Put a MatMul behind the node, a lookup, and one in front of a tied head; return its table."""
    factors, output = TableFactors.of(table, _projection(cut), cut.rank), node.proto.output[0]
    node.proto.output[0] = splicer.names.fresh(f"{output}/rows")
    last = _thin(cut.layer, "out", factors.product, [node.proto.output[0]], output)
    splicer.after(node, gs.Graph([last], outputs=last.outputs))
    head = cut.layer.linear.head if isinstance(cut.layer.linear, TableRead) else None
    if head is not None:
        there = next(n for n in splicer.graph.top if n.outputs[:1] == head.node.outputs[:1])
        there.proto.input[0] = _in_front(cut.layer, there, np.ascontiguousarray(factors.product.T), splicer)
        forget_values(splicer.graph.model.graph, {head.turned})
    return factors.rows


def _in_front(layer: Layer, node: Node, weight: np.ndarray, splicer: Splicer) -> str:
    """Put a thin node in front of ``node``; return the name of the value between them."""
    first = _thin(layer, "in", weight, node.proto.input[:1], f"{node.proto.output[0]}/in")
    splicer.before(node, gs.Graph([first]))
    return first.outputs[0].name


def _thin(
    layer: Layer,
    part: str,
    weight: np.ndarray,
    operands: Sequence[str],
    output: str,
    attributes: Mapping[str, Any] | None = None,
) -> gs.Node:
    """A node of the layer's kind; ``operands``: what it reads, and for a convolution the bias."""
    op = "Conv" if layer.linear.window else "MatMul"
    read, *bias = map(gs.Variable, operands)
    inputs = [read, gs.Constant(f"{layer.name}/{part}", weight), *bias]
    outputs = [gs.Variable(output)]
    return gs.Node(op, f"{layer.node.label}/{part}", attrs=dict(attributes or {}), inputs=inputs, outputs=outputs)


def _kernel(factor: np.ndarray, window: Sequence[int], old: np.ndarray) -> np.ndarray:
    """Return a factor as a kernel over ``window``, of the old kernel's element type."""
    return factor.reshape(*factor.shape[:2], *window).astype(old.dtype)


def _store(result: ModelProto, tensor: TensorProto, weight: np.ndarray) -> None:
    """Put the weight of a layer into the model, and its sizes wherever the model declares it."""
    declare_stored(result, {tensor.name: weight})
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
