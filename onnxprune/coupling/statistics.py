"""Statistics over positions some of which are gone: what the rest has to be scaled by, so that the cut is silence.

A silent position is zero where the statistic is taken: of ``N`` positions ``n`` are left, and with share ``r = n / N`` a mean over
all is ``r`` times the mean over the rest. An RMS norm has ``sqrt(r (mean + epsilon / r))``, which needs no further operator; a layer
norm has mean ``m' = r m`` and variance ``r mean((x - m')^2) + (1 - r) m'^2`` (the last term is that of the silent positions).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from onnx import TensorProto, helper

from onnxprune.coupling.edits import Edits, GraphValue, KeptPositions, Operation
from onnxprune.coupling.spec import Spec, View
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.model.read import FLOATS

EPSILON = {"": 1e-5, "com.microsoft": 1e-12}  # where a norm's attribute is not given, by domain
PER_CHANNEL = frozenset({"InstanceNormalization", "GroupNormalization"})
"""Norms whose gain and bias are vectors along the second axis."""
BROADCASTS = 8  # the opset from which on the two operands of Max and of Mul may differ in shape
AXES_AS_INPUT = 18  # the opset from which on ReduceMean takes its axes as an input


def corrected(view: View, spec: Spec, letters: Iterable[str], data: Sequence[int] = (0,)) -> Spec:
    """Let a node's statistics over ``letters`` be made good, where they can be; ``data``: the inputs that are silenced."""
    if not _correctable(view):
        return spec
    own = set(letters)
    spec.lossy = {letter: kind for letter, kind in spec.lossy.items() if letter not in own}
    spec.statistics |= own
    spec.consumes |= own & spec.letters(spec.outputs)
    spec.silent |= dict.fromkeys(data)
    return spec


def _correctable(view: View) -> bool:
    """Whether a node's statistics are of floats, and are not results themselves (means and deviations of a norm)."""
    broadcasts = view.facts.graph.versions.get("", 1) >= BROADCASTS
    return broadcasts and view.fact(0).dtype in FLOATS and not any(view.node.outputs[1:3])


def root_mean_square(view: View, share: float) -> Edits:
    """Return how an RMS norm goes on over a share of its positions."""
    epsilon = _epsilon(view)
    return Edits({"epsilon": epsilon / share}, results={0: ("Mul", share**-0.5)})


def is_mean_free(view: View) -> bool:
    """Whether the mean that a node takes, or takes away, is zero."""
    return view.node.outputs[0] in view.facts.mean_free


def mean_squared(view: View, axes: Sequence[int]) -> str | None:
    """Return the mean that was taken away from all whose squares a ReduceMean averages, by its name in the graph (None: no such).

    Silent positions hold its square there, being zero less the mean, as those inside of a layer norm do.
    """
    graph = view.facts.graph
    squares = graph.producer.get(view.node.inputs[0])
    less = graph.producer.get(squares.inputs[0]) if squares is not None and is_square(squares, view.facts) else None
    if view.node.op != "ReduceMean" or less is None or less.op != "Sub":
        return None
    for value, mean in (less.inputs, less.inputs[::-1]):
        node = graph.producer.get(mean)
        if node is None or node.op != "ReduceMean" or node.inputs[0] != value or node.owner is not view.node.owner:
            continue
        if _reduces_alike(View(node, view.facts), view, axes):
            return node.proto.output[0]
    return None


def is_square(node: Node, facts: Facts) -> bool:
    """Whether a node squares its first input."""
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    exponent = facts.array(node.inputs[1]) if node.op == "Pow" else None
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2


def _reduces_alike(first: View, second: View, axes: Sequence[int]) -> bool:
    """Whether the results of two ReduceMean have one shape and element type, the first's axes being ``axes`` too."""
    sizes = first.shape(0)
    reduced = [axis for axis, size in enumerate(first.out_shape()) if size == 1 != sizes[axis]]
    return (
        len(first.out_shape()) == len(sizes)
        and first.out_shape() == second.out_shape()
        and reduced == [axis for axis in axes if sizes[axis] != 1]
        and first.fact(0).dtype == second.fact(0).dtype
        and not is_mean_free(first)
    )


def with_silent_squares(view: View, share: float, mean: str) -> Edits:
    """Return a mean of squares over a share of the positions, with those of ``mean`` at the silent ones."""
    number = helper.tensor_dtype_to_np_dtype(view.fact(0).dtype)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in view.node.proto.attribute}
    steps = (
        Operation(view.node.op, tuple(range(len(view.node.inputs))), "squares_of_rest", attributes=attributes),
        Operation("Mul", ("squares_of_rest", np.asarray(share, number)), "part_of_rest"),
        Operation("Mul", (GraphValue(mean), GraphValue(mean)), "squared_mean"),
        Operation("Mul", ("squared_mean", np.asarray(1 - share, number)), "part_of_silent"),
        Operation("Add", ("part_of_rest", "part_of_silent"), "variance", 0),
    )
    return Edits(instead=steps)


