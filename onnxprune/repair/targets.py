"""What each linear node of the pruned model should give: the original's values, less what the other branch already gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.model.graph import Graph, Node

QUIET = 3e-3  # of the largest deviation: an output that moves less counts as if it moved so much
NORMALISE = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"})
DEAD_SCALE = 1e-6  # a channel scaled by less is silent: nothing can be learned about it


@dataclass(frozen=True)
class FitTarget:
    """Fit ``scale * y + shift + other`` to the original's ``value`` (``other``: a value of the pruned model, "" for none).

    ``scale``, ``shift``: float64[channels] of the affine operators between the node and the sum it feeds. ``rectified``:
    only the positive part of ``value`` is ever read. ``normalised``: every row of it is divided by its own deviation.
    """

    value: str
    other: str
    scale: np.ndarray
    shift: np.ndarray
    rectified: bool
    normalised: bool = False


@dataclass(frozen=True)
class Stored:
    """Content of stored float tensors of the pruned model, by name."""

    graph: Graph
    arrays: dict[str, np.ndarray]

    def vector(self, name: str, channels: int, axis: int, rank: int) -> np.ndarray | None:
        """Return a stored tensor as float64[channels] if it is one value per channel (or one for all)."""
        array = self.arrays.get(name)
        if array is None:
            return None
        if array.size == 1:
            return np.full(channels, float(array.reshape(-1)[0]))
        shape = (1,) * (rank - array.ndim) + array.shape
        per_channel = array.size == channels and len(shape) == rank and shape[axis] == channels
        return array.reshape(-1).astype(np.float64) if per_channel else None

    def belongs_to_one(self, name: str) -> bool:
        """Whether one node alone reads a stored tensor, and the model does not give it out."""
        return len(self.graph.consumers[name]) == 1 and name not in self.graph.outputs

    def sole_user(self, value: str) -> tuple[Node, int] | None:
        """Return the one node that reads a value, and at which input; None where several do or the model gives it out."""
        users = self.graph.consumers.get(value, [])
        return users[0] if len(users) == 1 and value not in self.graph.outputs else None


def target_of(
    analysis: Analysis, stored: Stored, node: Node, channels: int, axis: int, rank: int, ready: Callable[[str], bool]
) -> FitTarget:
    """Follow a node's output through per-channel scales and shifts, to a sum with a value that is ``ready`` if any."""
    axis %= rank
    scale, shift, value, other = np.ones(channels), np.zeros(channels), node.outputs[0], ""
    while (use := stored.sole_user(value)) is not None:
        user, position = use
        step = _affine(stored, user, position, channels, axis, rank)
        if step is not None:
            scale, shift = scale * step[0], shift * step[0] + step[1]
        elif not other and _is_sum(analysis, stored, user, position, value, ready):
            other = user.inputs[1 - position]
        else:
            break
        value = user.outputs[0]
        if other:
            break
    use = stored.sole_user(value)
    rectified = use is not None and use[0].op == "Relu"
    return FitTarget(value, other, scale, shift, rectified, _is_normalised(stored.graph, value, axis, rank))


def own_output(node: Node, channels: int) -> FitTarget:
    """The node's own output in the original."""
    return FitTarget(node.outputs[0], "", np.ones(channels), np.zeros(channels), False)


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
    if any(name not in stored.arrays for name in node.inputs[1:5]):
        return None
    gamma, beta, mean, variance = (stored.arrays[name].astype(np.float64) for name in node.inputs[1:5])
    scale = gamma / np.sqrt(variance + node.attribute("epsilon", 1e-5))
    return scale, beta - mean * scale
