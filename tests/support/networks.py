"""Small networks in ONNX text, with a short notation for the tensors they need.

``%6x3`` is a stored float tensor of that shape with random content, ``%+6`` a positive one, ``%`` a scalar;
``@[0, -1]`` and ``@2`` are stored int64 tensors, ``@0.5`` and ``@[1., 2.]`` float ones, ``@true`` a flag. A suffix sets
the type: ``%6:float16``, ``@3:int32``. A line ``w = %6x3`` names a tensor; others are called t1, t2, ... in order.
"""

from __future__ import annotations

import ast
import re
import zlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

DEFAULT_OPSET = 21
_NUMBER = r"-?(?:[\d.]+(?:e-?\d+)?|true|false)"
_LITERAL = re.compile(
    rf"%(?P<sign>\+?)(?P<shape>[\dx]*)(?::(?P<type>\w+))?|@(?P<value>\[(?:[^\[\]]|\[[^\[\]]*\])*\]|{_NUMBER})(?::(?P<kind>\w+))?"
)
_NAMED = re.compile(r"^\s*(\w+)\s*=\s*([%@].*?);?\s*$")


def network(
    body: str,
    inputs: str = "float[2,3,4,4] x",
    outputs: str = "float[] y",
    *,
    opset: int = DEFAULT_OPSET,
    domains: dict[str, int] | None = None,
    functions: str = "",
    ir_version: int = 10,
    seed: int = 0,
) -> ModelProto:
    """Return the model of ONNX text lines ``body``; output shapes are inferred where ``outputs`` does not give them."""
    tensors: list[TensorProto] = []
    rng = np.random.default_rng([seed, zlib.crc32(body.encode())])
    lines = []
    for line in body.replace(";", "\n").splitlines():
        if match := _NAMED.match(line):
            tensors.append(_literal(_LITERAL.fullmatch(match[2]), match[1], rng))
        elif line.strip():
            lines.append(_LITERAL.sub(lambda found: _store(found, tensors, rng), line.strip()))
    opsets = {"": opset, **(domains or {})}
    imports = ", ".join(f'"{domain}" : {version}' for domain, version in opsets.items())
    header = f"<ir_version: {ir_version}, opset_import: [{imports}]>"
    model = onnx.parser.parse_model(
        f"{header}\nnet ({inputs}) => ({outputs}) {{\n" + "\n".join(lines) + f"\n}}\n{functions}"
    )
    model.graph.initializer.extend(tensors)
    _declare_outputs(model)
    return model


def unseen_model() -> ModelProto:
    """Inside a loop a branch that is taken only where a sum is above a billion: nobody sees what it does."""
    text = (
        "w1 = %3x8\nm = MatMul(x, w1)\nr = Relu(m)\nw2 = %8x8\nw3 = %8x3\n"
        "y = Loop(@2, @true, x) <body = b (int64 i, bool k, float[2,3] v) => (bool k2, float[2,3] v2) { k2 = Identity(k)\n"
        "h = ReduceSum<keepdims=0>(v)\nc = Greater(h, @1000000000.)\n"
        "v2 = If(c) <then_branch = t () => (float[2,3] a) { u = MatMul(r, w2)\na = MatMul(u, w3) }, "
        "else_branch = e () => (float[2,3] d) { d = Neg(v) }> }>"
    )
    return network(text, "float[2,3] x", "float[2,3] y")


def _store(found: re.Match, tensors: list[TensorProto], rng: np.random.Generator) -> str:
    name = f"t{len(tensors) + 1}"
    tensors.append(_literal(found, name, rng))
    return name


def _literal(found: re.Match | None, name: str, rng: np.random.Generator) -> TensorProto:
    assert found is not None, f"{name}: not a tensor literal"
    if found["value"] is not None:
        return _tensor(_value(found["value"]), found["kind"], name)
    shape = tuple(int(n) for n in found["shape"].split("x") if n)
    magnitude = rng.uniform(0.3, 1.2, shape)
    if found["type"] in ("int8", "uint8", "int32", "int64"):
        low = 0 if found["type"] == "uint8" else -20
        return _tensor(rng.integers(low, 20, shape), found["type"], name)
    sign = 1 if found["sign"] else rng.choice([-1, 1], shape)
    return _tensor(np.asarray(magnitude * sign, np.float32), found["type"], name)


def _value(text: str) -> np.ndarray:
    value = np.asarray(ast.literal_eval(text.replace("true", "True").replace("false", "False")))
    return (
        value
        if value.dtype == bool
        else value.astype(np.float32 if value.dtype.kind == "f" and value.size else np.int64)
    )


def _tensor(array: np.ndarray, kind: str | None, name: str) -> TensorProto:
    if kind:
        array = array.astype(helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind.upper())))
    return numpy_helper.from_array(array, name)


def _declare_outputs(model: ModelProto) -> None:
    """Take undeclared output shapes from shape inference, and where that cannot tell, from a run."""
    found = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    for value, inferred in zip(model.graph.output, found, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(inferred)
    open_ended = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    if open_ended:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        arrays = session.run([value.name for value in open_ended], feeds(model))
        for value, array in zip(open_ended, arrays, strict=True):
            value.CopyFrom(
                helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            )


def feeds(model: ModelProto, seed: int = 0, below: int = 2, free: int = 2) -> dict[str, np.ndarray]:
    """Draw an input: normal floats, integers under ``below``, true flags; free dimensions have the size ``free``."""
    rng = np.random.default_rng(seed)
    stored = {tensor.name for tensor in model.graph.initializer}
    result = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        tensor_type = value.type.tensor_type
        shape = [dim.dim_value or free for dim in tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
        drawn = rng.integers(0, below, shape) if dtype.kind in "iu" else rng.standard_normal(shape)
        result[value.name] = np.ones(shape, bool) if dtype.kind == "b" else drawn.astype(dtype)
    return result