def spelled_out(view: View, share: float, axes: Sequence[int], sums: Sequence[Operation], source: str | int) -> Edits:
    """Return a layer norm over a share of its positions, operator by operator; it is computed in float32 as the fused one is.

    What has mean zero over all positions is divided by its root mean square: runtimes fuse that again.

    ``sums``: operations before it, of which ``source`` may be a result, else an input. Gain and bias are the inputs behind.
    """
    kind = view.fact(0).dtype
    gain, bias = _parameters(view)
    shaped = _per_channel(view, gain, bias)
    number = (
        np.float32 if kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16) else helper.tensor_dtype_to_np_dtype(kind)
    )
    narrow = number is np.float32 and kind != TensorProto.FLOAT
    steps = [*sums]
    if narrow:
        steps.append(Operation("Cast", (source,), "wide", attributes={"to": TensorProto.FLOAT}))
        source = "wide"

    def scaled(factor: float) -> np.ndarray:
        return np.asarray(factor, number)

    steps += (
        _by_root(view, share, axes, source, scaled)
        if is_mean_free(view)
        else _by_deviation(view, share, axes, source, scaled)
    )
    if narrow:
        steps.append(Operation("Cast", ("normalised",), "narrow", attributes={"to": kind}))
    last = "narrow" if narrow else "normalised"
    steps += shaped
    steps.append(Operation("Mul", (last, "gain" if shaped else gain), "scaled", None if bias else 0))
    if bias:
        steps.append(Operation("Add", ("scaled", "shift" if shaped else bias), "shifted", 0))
    return Edits(instead=tuple(steps))


def _by_root(
    view: View, share: float, axes: Sequence[int], source: str | int, scaled: Callable[[float], np.ndarray]
) -> list[Operation]:
    return [
        Operation("Pow", (source, scaled(2)), "squares"),
        _mean(view, "squares", axes, "squares_of_rest"),
        Operation("Add", ("squares_of_rest", scaled(_epsilon(view) / share)), "positive"),
        Operation("Sqrt", ("positive",), "deviation"),
        Operation("Div", (source, "deviation"), "quotient"),
        Operation("Mul", ("quotient", scaled(share**-0.5)), "normalised"),
    ]


def _by_deviation(
    view: View, share: float, axes: Sequence[int], source: str | int, scaled: Callable[[float], np.ndarray]
) -> list[Operation]:
    return [
        _mean(view, source, axes, "mean_of_rest"),
        Operation("Mul", ("mean_of_rest", scaled(share)), "mean"),
        Operation("Sub", (source, "mean"), "centred"),
        Operation("Mul", ("centred", "centred"), "squares"),
        _mean(view, "squares", axes, "squares_of_rest"),
        Operation("Mul", ("squares_of_rest", scaled(share)), "part_of_rest"),
        Operation("Mul", ("mean", "mean"), "squared_mean"),
        Operation("Mul", ("squared_mean", scaled(1 - share)), "part_of_silent"),
        Operation("Add", ("part_of_rest", "part_of_silent"), "variance"),
        Operation("Add", ("variance", scaled(_epsilon(view))), "positive"),
        Operation("Sqrt", ("positive",), "deviation"),
        Operation("Div", ("centred", "deviation"), "normalised"),
    ]


def _parameters(view: View) -> tuple[int, int]:
    """Return the numbers of the inputs that hold gain and bias (0: it has none); two inputs are summed up where there is a skip."""
    gain = 2 if "Skip" in view.node.op else 1
    return gain, gain + 1 if view.has(gain + 1) else 0


def _per_channel(view: View, gain: int, bias: int) -> list[Operation]:
    """Return what brings gain and bias, one per channel, to the shape in which they broadcast; nothing where they do already."""
    if view.node.op not in PER_CHANNEL:
        return []
    shape = np.array([-1, *[1] * (view.rank() - 2)], np.int64)
    return [Operation("Reshape", (number, shape), name) for number, name in ((gain, "gain"), (bias, "shift"))]


def _epsilon(view: View) -> float:
    return float(view.attribute("epsilon", EPSILON[view.node.op.rpartition("::")[0]]))


def _mean(view: View, source: str | int, axes: Sequence[int], name: str) -> Operation:
    if view.facts.graph.versions.get("", 1) >= AXES_AS_INPUT:
        return Operation("ReduceMean", (source, np.array(axes, np.int64)), name)
    return Operation("ReduceMean", (source,), name, attributes={"axes": list(axes)})


def share_kept(view: View, cut: KeptPositions, prefix: str, axes: Iterable[int]) -> float:
    """Return the share that stays of the positions of some axes of the first input, whose letters are ``prefix`` and number.

    It is 1 where there is nothing to correct.
    """
    shape = view.shape(0)
    if not _correctable(view):
        return 1.0
    return math.prod(cut.letter(f"{prefix}{axis}") / shape[axis] for axis in axes)
