"""Operators that move elements in blocks: reshapes, permutations, slices, joins."""

from __future__ import annotations

import numpy as np

from onnxprune.grad.emitter import Dim, Emitter, Value
from onnxprune.grad.view import ForwardNode, Gradients, vjp


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [emit.reshape_like(g, node.x), *[None] * (len(node.inputs) - 1)]


@vjp("Transpose")
def transpose(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    perm = node.attribute("perm") or range(node.x.rank)[::-1]
    return [emit.transpose(g, np.argsort(perm).tolist())]


@vjp("Expand")
def expand(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [g, None]


@vjp("Tile")
def tile(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Split every axis into repeat and position, and sum over the repeats."""
    x, repeats = node.x, node.inputs[1]
    counts: list[Dim] = (
        [emit.slice(repeats, 0, a, a + 1) for a in range(x.rank)] if repeats.array is None else repeats.array.tolist()
    )
    split = emit.reshape(g, [part for axis in range(x.rank) for part in (counts[axis], x.dim(axis))])
    return [emit.sum(split, list(range(0, 2 * x.rank, 2)), keepdims=False), None]


@vjp("Concat")
def concat(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    if len(node.inputs) == 1:
        return [g]
    axis = node.axis(0)
    return emit.split(g, axis, [value.dim(axis) for value in node.inputs])


@vjp("Split", all_outputs=True)
def split(emit: Emitter, node: ForwardNode, *gradients: Value | None) -> Gradients:
    outputs = [emit.value(name) for name in node.node.outputs]
    parts = [emit.zeros_like(y) if g is None else g for g, y in zip(gradients, outputs, strict=True)]
    joined = emit("Concat", *parts, axis=node.axis(0)) if len(parts) > 1 else parts[0]
    return [joined, *[None] * (len(node.inputs) - 1)]


@vjp("Slice")
def slice_(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Per axis: flip where the step is negative, put zeros between where it is above one, pad with zeros up to x."""
    x, count = node.x, node.inputs[1].shape[0]
    axes = range(count) if node.input(3) is None else (int(a) % x.rank for a in node.array(3, "axes"))
    steps = [1] * count if node.input(4) is None else node.array(4, "steps").tolist()
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    for place, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        first = _first(emit, node, place, axis, step)
        if step < 0:
            first = first + (g.dim(axis) - 1) * step
            g = emit.slice(g, axis, -1, np.iinfo(np.int64).min + 1, -1)
        g = _spaced(emit, g, axis, abs(step))
        before[axis] = first
        after[axis] = x.dim(axis) - first - g.dim(axis)
    return [emit("Pad", g, emit.vector([*before, *after])), *[None] * (len(node.inputs) - 1)]


def _first(emit: Emitter, node: ForwardNode, place: int, axis: int, step: int) -> Dim:
    """Return the position a slice starts at: from constants where they tell, else by slicing the positions."""
    start, size = node.inputs[1], node.x.dim(axis)
    if start.array is not None:
        given = int(start.array[place])
        if step > 0 and 0 <= given < node.x.shape[axis] and node.x.sizes[axis] is None:
            return given
        if isinstance(size, int):
            return slice(given, None, step).indices(size)[0]
    if isinstance(size, int):
        size = emit.constant(np.asarray([size], np.int64))
    positions = emit("Range", 0, emit("Squeeze", size, [0]), 1)
    ends = emit.slice(node.inputs[2], 0, place, place + 1)
    kept = emit("Slice", positions, emit.slice(start, 0, place, place + 1), ends, [0], [step])
    return emit.slice(kept, 0, 0, 1)


def _spaced(emit: Emitter, g: Value, axis: int, step: int) -> Value:
    """Put ``step - 1`` zeros behind every position of an axis."""
    if step == 1:
        return g
    dims = g.dims()
    wide = emit("Unsqueeze", g, [axis + 1])
    ends = [0] * wide.rank
    ends[axis + 1] = step - 1
    padded = emit("Pad", wide, [0] * wide.rank + ends)
    return emit.reshape(padded, [*dims[:axis], dims[axis] * step, *dims[axis + 1 :]])


@vjp("DepthToSpace")
def depth_to_space(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    block = node.attribute("blocksize")
    if node.attribute("mode", "DCR") == "DCR":
        return [emit("SpaceToDepth", g, blocksize=block)]
    x = node.x
    channels, height, width = x.shape[1] // block**2, x.dim(2), x.dim(3)
    blocks = emit.reshape(g, [g.dim(0), channels, height, block, width, block])
    return [emit.reshape_like(emit.transpose(blocks, [0, 1, 3, 5, 2, 4]), x)]


@vjp("SpaceToDepth")
def space_to_depth(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [emit("DepthToSpace", g, blocksize=node.attribute("blocksize"))]


@vjp("Trilu")
def triangle(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [emit("Trilu", g, *node.inputs[1:], upper=node.attribute("upper", 1)), *[None] * (len(node.inputs) - 1)]


@vjp("ReverseSequence")
def reverse_sequence(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    axes = {"batch_axis": node.attribute("batch_axis", 1), "time_axis": node.attribute("time_axis", 0)}
    return [emit("ReverseSequence", g, node.inputs[1], **axes), None]
