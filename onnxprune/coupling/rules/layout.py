"""Operators that rearrange axes: reshape, transpose, blocks moved between depth and space, resize."""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import reshaped
from onnxprune.coupling.spec import Spec, View, axes_of, parse, rule


def _target_shape(view: View, cut: KeptPositions) -> Edits:
    """Entries -1 stay; a 0 (copy) stays while the copied dimension is still the right one."""
    new = cut.shape(view.node.outputs[0], view.out_shape())
    source = cut.shape(view.node.inputs[0], view.shape(0))
    old = view.array(1) if view.node.version >= 5 else np.array(view.attribute("shape"), np.int64)
    if old is None:
        return Edits()
    copies = not view.attribute("allowzero", 0)
    wanted = [
        int(t) if t == -1 or (t == 0 and copies and i < len(source) and source[i] == n) else n
        for i, (t, n) in enumerate(zip(old, new, strict=True))
    ]
    if view.node.version < 5:
        return Edits({"shape": wanted})
    return Edits(operands={1: np.array(wanted, np.int64)})


@rule("Reshape", family="movement", rewrite=_target_shape)
def reshape(view: View) -> Spec:
    spec = reshaped(view.shape(0), view.out_shape())
    spec.inputs.extend([None] * (len(view.node.inputs) - 1))
    return spec


@rule("Flatten", family="movement")
def flatten(view: View) -> Spec:
    return reshaped(view.shape(0), view.out_shape())


def _squeezed_axes(view: View, cut: KeptPositions) -> Edits:
    """Without axes a Squeeze takes out every axis of size one: where a cut makes another, they have to be said."""
    if view.node.op != "Squeeze" or view.ints(1, "axes") is not None:
        return Edits()
    new = cut.shape(view.node.inputs[0], view.shape(0))
    if all(n != 1 or m == 1 for m, n in zip(view.shape(0), new, strict=True)):
        return Edits()
    axes = [axis for axis, size in enumerate(view.shape(0)) if size == 1]
    return Edits({"axes": axes}) if view.node.version < 13 else Edits(operands={1: np.array(axes, np.int64)})


@rule("Squeeze", "Unsqueeze", family="movement", rewrite=_squeezed_axes)
def squeeze(view: View) -> Spec:
    """Only axes of size one come and go."""
    spec = reshaped(view.shape(0), view.out_shape())
    spec.inputs.extend([None] * (len(view.node.inputs) - 1))
    return spec


@rule("Transpose", family="movement")
def transpose(view: View) -> Spec:
    spec = Spec([], [])
    source = axes_of("m", view.shape(0), spec.sizes)
    order = view.attribute("perm", list(range(view.rank()))[::-1])
    spec.inputs, spec.outputs = [tuple(source)], [tuple(source[axis] for axis in order)]
    return spec


@rule("DepthToSpace", family="movement")
def depth_to_space(view: View) -> Spec:
    b = int(view.attribute("blocksize"))
    depth = "(u v c)" if view.attribute("mode", "DCR") == "DCR" else "(c u v)"
    sizes = _blocks(view.shape(0), b, b * b)
    spec = parse(f"n {depth} h w -> n c (h u) (w v)", [view.shape(0)], [view.out_shape()], sizes)
    return spec.bar("uv", "a block has a fixed size")


@rule("SpaceToDepth", family="movement")
def space_to_depth(view: View) -> Spec:
    b = int(view.attribute("blocksize"))
    sizes = _blocks(view.out_shape(), b, b * b)
    spec = parse("n c (h u) (w v) -> n (u v c) h w", [view.shape(0)], [view.out_shape()], sizes)
    return spec.bar("uv", "a block has a fixed size")


def _blocks(deep: tuple[int, ...], b: int, area: int) -> dict[str, int]:
    return {"u": b, "v": b, "c": deep[1] // area, "h": deep[2], "w": deep[3]}


def _resize_sizes(view: View, cut: KeptPositions) -> Edits:
    sizes = view.array(3) if view.has(3) else None
    if sizes is None or not sizes.size:
        return Edits()
    new = cut.shape(view.node.outputs[0], view.out_shape())
    axes = view.attribute("axes", list(range(view.rank())))
    return Edits(operands={3: np.array([new[a] for a in axes], np.int64)})


@rule("Resize", "Upsample", family="movement", rewrite=_resize_sizes)
def resize(view: View) -> Spec:
    """Axes that keep their size pass through; a stretched axis mixes its positions."""
    spec = Spec([], [])
    source = axes_of("m", view.shape(0), spec.sizes)
    target = axes_of("y", view.out_shape(), spec.sizes)
    same = [m == n for m, n in zip(view.shape(0), view.out_shape(), strict=True)]
    spec.inputs = [tuple(source), *[None] * (len(view.node.inputs) - 1)]
    spec.outputs = [tuple(s if k else t for s, t, k in zip(source, target, same, strict=True))]
    stretched = [t.letters[0] for side in (source, target) for t, k in zip(side, same, strict=True) if not k]
    return spec.bar(stretched, "this axis is resized")
