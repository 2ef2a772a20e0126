"""Operators that consume axes: sums, means, extremes, pools."""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import normalisation, reduction, remapped
from onnxprune.coupling.spec import Spec, Term, View, axes_of, parse, rule
from onnxprune.coupling.statistics import corrected, is_mean_free, mean_squared, share_kept, with_silent_squares

CORRECTED = {"ReduceMean": "Mul", "ReduceMax": "Max", "ReduceMin": "Min"}
"""Reduction -> what makes its result over the rest that over all, the silent ones being zeros."""
EXACT = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
LOSSY = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")


def _axes(view: View) -> list[int]:
    """Return the axes that are reduced; 0 <= axis < rank."""
    axes = view.ints(1, "axes")
    if not axes:
        axes = [] if view.attribute("noop_with_empty_axes", 0) else list(range(view.rank()))
    return sorted({axis % max(view.rank(), 1) for axis in axes})


def _with_silent(view: View, cut: KeptPositions) -> Edits:
    share = share_kept(view, cut, "r", _axes(view))
    mean = mean_squared(view, _axes(view)) if share != 1 else None
    if mean is not None:
        return with_silent_squares(view, share, mean)
    if not _is_corrected(view) or (share == 1 and not is_mean_free(view)):
        return Edits()
    by = share if view.node.op == "ReduceMean" and not is_mean_free(view) else 0.0
    return Edits(results={0: (CORRECTED[view.node.op], by)})


@rule(*EXACT, *LOSSY, family="reduction", rewrite=_with_silent)
def reduce(view: View) -> Spec:
    """A sum over silenced positions is exact, a mean and an extreme can be made good; a product over them is not."""
    lossy = None if view.node.op in EXACT else "statistics"
    spec = reduction(view, _axes(view), lossy, bool(view.attribute("keepdims", 1)))
    mean = mean_squared(view, _axes(view))
    spec.squared = {0: mean} if mean is not None else {}
    return corrected(view, spec, dict(spec.lossy)) if _is_corrected(view) else spec


def _is_corrected(view: View) -> bool:
    """Whether silence describes what the node gives; not where an extreme is taken away, as in a softmax that a file spells out."""
    users = view.facts.graph.consumers.get(view.node.outputs[0], [])
    shifts = bool(users) and all(user.op == "Sub" and user.inputs[0] == view.node.inputs[0] for user, _ in users)
    return view.node.op in CORRECTED and (view.node.op == "ReduceMean" or not shifts)


@rule("ArgMax", "ArgMin", family="reduction")
def arg_extreme(view: View) -> Spec:
    axis = view.axis(0)
    spec = reduction(view, [axis], None, bool(view.attribute("keepdims", 1)))
    return spec.bar([f"r{axis}"], "its positions are numbers in the output")


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", family="reduction")
def global_pool(view: View) -> Spec:
    lossy = None if view.node.op == "GlobalLpPool" else "statistics"
    return reduction(view, range(2, view.rank()), lossy)


@rule("AveragePool", "MaxPool", "LpPool", family="reduction")
def pool(view: View) -> Spec:
    """A window that slides over one axis alone keeps neighbours (a response norm as sums over channels)."""
    outputs = [view.out_shape(i) for i, name in enumerate(view.node.outputs) if name]
    spec = _sliding(view)
    if len(outputs) == 1 and spec is not None:
        return spec
    spec = parse("n c * -> " + ",".join(["n c *"] * len(outputs)), [view.shape(0)], outputs)
    return spec if len(outputs) == 1 else spec.bar(["n", "c"], "its indices number all positions of the tensor")


def _sliding(view: View) -> Spec | None:
    """Output position k is centred on input position ``k + size // 2 - pad``; None for other kinds of windows."""
    kernel = view.attribute("kernel_shape")
    windows = [axis for axis, size in enumerate(kernel) if size > 1]
    every = [view.attribute(name, [1] * len(kernel)) for name in ("strides", "dilations")]
    if (
        len(windows) != 1
        or any(n != 1 for numbers in every for n in numbers)
        or view.attribute("auto_pad", "NOTSET") != "NOTSET"
    ):
        return None
    pads, axis = view.attribute("pads", [0] * 2 * len(kernel)), windows[0]
    if view.attribute("ceil_mode", 0) or any(pad for place, pad in enumerate(pads) if place % len(kernel) != axis):
        return None
    size, centre = view.shape(0)[axis + 2], kernel[axis] // 2 - pads[axis]
    places = np.arange(view.out_shape()[axis + 2]) + centre
    spec = remapped(view, {axis + 2: np.where((places >= 0) & (places < size), places, -1)})
    spec.lossy = {f"m{axis + 2}": "neighbours"}
    return spec


@rule("CumSum", "CumProd", family="reduction")
def cumulative(view: View) -> Spec:
    axis = view.array(1)
    axes = range(view.rank()) if axis is None else [int(axis.reshape(-1)[0]) % view.rank()]
    return normalisation(view, axes)


@rule("TopK", family="reduction")
def top_k(view: View) -> Spec:
    spec = Spec([], [])
    terms = axes_of("r", view.shape(0), spec.sizes)
    axis = view.axis(-1)
    spec.bar(terms[axis].letters, "its positions are ranked and numbered in the output")
    spec.sizes["k"] = view.out_shape()[axis]
    spec.bar("k", "it holds ranks, not positions")
    out = tuple(Term(("k",)) if a == axis else t for a, t in enumerate(terms))
    spec.inputs, spec.outputs = [tuple(terms), None], [out] * len(view.node.outputs)
    return spec
