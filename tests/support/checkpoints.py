"""Checkpoints as training frameworks write them, and the models that their exporters would make of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

KINDS = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64", "bool": "BOOL", "bfloat16": "BF16"}
State = dict[str, np.ndarray]


def write_state(path: Path, state: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> Path:
    """Write a .safetensors file, byte for byte as the format says."""
    header: dict[str, object] = {"__metadata__": dict(about)} if about else {}
    content = b""
    for name, array in state.items():
        end = len(content) + array.nbytes
        header[name] = {"dtype": KINDS[str(array.dtype)], "shape": array.shape, "data_offsets": [len(content), end]}
        content += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def read_state(path: Path) -> State:
    """Read a .safetensors file of numpy's own types."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {kind: name for name, kind in KINDS.items()}
    found = {}
    for name, entry in header.items():
        first, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(content[first:end], types[entry["dtype"]]).reshape(entry["shape"])
    return found


def trained(seed: int = 0) -> State:
    """Return the weights of two convolutions with a norm each, and two products, as a training would leave them."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    state = {"conv1.weight": normal(8, 3, 3, 3), "conv2.weight": normal(6, 8, 3, 3) / 6, "conv2.bias": normal(6)}
    for name, width in (("bn1", 8), ("bn2", 6)):
        state |= {f"{name}.weight": normal(width), f"{name}.bias": normal(width), f"{name}.running_mean": normal(width)}
        state |= {f"{name}.running_var": np.square(normal(width)) + 0.5, f"{name}.num_batches_tracked": np.array(7)}
    state |= {
        "fc1.weight": normal(10, 6),
        "fc1.bias": normal(10),
        "fc2.weight": normal(4, 10) / 3,
        "fc2.bias": normal(4),
    }
    return state


def exported(state: State, *, folded: bool) -> ModelProto:
    """Return the network of a state, of whatever widths, as an exporter writes it: names kept, or norms folded in and weights renamed."""
    tensors, nodes, value = State(), [], "x"
    for number in (1, 2):
        conv, norm, made = f"conv{number}", f"bn{number}", f"r{number}"
        parts = {part: state[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        weight, bias = state[f"{conv}.weight"], state.get(f"{conv}.bias")
        if folded:
            scale = parts["weight"] / np.sqrt(parts["running_var"] + np.float32(1e-5))
            shift = parts["bias"] + ((0 if bias is None else bias) - parts["running_mean"]) * scale
            own = [f"onnx::Conv_{40 + number}", f"onnx::Conv_{50 + number}"]
            tensors |= {own[0]: weight * scale[:, None, None, None], own[1]: shift}
            nodes.append(helper.make_node("Conv", [value, *own], [f"n{number}"], kernel_shape=[3, 3], pads=[1] * 4))
        else:
            own = [f"{conv}.weight", *([f"{conv}.bias"] if bias is not None else [])]
            tensors |= {name: state[name] for name in own} | {f"{norm}.{part}": array for part, array in parts.items()}
            nodes.append(helper.make_node("Conv", [value, *own], [f"c{number}"], kernel_shape=[3, 3], pads=[1] * 4))
            nodes.append(
                helper.make_node("BatchNormalization", [f"c{number}", *(f"{norm}.{p}" for p in parts)], [f"n{number}"])
            )
        nodes.append(helper.make_node("Relu", [f"n{number}"], [made]))
        value = made
    nodes += [helper.make_node("GlobalAveragePool", [value], ["g"]), helper.make_node("Flatten", ["g"], ["f"])]
    tensors |= {"fc1.bias": state["fc1.bias"], "fc2.bias": state["fc2.bias"], "fc2.weight": state["fc2.weight"]}
    if folded:
        tensors["onnx::MatMul_61"] = state["fc1.weight"].T
        nodes += [
            helper.make_node("MatMul", ["f", "onnx::MatMul_61"], ["m"]),
            helper.make_node("Add", ["fc1.bias", "m"], ["h"]),
        ]
    else:
        tensors["fc1.weight"] = state["fc1.weight"]
        nodes.append(helper.make_node("Gemm", ["f", "fc1.weight", "fc1.bias"], ["h"], transB=1))
    nodes += [
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "fc2.weight", "fc2.bias"], ["y"], transB=1),
    ]
    stored = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 3, 6, 6]), ("y", ["n", 4]))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
