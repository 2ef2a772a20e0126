"""The operator table: importing this package fills ``RULES``, one module per kind of operator."""

from onnxprune.coupling.rules import (
    attention,
    barriers,
    classical,
    contraction,
    control,
    experts,
    indexing,
    layout,
    microsoft,
    movement,
    normalization,
    pointwise,
    quantization,
    recurrent,
    reduction,
)

__all__ = [
    "attention",
    "barriers",
    "classical",
    "contraction",
    "control",
    "experts",
    "indexing",
    "layout",
    "microsoft",
    "movement",
    "normalization",
    "pointwise",
    "quantization",
    "recurrent",
    "reduction",
]
