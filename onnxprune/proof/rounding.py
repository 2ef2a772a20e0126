"""What rounding alone does to a value: the same graph again with inputs and small weights a few units in the last place off.

Where a value is a small difference of large ones, or falls on one side or the other of a step (quantisation), honest results differ
by more than rounding of its own size; how much more, this tells.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from onnx import ModelProto, helper

from onnxprune.model.facts import Facts
from onnxprune.model.read import NATIVE_FLOATS, skeleton_without_data

AMPLITUDE = {np.dtype(np.float16): 2.0**-10, np.dtype(np.float32): 2.0**-20, np.dtype(np.float64): 2.0**-49}
SIZES = (1 << 16, 1 << 24)  # elements: larger tensors stay as they are, unless no smaller one can be moved
READERS = {
    *("Add", "Sub", "Mul", "Div", "Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "PRelu"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    *("LSTM", "GRU", "RNN", "QuantizeLinear", "DequantizeLinear"),
}
"""Operators that take a float tensor as a weight or as the step of a grid, and not as a size or a bound."""


def shaken_weights(facts: Facts, lender: ModelProto) -> dict[str, np.ndarray]:
    """Return the small tensors of ``lender`` that are weights of the model, which rounding may move; else larger ones."""
    weights = [
        tensor
        for tensor in lender.graph.initializer
        if tensor.data_type in NATIVE_FLOATS
        and (readers := [node.op for node, _ in facts.graph.consumers.get(tensor.name, ())])
        and all(op in READERS for op in readers)
    ]
    for most in SIZES:
        found = [tensor for tensor in weights if math.prod(tensor.dims) <= most]
        if found:
            return {tensor.name: facts.model.array(tensor) for tensor in found}
    return {}


def with_inputs(proto: ModelProto, weights: Mapping[str, np.ndarray]) -> ModelProto:
    """Return a model that takes weights as inputs instead of having them lent."""
    result = ModelProto()
    result.CopyFrom(proto)
    known = {value.name for value in result.graph.input}
    for name, array in weights.items():
        if name not in known:
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            result.graph.input.append(helper.make_tensor_value_info(name, element, array.shape))
    return result


def without(lender: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a lender of all other tensors."""
    result = skeleton_without_data(lender)
    result.graph.initializer.extend(tensor for tensor in lender.graph.initializer if tensor.name not in names)
    return result


def shaken(values: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return inputs or weights with floats off by rounding."""
    rng = np.random.default_rng([seed, 2])
    return {name: _moved(value, rng) for name, value in values.items()}


def _moved(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    amplitude = AMPLITUDE.get(value.dtype)
    if amplitude is None:
        return value
    signs = rng.integers(0, 2, value.shape) * 2 - 1
    return (value * (1 + amplitude * signs)).astype(value.dtype)
