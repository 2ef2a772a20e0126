"""Operators that pick or place elements by index: what they gather forward is added up backward, and the reverse."""

from __future__ import annotations

from onnxprune.grad.emitter import Emitter, Value
from onnxprune.grad.view import ForwardNode, Gradients, vjp


@vjp("Gather")
def gather(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Bring the gathered axis to the front, where ScatterND adds whole slices."""
    x, indices = node.inputs
    axis, picked = node.axis(0), indices.rank
    if indices.array is not None and indices.array.size == 1 and x.sizes[axis] is not None:
        return [_placed(emit, g, x, axis, int(indices.array.reshape(()) % x.shape[axis]), picked), None]
    front = [*range(axis, axis + picked), *range(axis), *range(axis + picked, g.rank)]
    order = [axis, *range(axis), *range(axis + 1, x.rank)]
    zeros = emit.filled([x.dim(a) for a in order], 0.0, g)
    added = emit("ScatterND", zeros, emit("Unsqueeze", indices, [-1]), emit.transpose(g, front), reduction="add")
    return [emit.transpose(added, [order.index(a) for a in range(x.rank)]), None]


def _placed(emit: Emitter, g: Value, x: Value, axis: int, index: int, picked: int) -> Value:
    """Pad the gradient of one slice with zeros to the whole axis."""
    g = emit("Squeeze", g, list(range(axis, axis + picked))) if picked else g
    before, after = [0] * x.rank, [0] * x.rank
    before[axis], after[axis] = index, x.shape[axis] - 1 - index
    return emit("Pad", emit("Unsqueeze", g, [axis]), before + after)


@vjp("GatherElements")
def gather_elements(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    x, indices = node.inputs
    return [emit("ScatterElements", emit.zeros_like(x), indices, g, axis=node.axis(0), reduction="add"), None]


@vjp("GatherND")
def gather_nd(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Batch axes are spelled out as further coordinates, so that one ScatterND adds everything."""
    x, indices = node.inputs
    lead = indices.dims()[:-1]
    coordinates = []
    for axis in range(node.attribute("batch_dims", 0)):
        size = emit("Squeeze", emit.vector([x.dim(axis)]), [0])
        shape = [-1 if a == axis else 1 for a in range(indices.rank)]
        places = emit("Reshape", emit("Range", 0, size, 1), shape)
        coordinates.append(emit("Expand", places, emit.vector([*lead, 1])))
    full = emit("Concat", *coordinates, indices, axis=-1) if coordinates else indices
    return [emit("ScatterND", emit.zeros_like(x), full, g, reduction="add"), None]


@vjp("ScatterElements")
def scatter_elements(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    _, indices, updates = node.inputs
    axis, reduction = node.axis(0), node.attribute("reduction", "none")
    node.refuse_unless(reduction in ("none", "add"), f"reduction={reduction} has no rule")
    kept = g if reduction == "add" else emit("ScatterElements", g, indices, emit.zeros_like(updates), axis=axis)
    return [kept, None, emit("GatherElements", g, indices, axis=axis)]


@vjp("ScatterND")
def scatter_nd(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    _, indices, updates = node.inputs
    reduction = node.attribute("reduction", "none")
    node.refuse_unless(reduction in ("none", "add"), f"reduction={reduction} has no rule")
    kept = g if reduction == "add" else emit("ScatterND", g, indices, emit.zeros_like(updates))
    return [kept, None, emit("GatherND", g, indices)]


@vjp("TopK")
def top_k(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [
        emit("ScatterElements", emit.zeros_like(node.x), node.indices(), g, axis=node.axis(-1), reduction="add"),
        None,
    ]


@vjp("DFT")
def fourier(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """The transform is symmetric: its transpose on (real, imaginary) pairs is the unscaled transform the other way."""
    x = node.x
    node.refuse_unless(
        not node.attribute("onesided", 0) and node.input(1) is None, "onesided or dft_length has no rule"
    )
    given, inverse = node.input(2), node.attribute("inverse", 0)
    axis = node.attribute("axis", 1 if node.node.version < 20 else -2) if given is None else int(node.array(2, "axis"))
    size = x.fixed(axis % x.rank, "a transform")
    options = {"axis": axis} if node.node.version < 20 else {}
    back = emit("DFT", g, *([] if given is None else [None, given]), inverse=1 - inverse, **options)
    back = back / float(size) if inverse else back * float(size)
    real = emit.slice(back, x.rank - 1, 0, 1) if x.shape[-1] == 1 else back
    return [real, *[None] * (len(node.inputs) - 1)]
