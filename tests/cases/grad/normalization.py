"""Rows of ``grad/rules/normalization.py``."""

from __future__ import annotations

import numpy as np
from support.gradients import IMAGE, X, f, row

STATISTICS = (np.zeros(4, np.float32), np.ones(4, np.float32))

ROWS = [
    row("BatchNormalization", IMAGE, f(4), f(4), f(4), f(4, low=0.5, high=2.0)),
    row("BatchNormalization", f(5, 4), f(4), f(4), f(4), f(4, low=0.5, high=2.0), note="2d"),
    row("BatchNormalization", IMAGE, f(4), f(4), *STATISTICS, note="training", outputs=3, kept=1, training_mode=1),
    row("LayerNormalization", X, f(4), f(4)),
    row("LayerNormalization", X, f(3, 4), note="axis", axis=1, epsilon=1e-3),
    row("RMSNormalization", X, f(4), opset=23),
    row("SimplifiedLayerNormalization", X, f(4), epsilon=1e-5, axis=-1),
    row("com.microsoft::SkipLayerNormalization", X, X, f(4), f(4), f(4), epsilon=1e-5),
    row("com.microsoft::SkipLayerNormalization", X, X, f(4), f(4), note="no-bias", epsilon=1e-5),
    row("com.microsoft::SkipSimplifiedLayerNormalization", X, X, f(4), epsilon=1e-5),
    row("InstanceNormalization", IMAGE, f(4), f(4)),
    row("GroupNormalization", f(2, 6, 3, 3), f(6), f(6), opset=21, num_groups=3),
    row("MeanVarianceNormalization", IMAGE),
    row("LpNormalization", X, axis=1),
    row("LpNormalization", X, note="l1", axis=2, p=1),
    row("LRN", IMAGE, size=3, alpha=0.3, beta=0.6, bias=1.5),
    row("LRN", IMAGE, note="wide", size=5, alpha=0.3),
    row("Softmax", X, axis=1),
    row("Softmax", X, note="opset-11", opset=11),
    row("LogSoftmax", X),
]
