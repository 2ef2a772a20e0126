"""Operators that only move elements along one axis at a time: joining, cutting, picking, padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import remapped
from onnxprune.coupling.spec import Spec, Term, View, axes_of, rule


@rule("Concat", family="movement")
def concat(view: View) -> Spec:
    return concatenated(view, range(len(view.node.inputs)))


def concatenated(view: View, carrying: Iterable[int]) -> Spec:
    """The inputs in ``carrying`` stand one after the other in the output."""
    shape = view.out_shape()
    axis = view.axis(1, len(shape))
    spec = Spec([None] * len(view.node.inputs), [])
    target = axes_of("m", shape, spec.sizes)
    start = 0
    for index in carrying:
        width = view.shape(index)[axis]
        part = Term(target[axis].letters, np.arange(start, start + width))
        spec.inputs[index] = tuple(part if a == axis else t for a, t in enumerate(target))
        spec.roles[index] = "writes"
        start += width
    spec.outputs = [tuple(target)]
    return spec


def _split_sizes(view: View, cut: KeptPositions) -> Edits:
    """Equal parts may become unequal: then the sizes must be said."""
    axis = view.axis(0)
    sizes = [cut.shape(name, view.out_shape(i))[axis] for i, name in enumerate(view.node.outputs)]
    if view.node.version < 13:
        return Edits({"split": sizes})
    equal = len(set(sizes)) == 1 and not view.has(1)
    return Edits() if equal else Edits({"num_outputs": None}, {1: np.asarray(sizes, np.int64)})


@rule("Split", family="movement", rewrite=_split_sizes)
def split(view: View) -> Spec:
    spec = Spec([], [])
    source = axes_of("m", view.shape(0), spec.sizes)
    axis = view.axis(0)
    spec.inputs = [tuple(source), None][: len(view.node.inputs)]
    start = 0
    for index in range(len(view.node.outputs)):
        width = view.out_shape(index)[axis]
        part = Term(source[axis].letters, np.arange(start, start + width))
        spec.outputs.append(tuple(part if a == axis else t for a, t in enumerate(source)))
        start += width
    return spec


class _Range(NamedTuple):
    """What a Slice takes of one axis: the positions, in their order, and the step from one to the next."""

    chosen: np.ndarray
    step: int


def _slice_ranges(view: View) -> dict[int, _Range] | None:
    """Return axis -> what a Slice takes of it, or None where its ranges are not known."""
    if view.node.version < 10:
        starts, ends = view.attribute("starts"), view.attribute("ends")
        axes, steps = view.attribute("axes"), None
    else:
        if any(view.has(i) and view.array(i) is None for i in (1, 2, 3, 4)):
            return None
        starts, ends, axes, steps = (view.ints(i, "") for i in (1, 2, 3, 4))
    rank = view.rank()
    axes = [a % rank for a in (axes if axes is not None else range(len(starts)))]
    steps = steps if steps is not None else [1] * len(starts)
    return {
        axis: _Range(
            np.arange(view.shape(0)[axis])[slice(start, _python_end(end, step, view.shape(0)[axis]), step)], step
        )
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def _python_end(end: int, step: int, size: int) -> int | None:
    """ONNX counts a negative end from the back, then clamps; a backward slice past the front has no Python end."""
    return None if step < 0 and end < -size else end


def _slice_bounds(view: View, cut: KeptPositions) -> Edits:
    ranges = _slice_ranges(view) or {}
    name = view.node.inputs[0]
    touched = {a: r for a, r in ranges.items() if cut.touched(name, a)}
    if not touched:
        return Edits()
    named = list(ranges)
    starts = np.array(view.ints(1, "starts"), np.int64)
    ends = np.array(view.ints(2, "ends"), np.int64)
    for axis, (chosen, step) in touched.items():
        kept = cut.kept(name, axis, view.shape(0)[axis])
        ranks = np.flatnonzero(np.isin(kept, chosen))
        forward = step > 0
        first, last = (ranks[0], ranks[-1]) if len(ranks) else (0, -1)
        at = named.index(axis)
        starts[at] = first if forward else last
        ends[at] = last + 1 if forward else (first - 1 if first > 0 else np.iinfo(np.int64).min + 1)
        if not len(ranks):
            starts[at] = ends[at] = 0
    if view.node.version < 10:
        return Edits({"starts": starts.tolist(), "ends": ends.tolist()})
    dtypes = [view.array(i).dtype for i in (1, 2)]  # type: ignore[union-attr]
    bounds = [
        np.clip(a, np.iinfo(d).min, np.iinfo(d).max).astype(d) for a, d in zip((starts, ends), dtypes, strict=True)
    ]
    return Edits(operands={1: bounds[0], 2: bounds[1]})


@rule("Slice", family="movement", rewrite=_slice_bounds)
def slice_(view: View) -> Spec:
    """A slice with a step goes in blocks of that step, so that every step-th position stays the step-th."""
    ranges = _slice_ranges(view)
    if ranges is None:
        return _any_axis(view, "sliced at bounds that are computed from the input")
    spec = remapped(view, {axis: chosen for axis, (chosen, _) in ranges.items()})
    (source, *rest), (target,) = spec.inputs, spec.outputs
    assert source is not None and target is not None
    left, right = list(source), list(target)
    for axis, (chosen, stride) in ranges.items():
        step = abs(stride)
        if step > 1 and len(chosen) > 1:
            letter = f"block{axis}"
            spec.sizes[letter] = len(chosen)
            first = int(chosen.min())
            block = (np.arange(view.shape(0)[axis]) - first) // step
            block[:first] = -1
            block[block >= len(chosen)] = -1
            order = np.argsort(np.argsort(chosen))
            left[axis], right[axis] = Term((letter,), block), Term((letter,), order)
    spec.inputs, spec.outputs = [tuple(left), *rest], [tuple(right)]
    return spec


def _any_axis(view: View, reason: str, changed: Sequence[int] = ()) -> Spec:
    """Axes whose size does not change pass through; the others, and those in ``changed``, are barred."""
    spec = Spec([], [])
    source, out = axes_of("m", view.shape(0), spec.sizes), view.out_shape()
    target = axes_of("y", out, spec.sizes)
    barred = [a for a, (m, n) in enumerate(zip(view.shape(0), out, strict=True)) if m != n or a in changed]
    spec.inputs = [tuple(source), *[None] * (len(view.node.inputs) - 1)]
    spec.outputs = [tuple(t if a in barred else source[a] for a, t in enumerate(target))]
    return spec.bar([f"{side}{a}" for side in "my" for a in barred], reason)


def _picked(view: View) -> Spec:
    """Numbers that pick the heads of a cache go with those; the cache comes in whole."""
    spec = Spec([], [])
    axis = view.axis(0)
    source = axes_of("m", view.shape(0), spec.sizes)
    (chosen,) = axes_of("head", view.shape(1), spec.sizes)
    target = tuple(chosen if a == axis else term for a, term in enumerate(source))
    spec.inputs, spec.outputs, spec.roles = [tuple(source), (chosen,)], [target], {1: "scales"}
    return spec.bar(source[axis].letters, "a cache comes in whole while heads are picked from it")


def _gather_indices(view: View, cut: KeptPositions) -> Edits:
    axis = view.axis(0)
    size = view.shape(0)[axis]
    indices = view.array(1)
    if indices is None or not cut.touched(view.node.inputs[0], axis):  # a pick among them
        return (
            Edits()
        )  # numbers that are computed count the positions that stay (see coupling/routing.py), or bar the axis
    kept = cut.kept(view.node.inputs[0], axis, size)
    rank = np.full(size, -1, indices.dtype)
    rank[kept] = np.arange(len(kept))
    picked = rank[indices % size]
    for number, length in enumerate(indices.shape):
        picked = np.take(picked, cut.kept(view.node.outputs[0], axis + number, length), number)
    return Edits(operands={1: picked})


@rule("Gather", family="movement", rewrite=_gather_indices)
def gather(view: View) -> Spec:
    """Known indices pick positions; unknown ones (an embedding's tokens) bar the axis they pick from.

    A matrix of indices that picks no position twice makes the axis a product of the matrix's axes.
    """
    if any(pick.numbers == view.node.input(1) for pick in view.facts.model.picked):
        return _picked(view)
    axis, size = view.axis(0), view.shape(0)[view.axis(0)]
    spec = Spec([], [])
    source = axes_of("m", view.shape(0), spec.sizes)
    picks = view.shape(1)
    terms = axes_of("i", picks, spec.sizes)
    indices = view.facts.array(view.node.inputs[1])
    if indices is not None and len(picks) == 1:
        terms = [Term(source[axis].letters, indices % size)]
        del spec.sizes["i0"]
        spec.inputs = [tuple(source), None]
    elif indices is not None and len(picks) > 1 and len(np.unique(indices % size)) == indices.size > 1:
        places = np.full(size, -1)
        places[indices.reshape(-1) % size] = np.arange(indices.size)
        letters = tuple(letter for term in terms for letter in term.letters)
        del spec.sizes[f"m{axis}"]
        whole = tuple(Term(letters, places) if a == axis else term for a, term in enumerate(source))
        spec.inputs = [whole, None]
    elif indices is not None:
        spec.bar(source[axis].letters, "this position is picked by number", indices.reshape(-1) % size)
        spec.inputs = [tuple(source), tuple(terms) if picks else None]
    else:
        spec.bar(source[axis].letters, "its positions are picked by numbers computed elsewhere")
        spec.inputs = [tuple(source), tuple(terms)]
    spec.outputs = [(*source[:axis], *terms, *source[axis + 1 :])]
    return spec


def _pad_widths(view: View) -> list[tuple[int, int]] | None:
    rank = view.rank()
    pads = view.ints(1, "pads") if view.node.version >= 11 else view.attribute("pads", view.attribute("paddings"))
    if pads is None or (view.has(3) and view.array(3) is None):
        return None
    axes = [a % rank for a in (view.ints(3, "") or range(rank))] if view.has(3) else list(range(rank))
    half = len(axes)
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[half + i])
    return widths


def _pad_amounts(view: View, cut: KeptPositions) -> Edits:
    widths = _pad_widths(view) or []
    pads = np.array(view.ints(1, "pads") if view.node.version >= 11 else view.attribute("pads"), np.int64)
    axes = [a % view.rank() for a in (view.ints(3, "") or [])] if view.has(3) else list(range(view.rank()))
    for i, axis in enumerate(axes):
        before, after = widths[axis]
        size = view.out_shape()[axis]
        kept = cut.kept(view.node.outputs[0], axis, size)
        if before > 0:
            pads[i] = np.count_nonzero(kept < before)
        if after > 0:
            pads[len(axes) + i] = np.count_nonzero(kept >= size - after)
        source = view.shape(0)[axis]
        inside = cut.kept(view.node.inputs[0], axis, source)
        if before < 0:
            pads[i] = -np.count_nonzero(inside < -before)
        if after < 0:
            pads[len(axes) + i] = -np.count_nonzero(inside >= source + after)
    return Edits({"pads": pads.tolist()}) if view.node.version < 11 else Edits(operands={1: pads})


@rule("Pad", family="movement", rewrite=_pad_amounts)
def pad(view: View) -> Spec:
    """Zeros may be padded on the channels; other modes repeat real positions, which then may not be cut."""
    widths = _pad_widths(view)
    if widths is None:
        return _any_axis(view, "padded by widths that are computed from the input")
    mode = view.attribute("mode", "constant")
    if mode != "constant":
        return _any_axis(view, f"padded in mode {mode!r}", [a for a, width in enumerate(widths) if any(width)])
    maps = {}
    for axis, (before, after) in enumerate(widths):
        if (before, after) != (0, 0):
            size = view.shape(0)[axis]
            positions = np.arange(-before, size + after)
            maps[axis] = np.where((positions >= 0) & (positions < size), positions, -1)
    return remapped(view, maps)


def _required_expand(view: View, cut: KeptPositions) -> Edits:
    old = view.array(1)
    if old is None:
        return Edits()
    shape = cut.shape(view.node.outputs[0], view.out_shape())
    aligned = np.asarray(shape[len(shape) - old.size :] if old.size else (), old.dtype)
    return Edits(operands={1: np.where(old == 1, 1, aligned).astype(old.dtype)})


@rule("Expand", family="movement", rewrite=_required_expand)
def expand(view: View) -> Spec:
    spec = Spec([], [])
    out = view.out_shape()
    target = axes_of("m", out, spec.sizes)
    skip = len(out) - view.rank()
    source = [Term() if n == 1 and out[skip + a] != 1 else target[skip + a] for a, n in enumerate(view.shape(0))]
    spec.inputs, spec.outputs = [tuple(source), None], [tuple(target)]
    return spec


def _repeats(view: View, cut: KeptPositions) -> Edits:
    new = cut.shape(view.node.inputs[0], view.shape(0))
    out = cut.shape(view.node.outputs[0], view.out_shape())
    array = view.array(1)
    dtype = np.int64 if array is None else array.dtype
    return Edits(operands={1: np.array([m // max(n, 1) for m, n in zip(out, new, strict=True)], dtype)})


@rule("Tile", family="movement", rewrite=_repeats)
def tile(view: View) -> Spec:
    """Each repeated axis is a product of the repeats and the input's positions: either can be cut."""
    spec = Spec([], [])
    source = axes_of("m", view.shape(0), spec.sizes)
    target = []
    for axis, (term, n, m) in enumerate(zip(source, view.shape(0), view.out_shape(), strict=True)):
        if n and m // n > 1:
            spec.sizes[f"r{axis}"] = m // n
            term = Term((f"r{axis}", *term.letters))
        target.append(term)
    spec.inputs, spec.outputs = [tuple(source), None], [tuple(target)]
    return spec


def _constant_shape(view: View, cut: KeptPositions) -> Edits:
    return Edits(operands={0: np.asarray(cut.shape(view.node.outputs[0], view.out_shape()), np.int64)})


@rule("ConstantOfShape", family="movement", rewrite=_constant_shape)
def constant_of_shape(view: View) -> Spec:
    spec = Spec([None], [])
    spec.outputs = [tuple(axes_of("m", view.out_shape(), spec.sizes))]
    return spec


@rule("Shape", "Size", "Constant", family="facts")
def shape_of(view: View) -> Spec:
    """Carries no positions: sizes are followed as facts and checked again after the cut."""
    if view.node.op == "Constant":
        return Spec([], [None])
    spec = Spec([None], [])
    spec.outputs = [tuple(axes_of("d", view.out_shape(), spec.sizes))]
    return spec.bar(list(spec.sizes), "one size per axis of a tensor")
