"""Families of operators whose signature follows from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from onnxprune.coupling.spec import Operand, Spec, Term, View, axes_of
from onnxprune.model.facts import Shape


def aligned(shape: Shape, target: Sequence[Term], target_shape: Shape) -> Operand:
    """Terms of an operand that broadcasts (from the right) to ``target``: a size-one axis takes no part; else ValueError."""
    if any(size not in (1, whole) for size, whole in zip(shape[::-1], target_shape[::-1], strict=False)):
        raise ValueError(f"shape {shape} does not broadcast to {target_shape}")
    skip = len(target_shape) - len(shape)
    return tuple(
        term if size == whole else Term()
        for size, term, whole in zip(shape, target[skip:], target_shape[skip:], strict=True)
    )


def pointwise(view: View, carrying: Iterable[int] | None = None, role: str | None = None) -> Spec:
    """All inputs (or those in ``carrying``) broadcast to the first output; every output looks like the first."""
    shape = view.out_shape()
    spec = Spec([], [])
    target = axes_of("p", shape, spec.sizes)
    chosen = range(len(view.node.inputs)) if carrying is None else carrying
    for index, name in enumerate(view.node.inputs):
        spec.inputs.append(aligned(view.shape(index), target, shape) if name and index in chosen else None)
        if role:
            spec.roles[index] = role
    spec.outputs = [
        tuple(target) if name and view.out_shape(i) == shape else None for i, name in enumerate(view.node.outputs)
    ]
    return spec


def reduction(view: View, axes: Sequence[int], lossy: str | None, keepdims: bool = True) -> Spec:
    """The axes in ``axes`` are consumed; ``lossy`` names why a cut of them is not the same as silence."""
    spec = Spec([], [])
    terms = axes_of("r", view.shape(0), spec.sizes)
    rank = len(terms)
    gone = {axis % rank for axis in axes} if rank else set()
    kept = [Term() if axis in gone else term for axis, term in enumerate(terms)]
    out = kept if keepdims else [term for axis, term in enumerate(terms) if axis not in gone]
    spec.inputs = [tuple(terms), *[None] * (len(view.node.inputs) - 1)]
    spec.outputs = [tuple(out) if name else None for name in view.node.outputs]
    if lossy:
        spec.lossy = {letter: lossy for axis in gone for letter in terms[axis].letters}
    return spec


def normalisation(view: View, axes: Iterable[int], lossy: str = "statistics") -> Spec:
    """The output looks like the input; statistics are taken over ``axes``."""
    spec = pointwise(view, carrying=[0])
    spec.lossy = {f"p{axis}": lossy for axis in axes}
    return spec


def remapped(view: View, maps: dict[int, np.ndarray], reasons: dict[int, str] | None = None) -> Spec:
    """The first output's axis ``a`` reads input position ``maps[a][k]`` at k (-1: a new position); other axes pass through."""
    spec = Spec([], [])
    source = axes_of("m", view.shape(0), spec.sizes)
    target = [Term(term.letters, maps[a]) if a in maps else term for a, term in enumerate(source)]
    spec.inputs = [tuple(source), *[None] * (len(view.node.inputs) - 1)]
    spec.outputs = [tuple(target)]
    for axis, reason in (reasons or {}).items():
        spec.bar(source[axis].letters, reason)
    return spec


def reshaped(source: Shape, target: Shape) -> Spec:
    """Common refinement of two shapes of equal volume: each axis becomes a product of shared virtual letters.

    A letter is named after the two axes that it is a part of, so that it keeps its name whichever other axes are of size one. Where no
    refinement exists (4x6 to 3x8) the axes of that block are barred.
    """
    spec = Spec([()], [()])
    terms: tuple[list[list[str]], list[list[str]]] = ([[] for _ in source], [[] for _ in target])
    if 0 in source or 0 in target:
        spec.inputs, spec.outputs = [tuple(axes_of("s", source, spec.sizes))], [tuple(axes_of("t", target, spec.sizes))]
        return spec.bar(list(spec.sizes), "an empty tensor")
    for ins, outs in _blocks(source, target):
        atoms = _refine([source[a] for a in ins], [target[a] for a in outs])
        if atoms is None:
            for side, axes, tag in ((0, ins, "s"), (1, outs, "t")):
                for axis in axes:
                    terms[side][axis] = [f"{tag}{axis}"]
                    spec.sizes[f"{tag}{axis}"] = (source, target)[side][axis]
                    spec.bar([f"{tag}{axis}"], "reshaped across its boundaries")
            continue
        sizes, left, right = atoms
        places = (
            {atom: axis for axis, members in zip(*side, strict=True) for atom in members}
            for side in ((ins, left), (outs, right))
        )
        sources, targets = places
        names = [f"a{sources[i]}_{targets[i]}" for i in range(len(sizes))]
        spec.sizes.update(zip(names, sizes, strict=True))
        for side, axes, groups in ((0, ins, left), (1, outs, right)):
            for axis, members in zip(axes, groups, strict=True):
                terms[side][axis] = [names[i] for i in members]
    spec.inputs = [tuple(Term(tuple(letters)) for letters in terms[0])]
    spec.outputs = [tuple(Term(tuple(letters)) for letters in terms[1])]
    return spec


