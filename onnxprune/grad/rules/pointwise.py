"""Pointwise operators. The driver sums gradients back over broadcast axes, so no rule knows of broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import TensorProto

from onnxprune.grad.emitter import Emitter, Unsupported, Value
from onnxprune.grad.view import FloatMap, ForwardNode, Gradients, vjp

LEAKY, ELU, CELU, THRESHOLD = 0.01, 1.0, 1.0, 1.0
SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
SQRT_2, SQRT_PI, SQRT_2_PI = math.sqrt(2), math.sqrt(math.pi), math.sqrt(2 * math.pi)
TANH_GELU = 0.044715
STEEP = 3e38  # of a HardSigmoid that is a step

# --- one input: the derivative from x and y -------------------------------------------------------------------------


def _gelu(emit: Emitter, x: Value) -> Value:
    """Phi(x) + x phi(x), with Phi and phi the distribution and density of the normal distribution."""
    return 0.5 * (1.0 + emit("Erf", x * (1 / SQRT_2))) + x * emit("Exp", -0.5 * x * x) * (1 / SQRT_2_PI)


def _tanh_gelu(emit: Emitter, x: Value) -> Value:
    scale = math.sqrt(2 / math.pi)
    t = emit("Tanh", scale * x * (1.0 + TANH_GELU * x * x))
    return 0.5 * (1.0 + t) + 0.5 * scale * x * (1.0 - t * t) * (1.0 + 3 * TANH_GELU * x * x)


def _swish(emit: Emitter, x: Value, alpha: float) -> Value:
    s = emit("Sigmoid", alpha * x)
    return s * (1.0 + alpha * x * (1.0 - s))


def _mish(emit: Emitter, x: Value) -> Value:
    t = emit("Tanh", emit("Softplus", x))
    return t + x * emit("Sigmoid", x) * (1.0 - t * t)


def _hard_swish(emit: Emitter, x: Value) -> Value:
    return emit.where(x > -3.0, emit.where(x < 3.0, x * (1 / 3) + 0.5, 1.0), 0.0)


def _hard_sigmoid(emit: Emitter, y: Value, alpha: float) -> Value:
    return emit.where(y > 0.0, emit.where(y < 1.0, emit.filled_like(y, alpha), 0.0), 0.0)


def _softsign(emit: Emitter, x: Value) -> Value:
    d = 1.0 + emit("Abs", x)
    return 1.0 / (d * d)


def positive(emit: Emitter, y: Value) -> Value:
    """Return 1 where a value is above 0, else 0: one pass of a vectorised kernel, where Sign takes four times as long."""
    if y.dtype != TensorProto.FLOAT:
        return emit("Sign", emit("Relu", y))
    return emit("HardSigmoid", emit.stop(y), alpha=STEEP, beta=0.0)


DERIVATIVES: dict[str, Callable[[Emitter, ForwardNode], Value]] = {
    "Abs": lambda emit, n: emit("Sign", n.x),
    "Acos": lambda emit, n: -1.0 / emit("Sqrt", 1.0 - n.x * n.x),
    "Acosh": lambda emit, n: 1.0 / emit("Sqrt", n.x * n.x - 1.0),
    "Asin": lambda emit, n: 1.0 / emit("Sqrt", 1.0 - n.x * n.x),
    "Asinh": lambda emit, n: 1.0 / emit("Sqrt", n.x * n.x + 1.0),
    "Atan": lambda emit, n: 1.0 / (1.0 + n.x * n.x),
    "Atanh": lambda emit, n: 1.0 / (1.0 - n.x * n.x),
    "Cos": lambda emit, n: -emit("Sin", n.x),
    "Cosh": lambda emit, n: emit("Sinh", n.x),
    "Erf": lambda emit, n: emit("Exp", -(n.x * n.x)) * (2 / SQRT_PI),
    "Exp": lambda emit, n: n.y,
    "Gelu": lambda emit, n: (_tanh_gelu if n.attribute("approximate") == "tanh" else _gelu)(emit, n.x),
    "HardSigmoid": lambda emit, n: _hard_sigmoid(emit, n.y, n.attribute("alpha", 0.2)),
    "HardSwish": lambda emit, n: _hard_swish(emit, n.x),
    "Log": lambda emit, n: 1.0 / n.x,
    "Mish": lambda emit, n: _mish(emit, n.x),
    "Reciprocal": lambda emit, n: -(n.y * n.y),
    "Sigmoid": lambda emit, n: n.y * (1.0 - n.y),
    "Sin": lambda emit, n: emit("Cos", n.x),
    "Sinh": lambda emit, n: emit("Cosh", n.x),
    "Softplus": lambda emit, n: emit("Sigmoid", n.x),
    "Softsign": lambda emit, n: _softsign(emit, n.x),
    "Sqrt": lambda emit, n: 0.5 / n.y,
    "Swish": lambda emit, n: _swish(emit, n.x, n.attribute("alpha", 1.0)),
    "Tan": lambda emit, n: 1.0 + n.y * n.y,
    "Tanh": lambda emit, n: 1.0 - n.y * n.y,
    "com.microsoft::Gelu": lambda emit, n: _gelu(emit, n.x),
    "com.microsoft::QuickGelu": lambda emit, n: _swish(emit, n.x, n.attribute("alpha", 1.702)),
}
"""Operator -> its derivative dy/dx."""

PIECEWISE: dict[str, FloatMap] = {
    "Celu": lambda emit, n, g: emit.where(n.y > 0.0, g, g * (n.y * (1 / n.attribute("alpha", CELU)) + 1.0)),
    "Elu": lambda emit, n, g: emit.where(n.y > 0.0, g, g * (n.y + n.attribute("alpha", ELU))),
    "Identity": lambda emit, n, g: g,
    "LeakyRelu": lambda emit, n, g: emit.where(n.x > 0.0, g, g * n.attribute("alpha", LEAKY)),
    "Neg": lambda emit, n, g: -g,
    "Relu": lambda emit, n, g: g * positive(emit, n.y),
    "Selu": lambda emit, n, g: _selu(emit, n, g),
    "Shrink": lambda emit, n, g: emit.where(emit("Abs", n.x) > n.attribute("lambd", 0.5), g, 0.0),
    "ThresholdedRelu": lambda emit, n, g: emit.where(n.x > n.attribute("alpha", THRESHOLD), g, 0.0),
}
"""Operator -> gradient of x from that of y, where it is cheaper than a product with the derivative."""


def _selu(emit: Emitter, node: ForwardNode, g: Value) -> Value:
    alpha, gamma = node.attribute("alpha", SELU_ALPHA), node.attribute("gamma", SELU_GAMMA)
    return emit.where(node.y > 0.0, g * gamma, g * (node.y + alpha * gamma))


def _register_tables() -> None:
    for op, derivative in DERIVATIVES.items():
        vjp(op)(lambda emit, node, g, derivative=derivative: [g * derivative(emit, node)])
    for op, gradient in PIECEWISE.items():
        vjp(op)(lambda emit, node, g, gradient=gradient: [gradient(emit, node, g)])


_register_tables()


# --- several inputs -------------------------------------------------------------------------------------------------


@vjp("Add")
def add(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [g, g]


@vjp("Sub")
def subtract(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [g, -g]


@vjp("Mul")
def multiply(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    a, b = node.inputs
    return [g * b, g * a]


@vjp("Div")
def divide(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    quotient = g / node.inputs[1]
    return [quotient, -(quotient * node.y)]


@vjp("Pow")
def power(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """x: p x^(p-1); p: y ln x, taken as 0 where x <= 0."""
    x, exponent = node.inputs
    p = emit.cast(exponent, x)
    log = emit("Log", emit.where(x > 0.0, x, 1.0))
    return [g * p * x ** (p - 1.0), g * node.y * log]


@vjp("Mod")
def modulo(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """y = x - q divisor, with a quotient q that is constant almost everywhere."""
    x, divisor = node.inputs
    return [g, emit("Div", g * (node.y - x), divisor)]


@vjp("Sum")
def sum_of(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [g] * len(node.inputs)


@vjp("Mean")
def mean_of(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [g * (1 / len(node.inputs))] * len(node.inputs)


@vjp("Max", "Min")
def extreme_of(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """The gradient goes to the inputs that attain the extreme, in equal parts."""
    hits = [emit.cast(emit("Equal", value, node.y), g) for value in node.inputs]
    share = g / emit("Sum", *hits)
    return [share * hit for hit in hits]


@vjp("Clip")
def clip(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    low, high = node.input(1), node.input(2)
    inside, below, above = g, None, None
    if low is not None:
        outside = node.x < low
        inside, below = emit.where(outside, 0.0, inside), emit.where(outside, g, 0.0)
    if high is not None:
        outside = node.x > high
        inside, above = emit.where(outside, 0.0, inside), emit.where(outside, g, 0.0)
    return [inside, below, above][: len(node.inputs)]


@vjp("PRelu")
def prelu(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    x, slope = node.inputs
    return [emit.where(x > 0.0, g, g * slope), emit.where(x > 0.0, 0.0, g * x)]


@vjp("Where")
def where(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    condition = node.x
    return [None, emit.where(condition, g, 0.0), emit.where(condition, 0.0, g)]


@vjp("Cast", "CastLike")
def cast(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [emit("Cast", g, to=node.x.dtype), *[None] * (len(node.inputs) - 1)]


@vjp("Dropout", all_outputs=True)
def dropout(emit: Emitter, node: ForwardNode, g: Value | None, *mask: None) -> Gradients:
    training = node.input(2)
    if training is not None and (training.array is None or training.array.any()):
        raise Unsupported("it is in training mode")
    return [g, *[None] * (len(node.inputs) - 1)]


@vjp("com.microsoft::BiasGelu", "com.microsoft::FastGelu")
def bias_gelu(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    derivative = _gelu if node.node.op.endswith("BiasGelu") else _tanh_gelu
    bias = node.input(1)
    gradient = g * derivative(emit, node.x if bias is None else node.x + bias)
    return [gradient] * len(node.inputs)
