"""Normalisations and softmax.

With xhat the standardised input and s the reciprocal standard deviation, the gradient of xhat's input for an incoming h
is s (h - mean(h) - xhat mean(h xhat)), the means over the axes of the statistics (Ioffe and Szegedy 2015, section 3).
"""

from __future__ import annotations

import numpy as np

from onnxprune.grad.emitter import Emitter, Value
from onnxprune.grad.view import ForwardNode, Gradients, vjp

EPSILON, SKIP_EPSILON, MVN_EPSILON = 1e-5, 1e-12, 1e-9
"""Defaults of the operators; MeanVarianceNormalization has its own fixed one."""


def standardise(emit: Emitter, x: Value, axes: list[int], epsilon: float, centred: bool = True) -> tuple[Value, Value]:
    """Return the standardised input and the reciprocal standard deviation (without ``centred``: root mean square)."""
    if centred:
        x = x - emit.mean(x, axes)
    inverse = 1.0 / emit("Sqrt", emit.mean(x * x, axes) + epsilon)
    return x * inverse, inverse


def standardised(emit: Emitter, xhat: Value, inverse: Value, h: Value, axes: list[int], centred: bool = True) -> Value:
    """Return the gradient of the input of ``standardise`` for the gradient ``h`` of its first result."""
    inner = h - xhat * emit.mean(h * xhat, axes)
    return (inner - emit.mean(h, axes) if centred else inner) * inverse


def _channelwise(emit: Emitter, parameter: Value, rank: int) -> Value:
    """Reshape a parameter over channels so that it broadcasts against (n, c, *)."""
    return emit("Unsqueeze", parameter, list(range(1, rank - 1))) if rank > 2 else parameter


def _per_channel(emit: Emitter, x: Value) -> Value:
    return emit.sum(x, [0, *range(2, x.rank)], keepdims=False)


@vjp("BatchNormalization", all_outputs=True)
def batch_norm(emit: Emitter, node: ForwardNode, g: Value | None, *rest: Value | None) -> Gradients:
    """y = (x - mean) scale / sqrt(var + epsilon) + bias, with running statistics or, in training mode, those of x."""
    node.refuse_unless(g is not None and not any(rest), "only the gradient through its first output has a rule")
    assert g is not None
    x, scale, _, mean, variance = node.inputs
    epsilon = node.attribute("epsilon", EPSILON)
    if node.attribute("training_mode", 0):
        axes = [0, *range(2, x.rank)]
        xhat, inverse = standardise(emit, x, axes, epsilon)
        dx = standardised(emit, xhat, inverse, g * _channelwise(emit, scale, x.rank), axes)
        return [dx, _per_channel(emit, g * xhat), _per_channel(emit, g), None, None]
    inverse = 1.0 / emit("Sqrt", variance + epsilon)
    factor = scale * inverse
    dbias = _per_channel(emit, g)
    centred = _per_channel(emit, g * (x - _channelwise(emit, mean, x.rank)))
    return [
        g * _channelwise(emit, factor, x.rank),
        centred * inverse,
        dbias,
        -(dbias * factor),
        -0.5 * centred * factor * inverse * inverse,
    ]


