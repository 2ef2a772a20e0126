"""Rows of ``grad/rules/indexing.py``."""

from __future__ import annotations

import numpy as np
from support.gradients import f, i, row

ROWS = [
    row("Gather", f(5, 3), np.asarray([[0, 2], [2, -1]])),
    row("Gather", f(2, 5, 3), i(1, 1, 3), note="axis", axis=1),
    row("Gather", f(2, 5, 3), np.asarray(-1, np.int64), note="scalar", axis=1),
    row("Gather", f(2, 5, 3), i(2), note="one", axis=2),
    row("Gather", f(2, 5, 3, free=(0,)), i(0, 0, 4), note="free", axis=1),
    row("GatherElements", f(3, 4), np.asarray([[0, 1, 1], [3, 2, 0]]), axis=1),
    row("GatherND", f(3, 4, 2), np.asarray([[0, 1], [2, 3], [0, 1]])),
    row("GatherND", f(2, 3, 4), np.asarray([[[0], [2]], [[1], [1]]]), note="batch", batch_dims=1),
    row("ScatterElements", f(3, 4), np.asarray([[0, 1], [3, 2]]), f(2, 2), axis=1),
    row("ScatterElements", f(3, 4), np.asarray([[0, 1], [3, 3]]), f(2, 2), note="add", axis=1, reduction="add"),
    row("ScatterND", f(4, 3), np.asarray([[1], [3]]), f(2, 3)),
    row("ScatterND", f(4, 3), np.asarray([[1], [1]]), f(2, 3), note="add", reduction="add"),
    row("TopK", f(3, 6), i(2), outputs=2, axis=1),
    row("DFT", f(2, 8, 1), axis=1),
    row("DFT", f(2, 8, 2), note="inverse", axis=1, inverse=1),
]
