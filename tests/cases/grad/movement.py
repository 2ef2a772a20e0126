"""Rows of ``grad/rules/movement.py``."""

from __future__ import annotations

import numpy as np
from support.gradients import IMAGE, X, f, i, row

ROWS = [
    row("Reshape", X, i(2, -1)),
    row("Reshape", f(2, 3, 4, free=(0,)), i(0, 12), note="free"),
    row("Flatten", X, axis=2),
    row("Squeeze", f(2, 1, 3), i(1)),
    row("Squeeze", f(2, 1, 3), note="opset-11", opset=11, axes=[1]),
    row("Unsqueeze", X, i(0, 4)),
    row("Transpose", X, perm=[2, 0, 1]),
    row("Transpose", X, note="default"),
    row("Expand", f(3, 1), i(2, 3, 4)),
    row("Tile", X, i(2, 1, 3)),
    row("Concat", X, f(2, 2, 4), X, axis=1),
    row("Concat", X, note="single", axis=1),
    row("Split", f(2, 6), i(1, 3, 2), outputs=3, axis=1),
    row("Split", f(4, 6), note="equal", outputs=2, opset=11),
    row("Slice", IMAGE, i(1, 2), i(6, -1), i(2, 3)),
    row("Slice", IMAGE, i(0, 1), i(7, 100), i(2, 3), i(2, 3), note="steps"),
    row("Slice", IMAGE, i(-1, 4), i(-100, 0), i(2, 3), i(-1, -2), note="backwards"),
    row("Slice", f(2, 5, 3, free=(0, 1)), i(-2), i(1000), i(1), note="free-end"),
    row("Slice", f(2, 5, 3, free=(0, 1)), i(1), i(-1), i(1), note="free"),
    row("Slice", f(2, 5, 3, free=(0, 1)), i(-1), i(-1000), i(1), i(-1), note="free-flip"),
    row("DepthToSpace", f(2, 8, 3, 2), blocksize=2),
    row("DepthToSpace", f(2, 8, 3, 2), note="crd", blocksize=2, mode="CRD"),
    row("SpaceToDepth", f(2, 3, 4, 6), blocksize=2),
    row("Trilu", f(2, 4, 4)),
    row("Trilu", f(2, 4, 4), np.asarray(-1, np.int64), note="lower", upper=0),
    row("ReverseSequence", f(4, 3, 2), i(4, 1, 2)),
]
