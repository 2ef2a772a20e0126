"""What each linear node of the pruned model should give: the original's values, less what the other branch already gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.model.graph import Graph, Node
from onnxprune.repair.stored import Stored

QUIET = 3e-3  # of the largest deviation: an output that moves less counts as if it moved so much
NORMALISE = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})
SUMMED = (0, 1)  # inputs of which a fused norm takes the sum
SUMS_INSIDE = frozenset(
    f"com.microsoft::{name}" for name in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
)
ADDED: dict[str, int] = {
    "com.microsoft::BiasGelu": 1,
    "com.microsoft::FastGelu": 1,
    "com.microsoft::SkipLayerNormalization": 4,
    "com.microsoft::SkipSimplifiedLayerNormalization": 3,
}
"""Operators that add a bias to their first inputs before anything else -> the input that it is."""
DEAD_SCALE = 1e-6  # a channel scaled by less is silent: nothing can be learned about it


@dataclass(frozen=True)
class FitTarget:
    """Fit ``scale * y + shift + other`` to the original's ``value`` (``other``: a value of the pruned model, "" for none).

    ``scale``, ``shift``: float64[channels] of the affine operators between the node and the sum it feeds. ``rectified``:
    only the positive part of ``value`` is ever read. ``normalised``: every row of it is divided by its own deviation. ``inside``: the
    sum is taken inside of the node that reads ``value`` and ``other``, so that the original's is of both there; ``added``: of a stored bias too.
    """

    value: str
    other: str
    scale: np.ndarray
    shift: np.ndarray
    rectified: bool
    normalised: bool = False
    inside: bool = False
    added: str = ""

    def only(self, channels: slice) -> FitTarget:
        """Return the target of some of the channels."""
        return replace(self, scale=self.scale[channels], shift=self.shift[channels])


def target_of(
    analysis: Analysis, stored: Stored, value: str, channels: int, axis: int, rank: int, ready: Callable[[str], bool]
) -> FitTarget:
    """Follow a node's output ``value`` through per-channel scales and shifts, to a sum with a value that is ``ready`` if any.

    A pair of QuantizeLinear and DequantizeLinear on the way is passed; what the original does not have is not.
    """
    axis %= rank
    scale, shift, other = np.ones(channels), np.zeros(channels), ""
    while (use := stored.sole_user(value)) is not None:
        user, position = use
        rounded = "" if stored.rectifies(user) else stored.rounds_to(user)
        if rounded:
            value = rounded
            continue
        step = _affine(stored, user, position, channels, axis, rank)
        known = user.outputs[0] in analysis.facts.first
        if step is not None and known:
            scale, shift = scale * step[0], shift * step[0] + step[1]
        elif not other and step is None and _is_sum(analysis, stored, user, position, value, ready):
            other = user.inputs[1 - position]
            if not known:  # a fused norm that the cut has spelled out
                return FitTarget(value, other, scale, shift, False, True, True)
        else:
            break
        value = user.outputs[0]
        if other:
            break
    use = stored.sole_user(value)
    if use is not None and not other and use[0].op in SUMS_INSIDE and axis == rank - 1:
        return _inside(FitTarget(value, "", scale, shift, False, True), analysis, stored, *use, ready)
    rectified = use is not None and stored.rectifies(use[0])
    return FitTarget(value, other, scale, shift, rectified, _is_normalised(stored.graph, value, axis, rank))


def _inside(
    plain: FitTarget, analysis: Analysis, stored: Stored, user: Node, position: int, ready: Callable[[str], bool]
) -> FitTarget:
    """Return the target with what a fused norm adds to a value before it normalises, where that is known yet."""
    facts, value = analysis.facts, plain.value
    other = user.input(1 - position) if position < len(SUMMED) else ""
    known = other not in ("", value) and other not in facts.constants and ready(other)
    if not known or facts.shape(other) != facts.shape(value):
        return plain
    added = user.input(ADDED[user.op])
    bias = stored.arrays.get(added)
    if bias is None or bias.shape != plain.shift.shape:
        return replace(plain, other=other, inside=True)
    return replace(plain, other=other, inside=True, shift=plain.shift + bias, added=added)


def on_own_scales(variance: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    """Return float64[channels]: factors with which each channel's share of the sum of squares is its importance.

    ``variance``: float64[channels]. The sum stays what it is; all factors are 1 where no importance is given.
    """
    if importance is None or len(importance) != len(variance) or not variance.any() or not importance.any():
        return np.ones(len(variance))
    shares = importance / importance.sum() * variance.sum()
    return np.sqrt(shares / np.maximum(variance, QUIET**2 * variance.max()))


def _is_normalised(graph: Graph, value: str, axis: int, rank: int) -> bool:
    """Whether layer normalisation over the channels, in one node or in several, is the first that reads a value."""
    if axis != rank - 1 or value in graph.outputs:
        return False
    ops = {user.op for user, position in graph.consumers.get(value, ()) if position == 0}
    return bool(ops & NORMALISE) or {"ReduceMean", "Sub"} <= ops


def _is_sum(
    analysis: Analysis, stored: Stored, user: Node, position: int, value: str, ready: Callable[[str], bool]
) -> bool:
    if user.op not in ("Add", "Sum") or len(user.inputs) != 2:
        return False
    other = user.inputs[1 - position]
    facts = analysis.facts
    return other != value and ready(other) and other not in facts.constants and facts.shape(other) == facts.shape(value)


def _affine(
    stored: Stored, node: Node, position: int, channels: int, axis: int, rank: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (scale, shift) of a node that is affine per channel, None otherwise."""
    if node.op == "Identity":
        return np.ones(channels), np.zeros(channels)
    if node.op == "BatchNormalization" and position == 0 and axis == 1:
        return batch_norm(stored, node)
    if node.op not in AFFINE or len(node.inputs) != 2:
        return None
    constant = stored.vector(node.inputs[1 - position], channels, axis, rank)
    if constant is None or (position == 1 and node.op in ("Sub", "Div")):
        return None
    return AFFINE[node.op](constant)


AFFINE: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "Add": lambda c: (np.ones_like(c), c),
    "Sub": lambda c: (np.ones_like(c), -c),
    "Mul": lambda c: (c, np.zeros_like(c)),
    "Div": lambda c: (1.0 / c, np.zeros_like(c)),
}


def batch_norm(stored: Stored, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (scale, shift), float64[channels] each, of a BatchNormalization with stored parameters."""
    parameters = [stored.content(name) for name in node.inputs[1:5]]
    if any(parameter is None for parameter in parameters):
        return None
    gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters if p is not None)
    scale = gamma / np.sqrt(variance + node.attribute("epsilon", 1e-5))
    return scale, beta - mean * scale
