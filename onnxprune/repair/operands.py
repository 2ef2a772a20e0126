"""What linear nodes multiply, whatever their operator computes with: the float value, the weight, the bias, and the product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from onnxprune.evidence.sites import CONVOLUTIONS
from onnxprune.model.graph import Node
from onnxprune.repair.stored import Encoding, IntegerGrid, Stored, is_float, limits

ROUND = frozenset({"Cast", "Floor", "Round", "Reshape", "Unsqueeze"})  # on the way of a bias to integers


class Steps(NamedTuple):
    """Integers of a value, which stand for ``(q - zero) * scale``; ``rectified``: nothing below zero can be said with them."""

    scale: float
    zero: float
    rectified: bool = False

    def read(self, integers: np.ndarray) -> np.ndarray:
        """Return float32 of the same shape."""
        return (integers.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Operands:
    """A node that gives ``output``: ``source`` times ``weight`` plus ``own`` (None: no bias, or one that is not stored).

    ``reads``, ``gives``: what the integers of source and output stand for (None: they are floats). ``fixed``: whether there is a
    bias that cannot be changed, because others read it too or it is not stored.
    """

    source: str
    weight: Encoding
    output: str
    own: Encoding | None = None
    reads: Steps | None = None
    gives: Steps | None = None
    fixed: bool = False


def operands_of(node: Node, stored: Stored) -> Operands | None:
    """Return the operands of a node that multiplies by a weight that is its own; None where it does not."""
    form = FORMS.get(node.op)
    return form(node, stored) if form is not None else None


def floats_of(node: Node, stored: Stored, place: int = 1) -> Operands | None:
    """Return the operands of a node of floats whose weight is input ``place``, its value the other one of the first two, its bias the third."""
    weight, bias = stored.encoding(node.input(place)), node.input(2)
    if weight is None:
        return None
    own = stored.encoding(bias, reshaped=True)
    fixed = bool(bias) and own is None
    own = stored.encoding(bias, reshaped=True, alone=False) if fixed else own
    return Operands(node.inputs[1 - place], weight, node.outputs[0], own, fixed=fixed)


def _floats(node: Node, stored: Stored) -> Operands | None:
    return None if len(node.inputs) > 3 else floats_of(node, stored)


# --- integers times integers, rescaled by what follows ----------------------------------------------------------------


def _integers(node: Node, stored: Stored) -> Operands | None:
    """ConvInteger or MatMulInteger of what DynamicQuantizeLinear gives, up to the product with the scale that it found."""
    maker = stored.graph.producer.get(node.input(0))
    if maker is None or maker.op != "DynamicQuantizeLinear":
        return None
    if (node.input(0), node.input(2)) != (maker.outputs[0], maker.outputs[2]):
        return None
    found = _rescaled(stored, node, maker.outputs[1])
    if found is None:
        return None
    output, factors, added = found
    others = [factor for factor in factors if factor != maker.outputs[1]]
    weight = _integer_operand(stored, node, 1, others, node.input(3))
    own = _added(stored, added, factors) if added else None
    if weight is None or (added and own is None) or not _per_channel(stored, node, others):
        return None
    return Operands(maker.inputs[0], weight, output, own)


def _rescaled(stored: Stored, node: Node, scale: str) -> tuple[str, list[str], str] | None:
    """Follow a product of integers to where it has been multiplied by ``scale``.

    Returns the value there, the names of all factors, and the value that was added to the integers ("": none).
    """
    value, added = node.outputs[0], ""
    factors: list[str] = []
    while scale not in factors:
        use = stored.sole_user(value)
        if use is None:
            return None
        user, position = use
        if user.op == "Mul":
            factors += stored.factors(user.inputs[1 - position])
        elif user.op == "Add" and not added and not factors:
            added = user.inputs[1 - position]
        elif user.op != "Cast":
            return None
        value = user.outputs[0]
    return value, factors, added


def _added(stored: Stored, name: str, factors: list[str]) -> Encoding | None:
    """Return the stored bias that was divided by the ``factors`` and rounded before it was added to integers."""
    maker = stored.graph.producer.get(name)
    while maker is not None and maker.op in ROUND and stored.belongs_to_one(name):
        name = maker.inputs[0]
        maker = stored.graph.producer.get(name)
    if maker is None or maker.op != "Div" or sorted(stored.factors(maker.inputs[1])) != sorted(factors):
        return None
    return stored.encoding(maker.inputs[0], reshaped=True)


def _per_channel(stored: Stored, node: Node, factors: list[str]) -> bool:
    """Whether the factors of a product have one value each, or one per channel of the output."""
    weight = stored.arrays[node.inputs[1]]
    channels, rank = weight.shape[_channel_axis(node, weight)], weight.ndim
    axis = 1 if node.op in CONVOLUTIONS else rank - 1
    return all(stored.vector(factor, channels, axis, rank) is not None for factor in factors)


def _integer_operand(stored: Stored, node: Node, place: int, scales: Sequence[str], zero: str) -> Encoding | None:
    """Return how the integers at an input are stored whose scale is the product of some constants, by name.

    Scales and zero point ("": none) have one value, or one per output channel.
    """
    name, array = node.input(place), stored.arrays.get(node.input(place))
    if array is None or is_float(array) or not stored.belongs_to_one(name) or (zero and zero not in stored.arrays):
        return None
    axis = _channel_axis(node, array) if array.ndim > 1 else 0
    factors = [stored.content(scale) for scale in scales]
    known = [factor.astype(np.float64).reshape(-1) for factor in factors if factor is not None]
    if len(known) < len(factors) or not {factor.size for factor in known} <= {1, array.shape[axis]}:
        return None
    scale = reduce(np.multiply, known, np.ones(1))
    return Encoding(name, IntegerGrid.of(scale, stored.arrays[zero] if zero else None, array.ndim, axis))


def _channel_axis(node: Node, weight: np.ndarray) -> int:
    """The axis of a weight that makes the output's channels."""
    return 0 if node.op in CONVOLUTIONS or node.attribute("transB", 0) else weight.ndim - 1


