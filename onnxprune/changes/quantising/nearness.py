"""How near stored 8-bit weights are to the float ones: what can be said of a recipe without data."""

from __future__ import annotations

import numpy as np

from onnxprune.model.model import Model

SUFFIXES = ("_quantized", "_scale", "_zero_point")
"""What ONNX Runtime's quantiser puts behind the name of a tensor for its integers, their scale and their zero point."""


def weight_error(floats: Model, quantised: Model) -> float:
    """Return the mean over tensors of the squared error of weights over their squares; infinite where no tensor became integers."""
    found = list[float]()
    for name, tensor in floats.weights.items():
        near = dequantised(quantised, name, tensor.shape)
        if near:
            array = np.asarray(tensor.read(), np.float64).reshape(tensor.shape)
            errors = [float(np.square(array - one).sum()) for one in near]
            found.append(min(errors) / max(float(np.square(array).sum()), 1e-30))
    return float(np.mean(found)) if found else np.inf


def dequantised(model: Model, name: str, shape: tuple[int, ...]) -> list[np.ndarray] | None:
    """Return what a tensor's integers stand for, float64, for every axis that the scales may belong to; None where it has none."""
    parts = [model.weights.get(name + suffix) for suffix in SUFFIXES]
    if any(part is None for part in parts):
        return None
    integers, scale, zero = (np.asarray(part.read(), np.float64).reshape(part.shape) for part in parts if part)
    if integers.shape != shape:
        return None
    if scale.size == 1:
        return [(integers - zero.reshape(-1)[0]) * scale.reshape(-1)[0]]
    return [
        (integers - zero.reshape(form)) * scale.reshape(form)
        for axis, size in enumerate(shape)
        if size == scale.size
        for form in ([size if other == axis else 1 for other in range(len(shape))],)
    ]
