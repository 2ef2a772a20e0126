"""The table of vector-Jacobian rules: importing this package fills ``VJPS``, one module per kind of operator."""

from onnxprune.grad.rules import (
    constant,
    contraction,
    convolution,
    indexing,
    movement,
    normalization,
    pointwise,
    pooling,
    reduction,
    resampling,
)

__all__ = [
    "constant",
    "contraction",
    "convolution",
    "indexing",
    "movement",
    "normalization",
    "pointwise",
    "pooling",
    "reduction",
    "resampling",
]
