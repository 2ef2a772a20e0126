"""Rows of ``grad/rules/pointwise.py``."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from support.gradients import X, f, row

MASK = np.asarray([[True, False, True, False]])

ROWS = [
    *(
        row(op, X)
        for op in [
            "Abs",
            "Asinh",
            "Atan",
            "Celu",
            "Cos",
            "Cosh",
            "Elu",
            "Erf",
            "Exp",
            "HardSwish",
            "Identity",
            "LeakyRelu",
            "Mish",
            "Neg",
            "Relu",
            "Selu",
            "Shrink",
            "Sigmoid",
            "Sin",
            "Sinh",
            "Softplus",
            "Softsign",
            "Tanh",
            "ThresholdedRelu",
        ]
    ),
    *(row(op, f(3, 4, low=-0.8, high=0.8)) for op in ("Acos", "Asin", "Atanh", "Tan")),
    row("Acosh", f(3, 4, low=1.5, high=3.0)),
    *(row(op, f(3, 4, low=0.5, high=2.0)) for op in ("Log", "Sqrt", "Reciprocal")),
    row("Gelu", X, opset=20),
    row("Gelu", X, opset=20, note="tanh", approximate="tanh"),
    row("Swish", X, opset=24, alpha=1.3),
    row("HardSigmoid", X, alpha=0.3, beta=0.4),
    row("Elu", X, note="alpha", alpha=0.4),
    row("Celu", X, note="alpha", alpha=0.4),
    row("com.microsoft::Gelu", X, note="contrib"),
    row("com.microsoft::QuickGelu", X, alpha=1.7),
    row("com.microsoft::FastGelu", X, f(4)),
    row("com.microsoft::FastGelu", X, note="no-bias"),
    row("com.microsoft::BiasGelu", X, f(4)),
    *(row(op, X, f(3, 1), note="broadcast") for op in ("Add", "Sub", "Mul")),
    row("Add", f(1, 4), X, note="first-broadcast"),
    row("Div", X, f(4, low=0.5, high=2.0)),
    row("Pow", f(2, 3, low=0.5, high=2.0), f(3)),
    row("Pow", X, np.asarray(3, np.int64), note="integer"),
    row("Mod", f(2, 3, low=2.2, high=2.8), f(3, low=0.9, high=1.0), fmod=1),
    row("Sum", X, f(4), X),
    row("Mean", X, f(4), X),
    row("Max", X, f(4), f(3, 1)),
    row("Min", X, f(4)),
    row("Clip", X, f(), f(low=1.0, high=1.5)),
    row("Clip", X, None, np.asarray(0.5, np.float32), note="high-only"),
    row("PRelu", f(2, 3, 4), f(3, 1)),
    row("Where", MASK, X, f(3, 1)),
    row("Cast", X, to=TensorProto.FLOAT),
    row("CastLike", X, np.zeros(1, np.float32)),
    row("Dropout", X),
]
