"""Pools over windows."""

from __future__ import annotations

import numpy as np
from onnx import helper

from onnxprune.grad.emitter import Emitter, Value
from onnxprune.grad.rules.convolution import ConvWindow, conv_transpose, cropped, window_of
from onnxprune.grad.view import ForwardNode, Gradients, vjp


@vjp("MaxPool")
def max_pool(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Add each output gradient at the place the operator's own Indices output names (flat over the whole input)."""
    node.refuse_unless(not node.attribute("storage_order", 0), "storage_order=1 numbers its indices by columns")
    indices = emit.reshape(node.indices(), [-1])
    size = emit("Size", node.x)
    flat = emit("Expand", emit.constant(np.zeros(1, g.numpy_type)), emit("Unsqueeze", size, [0]))
    added = emit("ScatterElements", flat, indices, emit.reshape(g, [-1]), axis=0, reduction="add")
    return [emit.reshape_like(added, node.x)]


@vjp("AveragePool")
def average_pool(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """Spread each gradient, divided by the number of elements averaged, over its window."""
    window = _window(node)
    return [_spread(emit, g * _reciprocal_counts(emit, node, window), node, window)]


@vjp("LpPool")
def lp_pool(emit: Emitter, node: ForwardNode, g: Value) -> Gradients:
    """y = (sum |x|^p)^(1/p): x |x|^(p-2) times the sum over windows of g y^(1-p)."""
    p = float(node.attribute("p", 2))
    spread = _spread(emit, g * node.y ** (1.0 - p), node, _window(node))
    return [spread * emit("Sign", node.x) * emit("Abs", node.x) ** (p - 1.0)]


def _window(node: ForwardNode) -> ConvWindow:
    """Return the window, its end pads widened to what ``ceil_mode`` can reach over."""
    window = window_of(node, node.attribute("kernel_shape"))
    if node.attribute("ceil_mode", 0):
        for axis, stride in enumerate(window.strides):
            size, out = node.x.sizes[axis + 2], node.y.sizes[axis + 2]
            reach = window.ends[axis] + stride - 1
            if size is not None and out is not None:
                reach = (out - 1) * stride + window.extent[axis] - size - window.begins[axis]
            window.ends[axis] = max(window.ends[axis], reach)
    return window


def _spread(emit: Emitter, g: Value, node: ForwardNode, window: ConvWindow) -> Value:
    """Add each value of ``g`` to every place of its window, one channel at a time."""
    dtype = g.numpy_type
    ones = emit.constant(np.ones((node.x.shape[1], 1, *window.kernel), dtype))
    return conv_transpose(emit, g, ones, node.x, window, node.x.shape[1])


def _reciprocal_counts(emit: Emitter, node: ForwardNode, window: ConvWindow) -> Value | float:
    """Return 1 / elements averaged per window: the operator's own average of ones over their sum.

    Padding counts or not, and windows reach over the edge or not, as the operator itself has it.
    """
    size = float(np.prod(window.kernel))
    if not any(window.pads) and not node.attribute("ceil_mode", 0):
        return 1 / size
    dtype = node.x.numpy_type
    spatial = node.x.dims()[2:]
    ones = emit("Expand", emit.constant(np.ones(1, dtype)), emit.vector([1, 1, *spatial]))
    attributes = {a.name: helper.get_attribute_value(a) for a in node.node.proto.attribute}
    average = emit("AveragePool", ones, **attributes)
    total = emit("Conv", ones, emit.constant(np.ones((1, 1, *window.kernel), dtype)), **window.attributes())
    return average / cropped(emit, total, average, range(2, average.rank))
