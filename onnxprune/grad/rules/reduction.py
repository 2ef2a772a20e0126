"""Reductions and running sums."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.grad.emitter import Emitter, Value
from onnxprune.grad.view import ForwardNode, Gradients, vjp


def _ratio(emit: Emitter, x: Value, reduced: Value) -> Value | float:
    """Return how many elements of ``x`` make one of ``reduced``."""
    if None not in x.sizes:
        count = 1.0
        for size, left in zip(x.shape, reduced.shape, strict=True):
            count *= size / left
        return count
    return emit("Cast", emit("Size", x), to=x.dtype) / emit("Cast", emit("Size", reduced), to=x.dtype)


def _ties(emit: Emitter, x: Value, y: Value, axes: list[int]) -> Value:
    """Return which elements attain the extreme, in equal parts."""
    hit = emit.cast(emit("Equal", x, y), x)
    return hit / emit.sum(hit, axes)


def _others(emit: Emitter, x: Value, axes: list[int]) -> Value:
    """Return for each element the product of all others on the reduced axes; exact where some are zero."""
    zero = emit("Equal", x, 0.0)
    filled = emit.where(zero, 1.0, x)
    product = emit("ReduceProd", filled, axes, keepdims=1)
    zeros = emit.sum(emit.cast(zero, x), axes)
    alone = emit.cast(emit("Equal", zeros, emit.cast(zero, x)), x)
    return product / filled * alone


FACTORS: dict[str, Callable[[Emitter, Value, Value, list[int]], Value | float]] = {
    "ReduceL1": lambda emit, x, y, axes: emit("Sign", x),
    "ReduceL2": lambda emit, x, y, axes: x / y,
    "ReduceLogSum": lambda emit, x, y, axes: emit("Exp", -y),
    "ReduceLogSumExp": lambda emit, x, y, axes: emit("Exp", x - y),
    "ReduceMax": _ties,
    "ReduceMean": lambda emit, x, y, axes: 1.0 / _ratio(emit, x, y),
    "ReduceMin": _ties,
    "ReduceProd": lambda emit, x, y, axes: _others(emit, x, axes),
    "ReduceSum": lambda emit, x, y, axes: 1.0,
    "ReduceSumSquare": lambda emit, x, y, axes: 2.0 * x,
}
"""Operator -> dy/dx from x and y, the latter with its reduced axes kept at size one."""


@vjp(*FACTORS)
def reduction(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    axes = node.axes()
    y = node.y
    if not node.attribute("keepdims", 1) and axes:
        g, y = emit("Unsqueeze", g, axes), emit("Unsqueeze", y, axes)
    factor = FACTORS[node.node.op](emit, node.x, y, axes)
    g = g if factor == 1.0 else g * factor
    return [emit.expand_like(g, node.x), *[None] * (len(node.inputs) - 1)]


@vjp("CumSum")
def running_sum(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    reverse = 1 - node.attribute("reverse", 0)
    return [emit("CumSum", g, node.inputs[1], exclusive=node.attribute("exclusive", 0), reverse=reverse), None]


@vjp("GlobalAveragePool")
def global_average(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [emit.expand_like(g / _ratio(emit, node.x, node.y), node.x)]


@vjp("GlobalMaxPool")
def global_maximum(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [g * _ties(emit, node.x, node.y, list(range(2, node.x.rank)))]


@vjp("GlobalLpPool")
def global_lp(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """y = (sum |x|^p)^(1/p): g x |x|^(p-2) y^(1-p)."""
    p = float(node.attribute("p", 2))
    return [g * node.y ** (1.0 - p) * emit("Sign", node.x) * emit("Abs", node.x) ** (p - 1.0)]
