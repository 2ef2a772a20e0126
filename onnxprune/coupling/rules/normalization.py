"""Operators that scale and shift by statistics."""

from __future__ import annotations

import math

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import aligned, normalisation, pointwise
from onnxprune.coupling.spec import Spec, Term, View, parse, rule
from onnxprune.coupling.statistics import corrected, is_mean_free, root_mean_square, share_kept, spelled_out


@rule("BatchNormalization", family="per-channel")
def batch_norm(view: View) -> Spec:
    spec = pointwise(view, carrying=[0])
    channel = Term(("p1",)) if view.rank() > 1 else Term()
    spec.inputs[1:5] = [(channel,)] * 4
    spec.outputs[1:] = [(channel,) if name else None for name in view.node.outputs[1:]]
    spec.roles = {2: "shifts", 3: "shifts"}
    if view.attribute("training_mode", 0):
        spec.lossy = {f"p{axis}": "statistics" for axis in range(view.rank()) if axis != 1}
    return spec


def _rest_of_instance(view: View, cut: KeptPositions) -> Edits:
    """Channels of one group lie along the axis that is normalised."""
    axes = range(2, view.rank())
    share = share_kept(view, cut, "p", axes) if view.shape(0)[1] == 1 else 1.0
    return Edits() if share == 1 else spelled_out(view, share, axes, (), 0)


@rule("InstanceNormalization", family="per-channel", rewrite=_rest_of_instance)
def instance_norm(view: View) -> Spec:
    spec = normalisation(view, range(2, view.rank()))
    spec.inputs[1:3] = [(Term(("p1",)),)] * 2
    spec.roles[2] = "shifts"
    return corrected(view, spec, dict(spec.lossy)) if view.shape(0)[1] == 1 else spec


def _rest_of_norm(view: View, cut: KeptPositions) -> Edits:
    axes = range(view.axis(-1), view.rank())
    share = share_kept(view, cut, "p", axes)
    if share == 1 and not is_mean_free(view):
        return Edits()
    if view.node.op == "LayerNormalization":
        return spelled_out(view, share, axes, (), 0)
    return root_mean_square(view, share)


@rule(
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    family="normalisation",
    rewrite=_rest_of_norm,
)
def layer_norm(view: View) -> Spec:
    """Silent positions are zeros among those that mean and deviation are taken over, which a file that asks for these would tell."""
    axis = view.axis(-1)
    spec = normalisation(view, range(axis, view.rank()))
    assert spec.outputs[0] is not None
    for index in range(1, len(view.node.inputs)):
        spec.inputs[index] = aligned(view.shape(index), spec.outputs[0], view.shape(0)) if view.has(index) else None
    spec.outputs[1:] = [
        tuple(t if a < axis else Term() for a, t in enumerate(spec.outputs[0])) if name else None
        for name in view.node.outputs[1:]
    ]
    spec.roles[2] = "shifts"
    return corrected(view, spec, dict(spec.lossy))


@rule("LRN", family="normalisation")
def lrn(view: View) -> Spec:
    return normalisation(view, [1], "neighbours")


@rule("LpNormalization", family="normalisation")
def lp_norm(view: View) -> Spec:
    """Silent positions add nothing to the norm: they may as well be missing."""
    spec = pointwise(view)
    spec.consumes = {f"p{view.axis(-1)}"}
    return spec


@rule("MeanVarianceNormalization", family="normalisation")
def mean_variance_norm(view: View) -> Spec:
    return normalisation(view, [a % view.rank() for a in view.attribute("axes", [0, 2, 3])])


@rule("Softmax", "LogSoftmax", "Hardmax", family="normalisation")
def softmax(view: View) -> Spec:
    """Before opset 13 all axes from ``axis`` on are normalised together."""
    last = view.node.version >= 13
    axis = view.axis(-1 if last else 1)
    return normalisation(view, [axis] if last else range(axis, view.rank()))


def _group_count(view: View, cut: KeptPositions) -> Edits:
    if not _is_one_group(view):
        return Edits({"num_groups": cut.letter("g")})
    letters = ["c", *(f"s{i}" for i in range(view.rank() - 2))]
    share = math.prod(cut.letter(letter) / size for letter, size in zip(letters, view.shape(0)[1:], strict=True))
    return Edits() if share == 1 else spelled_out(view, share, range(1, view.rank()), (), 0)


def _is_one_group(view: View) -> bool:
    """Whether all channels are normalised together, each with a gain of its own."""
    return int(view.attribute("num_groups", 1)) == 1 and view.node.version >= 21 and view.shape(0)[1] > 1


@rule("GroupNormalization", family="per-channel", rewrite=_group_count)
def group_norm(view: View) -> Spec:
    """Opset 18 scales per group, opset 21 per channel; narrower groups change their statistics, fewer groups do not."""
    groups = int(view.attribute("num_groups", 1))
    sizes = {"g": groups}
    scale = "g" if view.node.version < 21 else "(g c)"
    space = " ".join(f"s{i}" for i in range(view.rank() - 2))
    shapes = [view.shape(0), view.shape(1), view.shape(2)]
    sizes["c"] = view.shape(0)[1] // groups
    spec = parse(f"n (g c) {space}, {scale}, {scale} -> n (g c) {space}", shapes, [view.out_shape()], sizes)
    spec.lossy = {letter: "statistics" for letter in ("c", *space.split())}
    spec.roles[2] = "shifts"
    return corrected(view, spec, dict(spec.lossy)) if _is_one_group(view) else spec