def _blocks(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes into the smallest runs of axes with equal products; size-one axes are left out."""
    ins = [a for a, n in enumerate(source) if n != 1]
    outs = [a for a, n in enumerate(target) if n != 1]
    blocks, i, j = [], 0, 0
    while i < len(ins) and j < len(outs):
        left, right = [ins[i]], [outs[j]]
        a, b = source[ins[i]], target[outs[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                left.append(ins[i])
                a *= source[ins[i]]
                i += 1
            else:
                right.append(outs[j])
                b *= target[outs[j]]
                j += 1
        blocks.append((left, right))
    return blocks


def _refine(left: list[int], right: list[int]) -> tuple[list[int], list[list[int]], list[list[int]]] | None:
    """Return (atom sizes, atoms of each left axis, atoms of each right axis), or None where boundaries cross."""
    ends = [np.cumprod(side).tolist() for side in (left, right)]
    cuts = sorted({1, *ends[0], *ends[1]})
    if any(b % a for a, b in pairwise(cuts)):
        return None
    sizes = [b // a for a, b in pairwise(cuts)]

    def groups(stops: list[int]) -> list[list[int]]:
        starts = [1, *stops[:-1]]
        # row-major: the cut points count from the outermost axis
        return [[i for i, c in enumerate(cuts[1:]) if lo < c <= hi] for lo, hi in zip(starts, stops, strict=True)]

    return sizes, groups(ends[0]), groups(ends[1])


def matrix_product(left: Shape, right: Shape, out: Shape) -> Spec:
    """Stacks of matrices broadcast; a one-axis operand is a row on the left, a column on the right."""
    spec = Spec([], [])
    stacked = out[: len(out) - (len(left) > 1) - (len(right) > 1)]
    stack = axes_of("b", stacked, spec.sizes)
    spec.sizes["k"] = left[-1]
    rows = [Term(("m",))] * (len(left) > 1)
    columns = [Term(("n",))] * (len(right) > 1)
    if rows:
        spec.sizes["m"] = left[-2]
    if columns:
        spec.sizes["n"] = right[-1]
    spec.inputs = [
        (*(aligned(left[:-2], stack, stacked) or ()), *rows, Term(("k",))),
        (*(aligned(right[:-2], stack, stacked) or ()), Term(("k",)), *columns),
    ]
    spec.outputs = [(*stack, *rows, *columns)]
    spec.cost = tuple(spec.sizes)
    return spec


def sliding_window(view: View, kernel: Sequence[int]) -> tuple[int, ...] | None:
    """Return the spatial axes that a window of stride one slides over: none, or one that it leaves as long as it is.

    None where the window spans several axes, strides or changes a size: then positions in and out do not correspond.
    """
    windows = tuple(axis for axis, size in enumerate(kernel) if size > 1)
    strides = view.attribute("strides", [1] * len(kernel))
    same = view.shape(0)[2:] == view.out_shape()[2:]
    return windows if same and len(windows) <= 1 and all(stride == 1 for stride in strides) else None


def contraction_cost(spec: Spec, weight: int = 1) -> Spec:
    """MACs: the product of all letters of the output and the weight operand."""
    spec.cost = tuple(sorted(spec.letters([*spec.outputs, spec.inputs[weight]])))
    return spec


def volume(shape: Shape) -> int:
    return math.prod(shape)
