"""What rounding alone does to a value: the same graph again with inputs and small weights a few units in the last place off.

Where a value is a small difference of large ones, or falls on one side or the other of a step (quantisation), honest results differ
by more than rounding of its own size; how much more, this tells.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import helper

from onnxprune.model.facts import Facts
from onnxprune.model.model import Model
from onnxprune.model.tensors import NATIVE_FLOATS

AMPLITUDE = {np.dtype(np.float16): 2.0**-10, np.dtype(np.float32): 2.0**-20, np.dtype(np.float64): 2.0**-49}
SIZES = (1 << 16, 1 << 24)  # elements: larger tensors stay as they are, unless no smaller one can be moved
READERS = {
    *("Add", "Sub", "Mul", "Div", "Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "PRelu"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    *("LSTM", "GRU", "RNN", "QuantizeLinear", "DequantizeLinear"),
}
"""Operators that take a float tensor as a weight or as the step of a grid, and not as a size or a bound."""


def shaken_weights(facts: Facts, reference: Model) -> dict[str, np.ndarray]:
    """Return the small tensors of ``reference`` that are weights of the model, which rounding may move; else larger ones."""
    weights = [
        name
        for name, tensor in reference.weights.items()
        if tensor.dtype in NATIVE_FLOATS
        and (readers := [node.op for node, _ in facts.graph.consumers.get(name, ())])
        and all(op in READERS for op in readers)
    ]
    for most in SIZES:
        found = [name for name in weights if reference.weights[name].count <= most]
        if found:
            return {name: reference.weights[name].read() for name in found}
    return {}


def with_inputs(model: Model, weights: Mapping[str, np.ndarray]) -> Model:
    """Return a model that takes weights as inputs instead of having them."""
    result = model.draft()
    known = {value.name for value in result.graph.input}
    for name, array in weights.items():
        if name not in known:
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            result.graph.input.append(helper.make_tensor_value_info(name, element, array.shape))
    rest = [header for header in result.graph.initializer if header.name not in weights]
    del result.graph.initializer[:]
    result.graph.initializer.extend(rest)
    return model.derived(result)


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
