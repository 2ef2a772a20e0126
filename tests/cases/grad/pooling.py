"""Rows of ``grad/rules/pooling.py``."""

from __future__ import annotations

from support.gradients import FREE_PICTURE, IMAGE, f, row

ROWS = [
    row("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    row("MaxPool", IMAGE, note="indices", outputs=2, kernel_shape=[2, 2]),
    row("MaxPool", IMAGE, note="ceil", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, dilations=[1, 2]),
    row("MaxPool", FREE_PICTURE, note="free", kernel_shape=[2, 2], strides=[2, 2]),
    row("MaxPool", f(2, 3, 8), note="1d", kernel_shape=[3]),
    row("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    row("AveragePool", IMAGE, note="pads", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    row("AveragePool", IMAGE, note="include", kernel_shape=[3, 3], pads=[1, 1, 0, 1], count_include_pad=1),
    row("AveragePool", IMAGE, note="ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    row(
        "AveragePool",
        IMAGE,
        note="ceil-include",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        count_include_pad=1,
    ),
    row("AveragePool", IMAGE, note="same", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    row("AveragePool", FREE_PICTURE, note="free", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    row("AveragePool", FREE_PICTURE, note="free-ceil", kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    row("LpPool", IMAGE, kernel_shape=[2, 2], strides=[2, 1], p=3),
]
