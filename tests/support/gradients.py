"""What a row of a vector-Jacobian rule is: a one-node model whose float inputs are all differentiated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper


@dataclass(frozen=True)
class Normal:
    """A float input, drawn from a normal distribution and mapped into [low, high] where the operator needs it."""

    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    free: tuple[int, ...] = ()

    def array(self, random: np.random.Generator) -> np.ndarray:
        if self.low is None or self.high is None:
            return random.standard_normal(self.shape).astype(np.float32)
        return random.uniform(self.low, self.high, self.shape).astype(np.float32)


def f(*shape: int, low: float | None = None, high: float | None = None, free: tuple[int, ...] = ()) -> Normal:
    return Normal(shape, low, high, free)


def i(*values: Any) -> np.ndarray:
    return np.asarray(values, np.int64)


@dataclass(frozen=True)
class Case:
    """``inputs``: a Normal is a differentiable graph input, an array a stored constant, None an absent input.

    ``kept``: how many of the outputs are outputs of the graph (None: all).
    """

    op: str
    inputs: tuple[Normal | np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 18
    kept: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        return self.op.rpartition("::")[2] + (f"-{self.note}" if self.note else "")

    def model(self) -> ModelProto:
        domain, _, op = self.op.rpartition("::")
        names = [f"x{k}" if operand is not None else "" for k, operand in enumerate(self.inputs)]
        results = [f"y{k}" for k in range(self.outputs)]
        node = helper.make_node(op, names, results, name="node", domain=domain, **self.attributes)
        floats = {n: o for n, o in zip(names, self.inputs, strict=True) if isinstance(o, Normal)}
        stored = [
            numpy_helper.from_array(o, n) for n, o in zip(names, self.inputs, strict=True) if isinstance(o, np.ndarray)
        ]
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, _dims(n, o)) for n, o in floats.items()]
        opsets = [helper.make_opsetid("", self.opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
        graph = helper.make_graph(
            [node], "case", inputs, [ValueInfoProto(name=n) for n in results[: self.kept]], stored
        )
        model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))
        for output in model.graph.output:
            if not output.type.tensor_type.HasField(
                "shape"
            ):  # operators outside ONNX: outputs are shaped like the input
                dims = [f"y.{a}" for a in range(len(floats["x0"].shape))]
                output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, dims))
        return model

    def feeds(self, seed: int = 0) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        return {f"x{k}": o.array(random) for k, o in enumerate(self.inputs) if isinstance(o, Normal)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"x{k}": o.shape for k, o in enumerate(self.inputs) if isinstance(o, Normal)}


def _dims(name: str, operand: Normal) -> list[int | str]:
    return [f"{name}.{a}" if a in operand.free else size for a, size in enumerate(operand.shape)]


def row(
    op: str,
    *inputs: Normal | np.ndarray | None,
    note: str = "",
    outputs: int = 1,
    opset: int = 18,
    kept: int | None = None,
    **attributes: Any,
) -> Case:
    return Case(op, inputs, attributes, outputs, opset, kept, note)


X = f(2, 3, 4)
IMAGE = f(2, 4, 7, 6)
FREE_BATCH = f(2, 4, 7, 6, free=(0,))
FREE_PICTURE = f(2, 4, 7, 6, free=(0, 2, 3))
