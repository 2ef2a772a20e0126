"""Rows of ``grad/rules/resampling.py``."""

from __future__ import annotations

import numpy as np
from support.gradients import FREE_BATCH, FREE_PICTURE, IMAGE, i, row

NOTHING = np.zeros(0, np.float32)

ROWS = [
    *(
        row(
            "Resize",
            IMAGE,
            None,
            np.asarray([1, 1, 2, 1.5], np.float32),
            note=f"{mode}-{place}",
            mode=mode,
            coordinate_transformation_mode=place,
        )
        for mode in ("nearest", "linear", "cubic")
        for place in ("half_pixel", "align_corners", "asymmetric")
    ),
    row("Resize", IMAGE, None, None, i(2, 4, 3, 10), note="sizes", mode="linear"),
    row("Resize", FREE_BATCH, None, np.asarray([1, 1, 2, 2], np.float32), note="free-batch", mode="nearest"),
    row("Resize", FREE_PICTURE, None, np.asarray([1, 1, 2, 2], np.float32), note="free", mode="linear"),
    row("Resize", IMAGE, NOTHING, np.asarray([1, 1, 2, 2], np.float32), note="opset-11", opset=11, mode="linear"),
    row("Pad", IMAGE, i(0, 1, 2, 0, 0, 0, 1, 3)),
    row("Pad", IMAGE, i(0, 0, -1, 0, 0, 0, -1, 2), note="crop"),
    row("Pad", IMAGE, i(1, 2), None, i(3), note="axes"),
    *(row("Pad", IMAGE, i(0, 0, 2, 1, 0, 0, 1, 2), note=mode, mode=mode) for mode in ("reflect", "edge")),
    row("Pad", IMAGE, i(0, 0, 2, 1, 0, 0, 1, 2), note="wrap", opset=19, mode="wrap"),
]
