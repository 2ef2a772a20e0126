"""Operators that are linear on single axes: padding, and resizing, whose matrix is read off the operator itself, run on the identity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper

from onnxprune.grad.emitter import END, Dim, Emitter, Value
from onnxprune.grad.view import ForwardNode, Gradients, vjp


def identity_matrix(emit: Emitter, size: Dim, like: Value) -> Value:
    """Return the identity matrix as [1, 1, size, size]."""
    if isinstance(size, int):
        return emit.constant(np.eye(size, dtype=like.numpy_type)[None, None])
    square = emit("ConstantOfShape", emit.vector([size, size]))
    return emit("Unsqueeze", emit("EyeLike", square, dtype=like.dtype), [0, 1])


def along(emit: Emitter, g: Value, axis: int, matrix: Value) -> Value:
    """Multiply one axis of ``g`` by the transpose of ``matrix``: [in, out]."""
    if axis == g.rank - 2:
        return matrix @ g
    last = g.rank - 1
    return emit.swap(emit.swap(g, axis, last) @ emit.swap(matrix), axis, last)


def transposed_axes(
    emit: Emitter, node: ForwardNode, g: Value, axes: list[int], run: Callable[[Value, int], Value]
) -> Value:
    """Go back axis by axis; ``run(matrix, axis)`` does to a matrix's last axis what the operator does to ``axis``."""
    for axis in axes:
        matrix = run(identity_matrix(emit, node.x.dim(axis), g), axis)
        g = along(emit, g, axis, emit("Squeeze", matrix, [0, 1]))
    return g


@vjp("Resize")
def resize(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.node.proto.attribute}
    mode = node.attribute("coordinate_transformation_mode", "half_pixel")
    node.refuse_unless(mode != "tf_crop_and_resize", "tf_crop_and_resize is not supported")
    policy = attributes.pop("keep_aspect_ratio_policy", b"stretch")
    node.refuse_unless(policy == b"stretch", "keep_aspect_ratio_policy is not supported")
    named = [axis % node.x.rank for axis in attributes.pop("axes", range(node.x.rank))]
    scales = node.input(2)
    by_scale = scales is not None and scales.known_shape != (0,)

    def run(matrix: Value, axis: int) -> Value:
        place = named.index(axis)
        given = emit.slice(node.inputs[2 if by_scale else 3], 0, place, place + 1)
        if by_scale:
            scale = emit("Concat", emit.constant(np.ones(3, np.float32)), given, axis=0)
            return emit("Resize", matrix, None, scale, **attributes)
        shape = emit("Concat", emit.vector([1, 1, matrix.dim(2)]), given, axis=0)
        return emit("Resize", matrix, None, None, shape, **attributes)

    resized = [a for a in named if node.x.sizes[a] is None or node.x.sizes[a] != node.y.sizes[a]]
    resized = [a for a in resized if node.x.shape[a] != node.y.shape[a]]
    return [transposed_axes(emit, node, g, resized, run), *[None] * (len(node.inputs) - 1)]


@vjp("Pad")
def pad(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Padding with a constant is undone by negative padding; the borders of the other modes go back to their sources."""
    nothing = [None] * (len(node.inputs) - 1)
    mode, pads, axes = node.attribute("mode", "constant"), node.inputs[1], node.input(3)
    if mode == "constant":
        return [emit("Pad", g, emit("Neg", pads), None, axes), *nothing]
    amounts = node.array(1, "pads").reshape(2, -1)
    named = list(range(node.x.rank)) if axes is None else [int(a) % node.x.rank for a in node.array(3, "axes")]
    for axis, (before, after) in zip(named, amounts.T.tolist(), strict=True):
        node.refuse_unless(min(before, after) >= 0, f"negative pads in mode {mode} have no rule")
        if before or after:
            g = _gathered(emit, node.x, g, axis, (before, after), mode)
    return [g, *nothing]


def _gathered(emit: Emitter, x: Value, g: Value, axis: int, amounts: tuple[int, int], mode: str) -> Value:
    """Add the gradients of both borders of an axis to the places they were copied from."""
    (before, after), size = amounts, x.dim(axis)
    parts = [_cut(emit, g, axis, before, -after or END)]
    for amount, ends, at_start in ((before, (0, before), True), (after, (-after, END), False)):
        if amount:
            border = _cut(emit, g, axis, *ends)
            parts.append(BORDERS[mode](emit, border, axis, amount, size, at_start))
    return emit("Sum", *parts)


def _cut(emit: Emitter, g: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
    return emit("Slice", g, [start], [end], [axis], [step])


def _put(emit: Emitter, border: Value, axis: int, amount: int, size: Dim, start: Dim) -> Value:
    """Lay a border of ``amount`` places at ``start`` of an axis of ``size``, zeros elsewhere."""
    pads: list[Dim] = [0 for _ in range(2 * border.rank)]
    pads[axis], pads[border.rank + axis] = start, size - start - amount
    return emit("Pad", border, emit.vector(pads))


def _reflected(emit: Emitter, border: Value, axis: int, amount: int, size: Dim, at_start: bool) -> Value:
    turned = _cut(emit, border, axis, -1, -END, -1)
    return _put(emit, turned, axis, amount, size, 1 if at_start else size - 1 - amount)


def _repeated(emit: Emitter, border: Value, axis: int, amount: int, size: Dim, at_start: bool) -> Value:
    return _put(emit, emit.sum(border, [axis]), axis, 1, size, 0 if at_start else size - 1)


def _wrapped(emit: Emitter, border: Value, axis: int, amount: int, size: Dim, at_start: bool) -> Value:
    return _put(emit, border, axis, amount, size, size - amount if at_start else 0)


BORDERS: dict[str, Callable[[Emitter, Value, int, int, Dim, bool], Value]] = {
    "reflect": _reflected,
    "edge": _repeated,
    "wrap": _wrapped,
}
"""Mode of padding -> how the gradient of a border gets back to where its content came from."""
