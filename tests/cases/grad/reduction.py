"""Rows of ``grad/rules/reduction.py``."""

from __future__ import annotations

import numpy as np
from support.gradients import FREE_PICTURE, IMAGE, X, f, i, row

ROWS = [
    *(
        row(op, X, i(1))
        for op in [
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ]
    ),
    row("ReduceLogSum", f(2, 3, low=0.5, high=2.0), i(-1), keepdims=0),
    row("ReduceMean", f(2, 3, 4, free=(0, 1)), i(1, 2), note="free", keepdims=0),
    row("ReduceSum", X, note="all", keepdims=0),
    row("ReduceSum", X, note="none", noop_with_empty_axes=1),
    row("ReduceSum", X, note="opset-11", opset=11, axes=[1], keepdims=0),
    row("ReduceProd", f(2, 3, low=0.5, high=1.5), note="all"),
    row("CumSum", X, np.asarray(1, np.int64)),
    row("CumSum", X, np.asarray(-1, np.int64), note="reversed", exclusive=1, reverse=1),
    row("GlobalAveragePool", IMAGE),
    row("GlobalAveragePool", FREE_PICTURE, note="free"),
    row("GlobalMaxPool", IMAGE),
    row("GlobalLpPool", IMAGE, p=3),
]
