"""One small residual network in all the forms that files come in, each with the rows that fit it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from support.networks import network

HEAD = """
a = Conv<pads=[1,1,1,1]>(x, %8x3x3x3, %8)
r = Relu(a)
b = Conv(r, %12x8x1x1, %12)
q = Relu(b)
"""
TAIL = """
c = Conv(q, %8x12x1x1, %8)
s = Add(r, c)
t = Relu(s)
p = GlobalAveragePool(t)
f = Flatten(p)
g = Gemm<transB=1>(f, %10x8, %10)
e = Relu(g)
y = Gemm<transB=1>(e, %4x10, %4)
"""


class Form(NamedTuple):
    """A model (or, made in a folder, the path of one), and calibration data for it; ``labels`` where rows have some."""

    model: Any
    data: Any
    labels: np.ndarray | None = None


def _rows(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *shape)).astype(np.float32)


def _labelled(model: Any, count: int = 12, size: int = 6) -> Form:
    return Form(model, _rows(count, 3, size, size), np.arange(count) % 4)


def _plain(
    batch: str = "n", head: str = HEAD, tail: str = TAIL, outputs: str = "float[] y", **settings: Any
) -> ModelProto:
    declared = outputs.replace("[]", f"[{batch},4]") if batch == "n" else outputs
    return network(head + tail, f"float[{batch},3,6,6] x", declared, opset=17, ir_version=9, **settings)


def _halved(model: ModelProto, dtype: int) -> ModelProto:
    """Return a float model in another float type, inputs and outputs included."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = dtype
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
    return model


