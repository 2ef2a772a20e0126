"""Operators that pick, place or reorder positions by number: the numbered axis stays, all others pass through."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import remapped
from onnxprune.coupling.rules.pointwise import VALUES
from onnxprune.coupling.spec import Operand, Spec, Term, View, axes_of, frozen, parse, rule

NUMBERED = "its positions are picked by numbers computed elsewhere"


def _through(view: View, stays: Iterable[int], reason: str, alike: Sequence[int] = (0,)) -> Spec:
    """Inputs ``alike`` and the outputs share their axes; those in ``stays`` or of unequal size are barred."""
    spec = Spec([None] * len(view.node.inputs), [None] * len(view.node.outputs))
    terms = axes_of("m", view.shape(0), spec.sizes)
    fixed = {axis % max(len(terms), 1) for axis in stays}
    spec.bar([f"m{axis}" for axis in sorted(fixed)], reason)

    def operand(tag: str, shape: tuple[int, ...]) -> Operand:
        own = axes_of(tag, shape, {})
        shared = [a not in fixed and shape[a] == n for a, n in enumerate(view.shape(0))]
        for axis, (term, share) in enumerate(zip(own, shared, strict=True)):
            if not share:
                spec.sizes[term.letters[0]] = shape[axis]
                spec.bar([*term.letters, *terms[axis].letters], reason)
        return tuple(t if share else o for t, o, share in zip(terms, own, shared, strict=True))

    for index in alike:
        spec.inputs[index] = tuple(terms) if index == 0 else operand(f"x{index}_", view.shape(index))
    spec.outputs[0] = operand("y", view.out_shape())
    spec.roles = dict.fromkeys(alike[1:], "writes")
    return spec


@rule("GatherElements", family="indexing")
def gather_elements(view: View) -> Spec:
    return _through(view, [view.axis(0)], NUMBERED, alike=(0, 1))


@rule("Scatter", "ScatterElements", family="indexing")
def scatter_elements(view: View) -> Spec:
    return _through(view, [view.axis(0)], NUMBERED, alike=(0, 1, 2))


@rule("TensorScatter", family="indexing")
def tensor_scatter(view: View) -> Spec:
    return _through(view, [0, view.axis(-2)], NUMBERED, alike=(0, 1))


def _numbered(view: View, batch: int) -> tuple[Spec, list[Term], list[Term], Operand]:
    """Return (spec, terms of the data, terms of the indices, terms of what the indices address) of an N-D lookup."""
    spec = Spec([], [])
    data, picks = axes_of("m", view.shape(0), spec.sizes), axes_of("i", view.shape(1), spec.sizes)
    depth = view.shape(1)[-1]
    spec.bar([f"m{axis}" for axis in range(batch, batch + depth)], NUMBERED)
    spec.bar(picks[-1].letters, "the coordinates of one position")
    for axis in range(batch):
        picks[axis] = data[axis]
        del spec.sizes[f"i{axis}"]
    return spec, data, picks, (*picks[:-1], *data[batch + depth :])


@rule("GatherND", "com.microsoft::GatherND", family="indexing")
def gather_nd(view: View) -> Spec:
    spec, data, picks, found = _numbered(view, int(view.attribute("batch_dims", 0)))
    spec.inputs, spec.outputs = [tuple(data), tuple(picks)], [found]
    return spec


@rule("ScatterND", family="indexing")
def scatter_nd(view: View) -> Spec:
    """What is written may not be left out: the axes of the list of coordinates stay."""
    spec, data, picks, found = _numbered(view, 0)
    spec.inputs, spec.outputs = [tuple(data), tuple(picks), found], [tuple(data)]
    return spec.bar([t.letters[0] for t in picks[:-1]], "each entry writes a position of its own")


def _depth(view: View, cut: KeptPositions) -> Edits:
    axis = view.axis(-1, view.rank() + 1)
    array = view.array(1)
    if array is None or not cut.touched(view.node.outputs[0], axis):
        return Edits()
    return Edits(operands={1: np.full(array.shape, cut.letter("depth"), array.dtype)})


@rule("OneHot", family="indexing", rewrite=_depth)
def one_hot(view: View) -> Spec:
    spec = Spec([], [])
    terms = axes_of("m", view.shape(0), spec.sizes)
    axis = view.axis(-1, len(terms) + 1)
    spec.sizes["depth"] = view.out_shape()[axis]
    spec.inputs = [tuple(terms), None, None]
    spec.outputs = [(*terms[:axis], Term(("depth",)), *terms[axis:])]
    return spec.bar(["depth"], VALUES)


def _chosen(view: View, cut: KeptPositions) -> Edits:
    """A stored condition has an entry for every position that is left."""
    axis, condition = view.attribute("axis"), view.array(1)
    if axis is None or condition is None:
        return Edits()
    size = view.shape(0)[view.axis()]
    whole = np.zeros(size, bool)
    whole[: len(condition)] = condition[:size]
    return Edits(operands={1: whole[cut.kept(view.node.inputs[0], view.axis(), size)]})


@rule("Compress", family="indexing", rewrite=_chosen)
def compress(view: View) -> Spec:
    """A known condition picks positions of its axis, as indices would."""
    if view.attribute("axis") is None:
        return frozen(view, "flattened and picked by a condition")
    condition = view.facts.array(view.node.inputs[1])
    if condition is None:
        return _through(view, [view.axis()], "its positions are picked by a condition")
    return remapped(view, {view.axis(): np.flatnonzero(condition[: view.shape(0)[view.axis()]])})


@rule("Trilu", "com.microsoft::Trilu", family="indexing")
def trilu(view: View) -> Spec:
    return _through(view, [-2, -1], "a triangle of a whole matrix")


@rule("CenterCropPad", family="indexing")
def center_crop_pad(view: View) -> Spec:
    return _through(view, view.attribute("axes", range(view.rank())), "cropped or padded to a given size")


@rule("DFT", family="indexing")
def fourier(view: View) -> Spec:
    """The last axis holds real and imaginary part."""
    axis = view.ints(2, "axis") or [1 if view.node.version < 20 else -2]
    return _through(view, [*axis, -1], "a spectrum of fixed length")


@rule("ReverseSequence", family="indexing")
def reverse_sequence(view: View) -> Spec:
    batch = int(view.attribute("batch_axis", 1))
    spec = _through(view, [int(view.attribute("time_axis", 0))], "reversed for each sequence by its own length")
    spec.inputs[1] = (Term((f"m{batch}",)),)
    return spec


@rule("Col2Im", family="indexing")
def col2im(view: View) -> Spec:
    """Columns hold channel times block; blocks are summed where they overlap."""
    block = view.array(2)
    if block is None:
        return frozen(view, "its block is computed from the input")
    size = math.prod(int(n) for n in np.asarray(block).reshape(-1))
    spec = parse("n (c k) l -> n c *", [view.shape(0)], [view.out_shape()], {"k": size})
    spec.inputs.extend([None, None])
    return spec.bar("kl", "a window slides over this axis")


@rule("RoiAlign", family="indexing")
def roi_align(view: View) -> Spec:
    return _regions(view, "n c *, r k, r -> r c *")


@rule("MaxRoiPool", family="indexing")
def max_roi_pool(view: View) -> Spec:
    return _regions(view, "n c *, r k -> r c *")


def _regions(view: View, signature: str) -> Spec:
    shapes = [view.shape(i) for i in range(len(view.node.inputs))]
    return parse(signature, shapes, [view.out_shape()]).bar("nrk", "regions are picked by numbers")


@rule("GridSample", "com.microsoft::GridSample", family="indexing")
def grid_sample(view: View) -> Spec:
    rank = view.rank() - 2
    places = " ".join(f"o{i}" for i in range(rank))
    spec = parse(f"n c *, n {places} k -> n c {places}", [view.shape(0), view.shape(1)], [view.out_shape()])
    return spec.bar("k", "the coordinates of one position")
