"""ONNX graphs interpreted by torch, a second and independent source of gradients; used by optional tests only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as tf
from onnx import ModelProto, helper, numpy_helper

Tensor = torch.Tensor
Attributes = dict[str, Any]


def gradients(
    model: ModelProto, feeds: Mapping[str, np.ndarray], wrt: list[str], loss: Callable[[Tensor], Tensor]
) -> dict[str, np.ndarray]:
    """Return d loss(first output) / d value for inputs and initializers."""
    values = stored(model) | {name: torch.tensor(array) for name, array in feeds.items()}
    leaves = [values[name].requires_grad_() for name in wrt]
    found = torch.autograd.grad(loss(run(model, values)), leaves, allow_unused=True)
    return {
        name: np.zeros(leaf.shape, np.float32) if g is None else g.numpy()
        for name, leaf, g in zip(wrt, leaves, found, strict=True)
    }


def stored(model: ModelProto) -> dict[str, Tensor]:
    """Return the initializers as tensors of their own."""
    return {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer}


def run(model: ModelProto, given: Mapping[str, Tensor]) -> Tensor:
    """Return the first output; raises KeyError for an operator that is not in ``OPERATORS``."""
    values = {"": None, **given}
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        outputs = OPERATORS[node.op_type](attributes, *(values[name] for name in node.input))
        outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
        values.update(zip(node.output, outputs, strict=False))
    result = values[model.graph.output[0].name]
    assert result is not None
    return result


def _window(a: Attributes, x: Tensor) -> Tensor:
    """Pad the spatial axes as the node asks for, with zeros."""
    pads = a.get("pads", [])
    half = len(pads) // 2
    flat = [p for axis in reversed(range(half)) for p in (pads[axis], pads[half + axis])]
    return tf.pad(x, flat) if any(flat) else x


def _conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    assert a.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    function = {3: tf.conv1d, 4: tf.conv2d, 5: tf.conv3d}[x.dim()]
    pads = a.get("pads", [0] * 2 * (x.dim() - 2))
    half = len(pads) // 2
    options = {"stride": a.get("strides", 1), "dilation": a.get("dilations", 1), "groups": a.get("group", 1)}
    if pads[:half] == pads[half:]:
        return function(x, w, b, padding=pads[:half], **options)
    return function(_window(a, x), w, b, **options)


def _conv_transpose(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    function = {3: tf.conv_transpose1d, 4: tf.conv_transpose2d, 5: tf.conv_transpose3d}[x.dim()]
    half = x.dim() - 2
    pads = a.get("pads", [0] * 2 * half)
    assert pads[:half] == pads[half:] and "output_shape" not in a
    extra = a.get("output_padding", [0] * half)
    return function(x, w, b, a.get("strides", 1), pads[:half], extra, a.get("group", 1), a.get("dilations", 1))


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    function = {3: tf.max_pool1d, 4: tf.max_pool2d}[x.dim()]
    half = x.dim() - 2
    pads = a.get("pads", [0] * 2 * half)
    assert pads[:half] == pads[half:]
    options = {"dilation": a.get("dilations", [1] * half), "ceil_mode": bool(a.get("ceil_mode", 0))}
    return function(x, a["kernel_shape"], a.get("strides", [1] * half), pads[:half], **options)


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    function = {3: tf.avg_pool1d, 4: tf.avg_pool2d}[x.dim()]
    half = x.dim() - 2
    pads = a.get("pads", [0] * 2 * half)
    assert pads[:half] == pads[half:]
    include = bool(a.get("count_include_pad", 0))
    return function(
        x, a["kernel_shape"], a.get("strides", [1] * half), pads[:half], bool(a.get("ceil_mode", 0)), include
    )


def _gemm(a: Attributes, x: Tensor, y: Tensor, c: Tensor | None = None) -> Tensor:
    x, y = (x.T if a.get("transA") else x), (y.T if a.get("transB") else y)
    product = a.get("alpha", 1.0) * (x @ y)
    return product if c is None else product + a.get("beta", 1.0) * c


def _slice(
    a: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
):
    places = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), places, strides, strict=True):
        positions = range(x.shape[axis])[start:end:step]
        x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.int64))
    return x


def _pad(a: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    amounts = pads.reshape(2, -1).tolist()
    assert axes is None
    flat = [p for axis in reversed(range(x.dim())) for p in (amounts[0][axis], amounts[1][axis])]
    mode = a.get("mode", b"constant").decode()
    if mode == "constant":
        return tf.pad(x, flat, value=0.0 if value is None else float(value))
    return tf.pad(x, flat[: 2 * (x.dim() - 2)], mode={"edge": "replicate"}.get(mode, mode))


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = a.get("axes") if axes is None else axes.tolist()
        return function(x, tuple(chosen) if chosen else tuple(range(x.dim())), bool(a.get("keepdims", 1)))

    return reduced


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[k] if n == 0 else n for k, n in enumerate(shape.tolist())])


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = a.get("axes") if axes is None else axes.tolist()
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = a["axes"] if axes is None else axes.tolist()
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if sizes is None:
        return torch.chunk(x, a["num_outputs"], axis)
    return torch.split(x, sizes.tolist(), axis)


def _gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    flat = x.index_select(axis, indices.reshape(-1) % x.shape[axis])
    return flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return tf.layer_norm(x, x.shape[a.get("axis", -1) % x.dim() :], scale, bias, a.get("epsilon", 1e-5))


def _cast(a: Attributes, x: Tensor) -> Tensor:
    return x.to(torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(a["to"]))).dtype)


def _fill(a: Attributes, shape: Tensor) -> Tensor:
    fill = numpy_helper.to_array(a["value"]) if "value" in a else np.zeros(1, np.float32)
    return torch.tensor(fill).reshape(()).expand(shape.tolist()).clone()


def _constant(a: Attributes) -> Tensor:
    (value,) = a.values()
    return torch.tensor(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value))


def _shape(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end")], dtype=torch.int64)


def _batch_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if a.get("training_mode"):
        axes = [0, *range(2, x.dim())]
        mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    scale, bias, mean, variance = (p.reshape(-1, *[1] * (x.dim() - 2)) for p in (scale, bias, mean, variance))
    return (x - mean) * scale / torch.sqrt(variance + a.get("epsilon", 1e-5)) + bias


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clip(x, low, high) if low is not None or high is not None else x


def _mean_over_places(a: Attributes, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def _divide(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda a, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda a, x, y: function(x, y)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _fill,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _unary(torch.cos),
    "DepthToSpace": lambda a, x: tf.pixel_shuffle(x, a["blocksize"]) if a.get("mode") == b"CRD" else _absent(),
    "Div": _divide,
    "Einsum": lambda a, *xs: torch.einsum(a["equation"].decode(), *xs),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": lambda a, x, shape: x.expand(torch.broadcast_shapes(x.shape, shape.tolist())),
    "Flatten": lambda a, x: x.reshape(int(np.prod(x.shape[: a.get("axis", 1)])), -1),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _mean_over_places,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": lambda a, x: torch.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1),
    "HardSwish": _unary(tf.hardswish),
    "Identity": _unary(lambda x: x),
    "InstanceNormalization": lambda a, x, w, b: tf.instance_norm(x, weight=w, bias=b, eps=a.get("epsilon", 1e-5)),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: tf.leaky_relu(x, a.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": lambda a, x: torch.log_softmax(x, a.get("axis", -1)),
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "PRelu": lambda a, x, slope: torch.where(x > 0, x, x * slope),
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "Range": lambda a, start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: torch.sum(x, axes, keep)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sin": _unary(torch.sin),
    "Slice": _slice,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Softplus": _unary(tf.softplus),
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Tile": lambda a, x, repeats: x.repeat(repeats.tolist()),
    "Transpose": lambda a, x: x.permute(a.get("perm", list(range(x.dim()))[::-1])),
    "Unsqueeze": _unsqueeze,
    "Where": lambda a, c, x, y: torch.where(c, x, y),
}


def _absent() -> Tensor:
    raise KeyError("DepthToSpace in DCR mode")