def _external(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def _weight_out() -> ModelProto:
    model = _plain(head=HEAD.replace("%8x3x3x3", "w"), outputs="float[n,4] y, float[8,3,3,3] w")
    model.graph.initializer.append(numpy_helper.from_array(_rows(8, 3, 3, 3), "w"))
    return model


IF = """
n1 = ReduceMean<keepdims=0>(x)
k = Greater(n1, @0.0)
q2 = If (k) <
    then_branch = yes () => (u) { u = Relu(b) },
    else_branch = no () => (v) { v = Abs(b) }
>
"""
LOOP = """
q2 = Loop(@3, @true, b) <
    body = turn (int64 i, bool go, float[n,12,h,w] state) => (bool on, float[n,12,h,w] next)
    { on = Identity(go)
      next = Sigmoid(state) }
>
"""
RANDOM = "noise = RandomNormalLike<scale=0.01>(q)\nq2 = Add(q, noise)"
SEQUENCE = "parts = SplitToSequence<axis=0, keepdims=1>(q)\nq2 = ConcatFromSequence<axis=0>(parts)"


def _middle(body: str) -> Form:
    return _labelled(_plain(head=HEAD + body, tail=TAIL.replace("Conv(q,", "Conv(q2,")))


def _scalar_input() -> Form:
    model = network(HEAD + TAIL + "rated = Cast<to=1>(rate)\nz = Mul(y, rated)", "float[1,3,6,6] x, int64 rate", "float[1,4] z",
                    opset=17, ir_version=9)  # fmt: skip
    return Form(model, [{"x": row[None], "rate": np.int64(2)} for row in _rows(6, 3, 6, 6)])


def _sequences() -> Form:
    """Rows of many lengths beside a state that has none: rows are whole feeds."""
    body = "a = Conv(x, %12x4x3, %12)\nb = Relu(a)\nc = Conv(b, %8x12x3)\nd = GlobalAveragePool(c)\ny = Add(d, h)"
    model = network(body, "float[frames,4,10] x, float[1,8,1] h", "float[frames,8,1] y", opset=17, ir_version=9)
    return Form(model, [{"x": _rows(8 + i, 4, 10), "h": np.zeros((1, 8, 1), np.float32)} for i in range(6)])


def _folded() -> Form:
    """Steps are folded into the batch for a product, and taken out again."""
    body = """
    k = Reshape(x, @[-1, 8])
    a = Gemm(k, %8x12, %12)
    r = Relu(a)
    b = Gemm(r, %12x8, %8)
    c = Reshape(b, @[-1, 5, 8])
    s = Add(x, c)
    d = MatMul(s, %8x12)
    t = Tanh(d)
    y = MatMul(t, %12x4)
    """
    return Form(network(body, "float[n,5,8] x", "float[n,5,4] y", opset=17, ir_version=9), _rows(11, 5, 8))


def _recurrent(op: str = "LSTM", gates: int = 4) -> Form:
    body = f"""
    s = Transpose<perm=[1,0,2]>(x)
    h, last = {op}<hidden_size=6>(s, %1x{6 * gates}x3, %1x{6 * gates}x6, %1x{12 * gates})
    g = Squeeze(h, @[1])
    k = MatMul(g, %6x8)
    m = Relu(k)
    o = MatMul(m, %8x4)
    y = Transpose<perm=[1,0,2]>(o)
    """
    return Form(network(body, "float[n,5,3] x", "float[n,5,4] y", opset=17, ir_version=9), _rows(12, 5, 3))


def _attention() -> Form:
    """Attention of opset 23 on operands of rank 3, which takes its sizes from attributes."""
    body = """
    q = MatMul(x, %8x8)
    k = MatMul(x, %8x8)
    v = MatMul(x, %8x8)
    a = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)
    p = MatMul(a, %8x8)
    s = Add(x, p)
    h = MatMul(s, %8x12)
    r = Relu(h)
    y = MatMul(r, %12x4)
    """
    return Form(network(body, "float[n,5,8] x", "float[n,5,4] y", opset=23, ir_version=11), _rows(12, 5, 8))


def _einsum() -> Form:
    body = """
    h = Einsum<equation="nchw,oc->nohw">(x, %12x3)
    r = Relu(h)
    k = Einsum<equation="nchw,oc->nohw">(r, %8x12)
    t = Relu(k)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = Gemm<transB=1>(f, %4x8)
    """
    return _labelled(network(body, "float[n,3,6,6] x", "float[n,4] y", opset=17, ir_version=9))


FORMS: dict[str, Callable[[Path], Form]] = {
    "free batch": lambda folder: _labelled(_plain()),
    "fixed batch 1": lambda folder: _labelled(_plain("1")),
    "fixed batch 4": lambda folder: _labelled(_plain("4"), 13),
    "everything free": lambda folder: _labelled(
        network(HEAD + TAIL, "float[n,c,h,w] x", "float[n,k] y", opset=17, ir_version=9), size=5
    ),
    "external data": lambda folder: _labelled(_external(_plain(), folder)),
    "float16, external data": lambda folder: _labelled(_external(_halved(_plain(), TensorProto.FLOAT16), folder)),
    "bfloat16 weights": lambda folder: _labelled(_stored_as(TensorProto.BFLOAT16)),
    "int8 weights": lambda folder: _labelled(_stored_as(TensorProto.INT8)),
    "integer outputs": lambda folder: _labelled(
        _plain(tail=TAIL + "best = ArgMax<axis=1, keepdims=0>(y)", outputs="int64[n] best")
    ),
    "a weight is an output": lambda folder: _labelled(_weight_out()),
    "If": lambda folder: _middle(IF),
    "Loop": lambda folder: _middle(LOOP),
    "random numbers": lambda folder: _middle(RANDOM),
    "a sequence value": lambda folder: _middle(SEQUENCE),
    "the batch is folded": lambda folder: _folded(),
    "a scalar input": lambda folder: _scalar_input(),
    "rows are sequences": lambda folder: _sequences(),
    "LSTM": lambda folder: _recurrent("LSTM", 4),
    "GRU": lambda folder: _recurrent("GRU", 3),
    "RNN": lambda folder: _recurrent("RNN", 1),
    "Attention": lambda folder: _attention(),
    "Einsum": lambda folder: _einsum(),
}


def _stored_as(kind: int) -> ModelProto:
    """Matrices and kernels stored in another type, from which a node beside each makes floats."""
    model, nodes = _plain(), []
    for tensor in [t for t in model.graph.initializer if len(t.dims) > 1]:
        array, source = numpy_helper.to_array(tensor), f"{tensor.name}_stored"
        if kind == TensorProto.INT8:
            scale = numpy_helper.from_array(np.float32(abs(array).max() / 127), f"{tensor.name}_scale")
            model.graph.initializer.append(scale)
            nodes.append(onnx.helper.make_node("DequantizeLinear", [source, scale.name], [tensor.name]))
            array = np.round(array / numpy_helper.to_array(scale))
        else:
            nodes.append(onnx.helper.make_node("Cast", [source], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(array.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)), source))
    nodes += [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
