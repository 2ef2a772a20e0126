"""Rows of ``coupling/rules/classical.py``."""

from __future__ import annotations

from support.rows import DENSE, row

CLASSICAL = {"ai.onnx.ml": 3}

ROWS = [
    row(
        "ai.onnx.ml::Scaler",
        "h = ai.onnx.ml.Scaler<offset=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], scale=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]>(p)",
        DENSE,
        frame="dense",
        domains=CLASSICAL,
    ),
    row(
        "ai.onnx.ml::Scaler/one for all",
        "h = ai.onnx.ml.Scaler<offset=[0.1], scale=[2.0]>(p)",
        DENSE,
        frame="dense",
        domains=CLASSICAL,
    ),
    row(
        "ai.onnx.ml::Imputer",
        "r = Relu(p); h = ai.onnx.ml.Imputer<imputed_value_floats=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], replaced_value_float=0.0>(r)",
        DENSE,
        frame="dense",
        domains=CLASSICAL,
    ),
    row("ai.onnx.ml::Binarizer", "h = ai.onnx.ml.Binarizer(p)", DENSE, frame="dense", domains=CLASSICAL),
    row(
        "ai.onnx.ml::Normalizer",
        'h = ai.onnx.ml.Normalizer<norm="L2">(p)',
        DENSE + " ~ ai.onnx.ml::Normalizer",
        frame="dense",
        domains=CLASSICAL,
        allow=("statistics",),
    ),
]