# --- scales among the operands ----------------------------------------------------------------------------------------


class Places(NamedTuple):
    """At which inputs of an operator the bias and the scale of the output stand (-1: there is no bias)."""

    bias: int
    scale: int


LINEAR_PLACES = {
    "QLinearConv": Places(8, 6),
    "com.microsoft::QLinearConv": Places(8, 6),
    "QLinearMatMul": Places(-1, 6),
    "com.microsoft::QGemm": Places(6, 7),
}
"""Operators whose first six inputs are value, its scale and zero point, weight, its scale and zero point."""


def _linear(node: Node, stored: Stored) -> Operands | None:
    places = LINEAR_PLACES[node.op]
    reads, gives = _steps(stored, node, 1), _steps(stored, node, places.scale)
    floats = not node.input(places.scale)
    weight = _integer_operand(stored, node, 3, [node.input(4)], node.input(5))
    if weight is None or reads is None or (gives is None and not floats) or node.attribute("channels_last", 0):
        return None
    bias = node.input(places.bias) if places.bias >= 0 else ""
    own = _integer_operand(stored, node, places.bias, [node.input(1), node.input(4)], "") if bias else None
    if (bias and own is None) or node.attribute("alpha", 1.0) != 1.0:
        return None
    return Operands(node.inputs[0], weight, node.outputs[0], own, reads, gives)


def _steps(stored: Stored, node: Node, place: int) -> Steps | None:
    """Return what the integers of a value stand for whose scale is input ``place``, and its zero point the next."""
    scale, name = stored.number(node.input(place)), node.input(place + 1)
    zero = stored.number(name) if name else 0.0
    if scale is None or zero is None:
        return None
    return Steps(scale, zero, zero == (limits(stored.arrays[name].dtype)[0] if name else 0))


# --- integers inside ---------------------------------------------------------------------------------------------------


class Fused(NamedTuple):
    """At which inputs scale and zero point of the weight (input 1) and the bias stand."""

    scale: int
    zero: int
    bias: int


FUSED_PLACES = {
    "com.microsoft::DynamicQuantizeMatMul": Fused(2, 3, 4),
    "com.microsoft::MatMulIntegerToFloat": Fused(3, 5, 6),
}


def _fused(node: Node, stored: Stored) -> Operands | None:
    places, source = FUSED_PLACES[node.op], node.inputs[0]
    if node.op == "com.microsoft::MatMulIntegerToFloat":
        maker = stored.graph.producer.get(source)
        if maker is None or maker.op != "DynamicQuantizeLinear" or node.input(2) != maker.outputs[1]:
            return None
        source = maker.inputs[0]
    weight = _integer_operand(stored, node, 1, [node.input(places.scale)], node.input(places.zero))
    bias = node.input(places.bias)
    own = stored.encoding(bias) if bias else None
    return None if weight is None or (bias and own is None) else Operands(source, weight, node.outputs[0], own)


FORMS: dict[str, Callable[[Node, Stored], Operands | None]] = {
    "Conv": _floats,
    "Gemm": _floats,
    "MatMul": _floats,
    "ConvInteger": _integers,
    "MatMulInteger": _integers,
    **dict.fromkeys(LINEAR_PLACES, _linear),
    **dict.fromkeys(FUSED_PLACES, _fused),
}
"""Operator -> how its operands are found."""