@vjp("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Scale and bias have the shape of the normalised axes, or broadcast to it."""
    centred = node.node.op == "LayerNormalization"
    x, scale, *bias = node.inputs
    axes = list(range(node.axis(-1), x.rank))
    xhat, inverse = standardise(emit, x, axes, node.attribute("epsilon", EPSILON), centred)
    return [standardised(emit, xhat, inverse, g * scale, axes, centred), g * xhat, *([g] * len(bias))]


@vjp("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization", all_outputs=True)
def skip_layer_norm(emit: Emitter, node: ForwardNode, g: Value | None, *rest: Value | None) -> Gradients:
    """A layer normalisation of input + skip + bias, which is also output 3."""
    centred = node.node.op.endswith("SkipLayerNormalization")
    x, skip, scale, *others = node.inputs
    total = x + skip
    bias = others[-1] if len(others) == 1 + centred else None
    total = total if bias is None else total + bias
    g = emit.zeros_like(total) if g is None else g
    xhat, inverse = standardise(emit, total, [-1], node.attribute("epsilon", SKIP_EPSILON), centred)
    dx = standardised(emit, xhat, inverse, g * scale, [-1], centred)
    if len(rest) > 2 and rest[2] is not None:
        dx = dx + rest[2]
    return [dx, dx, g * xhat, *([g] * centred), dx][: len(node.inputs)]


@vjp("InstanceNormalization")
def instance_norm(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    x, scale, _ = node.inputs
    axes = list(range(2, x.rank))
    xhat, inverse = standardise(emit, x, axes, node.attribute("epsilon", EPSILON))
    dx = standardised(emit, xhat, inverse, g * _channelwise(emit, scale, x.rank), axes)
    return [dx, _per_channel(emit, g * xhat), _per_channel(emit, g)]


@vjp("GroupNormalization")
def group_norm(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Scale and bias are per channel (the form per group, of opset 18, is deprecated and refused by the checker)."""
    x, scale, _ = node.inputs
    groups, channels = node.attribute("num_groups"), x.shape[1]
    grouped = [0, groups, channels // groups, -1]
    scale = emit.reshape(scale, [1, groups, channels // groups, 1])
    xhat, inverse = standardise(emit, emit.reshape(x, grouped), [2, 3], node.attribute("epsilon", EPSILON))
    g = emit.reshape(g, grouped)
    dx = standardised(emit, xhat, inverse, g * scale, [2, 3])
    dscale, dbias = (emit.reshape(emit.sum(part, [0, 3]), [channels]) for part in (g * xhat, g))
    return [emit.reshape_like(dx, x), dscale, dbias]


@vjp("MeanVarianceNormalization")
def mean_variance_norm(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    axes = list(node.attribute("axes", [0, 2, 3]))
    xhat, inverse = standardise(emit, node.x, axes, MVN_EPSILON)
    return [standardised(emit, xhat, inverse, g, axes)]


@vjp("LpNormalization")
def lp_norm(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """y = x / |x|: (g - direction sum(g y)) / |x|, with the direction y for p = 2 and sign(x) for p = 1."""
    x, axis, p = node.x, node.axis(-1), node.attribute("p", 2)
    norm = emit(f"ReduceL{p}", x, [axis], keepdims=1)
    direction = node.y if p == 2 else emit("Sign", x)
    return [(g - direction * emit.sum(g * node.y, [axis])) / norm]


@vjp("LRN")
def local_response_norm(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """y = x s^-beta with s = bias + alpha / size * (x^2 summed over the neighbouring channels)."""
    x, size = node.x, node.attribute("size")
    alpha, beta, bias = node.attribute("alpha", 1e-4), node.attribute("beta", 0.75), node.attribute("bias", 1.0)
    channels = np.arange(x.shape[1])
    offset = channels[None] - channels[:, None]
    band = (offset >= -((size - 1) // 2)) & (offset <= size // 2)
    near = emit.constant(band.astype(x.numpy_type))

    def summed(matrix: Value, values: Value) -> Value:
        return emit.reshape_like(matrix @ emit.reshape(values, [0, x.shape[1], -1]), x)

    s = summed(near, x * x) * (alpha / size) + bias
    back = summed(emit.swap(near), g * x * s ** (-beta - 1.0))
    return [g * s**-beta - x * back * (2 * alpha * beta / size)]


@vjp("Softmax")
def softmax(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    weighted = g * node.y
    return [weighted - node.y * emit.sum(weighted, [node.axis(-1)])]


@vjp("LogSoftmax")
def log_softmax(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    return [g - emit("Exp", node.y) * emit.sum(g, [node.axis(-1)])]
