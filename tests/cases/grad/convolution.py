"""Rows of ``grad/rules/convolution.py``."""

from __future__ import annotations

from typing import Any

from support.gradients import FREE_PICTURE, IMAGE, Case, Normal, f, i, row


def _conv(op: str, x: Normal, w: Normal, *bias: Normal, note: str, **attributes: Any) -> Case:
    return row(op, x, w, *bias, note=note, **attributes)


ROWS = [
    _conv("Conv", IMAGE, f(5, 4, 3, 3), f(5), note="plain"),
    _conv("Conv", f(2, 9, 6, 6), f(5, 9, 3, 3), f(5), note="shifts", pads=[1, 1, 1, 1]),
    _conv(
        "Conv", f(2, 8, 6, 5, free=(0, 2, 3)), f(5, 8, 3, 2), note="shifts-free", pads=[0, 1, 1, 0], dilations=[1, 2]
    ),
    _conv("Conv", f(2, 16, 5), f(6, 8, 3), f(6), note="shifts-groups", group=2, pads=[1, 1]),
    _conv("Conv", f(2, 8, 5, 5), f(6, 8, 1, 1), note="pointwise"),
    _conv("Conv", f(2, 4, 6, 7), f(2, 4, 3, 2), f(2), note="few-outputs", pads=[1, 0, 2, 1], dilations=[1, 2]),
    _conv("Conv", f(2, 8, 5, 5), f(6, 8, 1, 1), note="pointwise-strided", strides=[2, 2]),
    _conv("Conv", IMAGE, f(6, 2, 3, 3), f(6), note="groups", group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv("Conv", IMAGE, f(4, 1, 3, 3), note="depthwise", group=4, pads=[1, 1, 1, 1]),
    _conv("Conv", IMAGE, f(8, 1, 3, 3), note="multiplier", group=4, strides=[2, 1]),
    _conv("Conv", IMAGE, f(5, 4, 3, 2), note="uneven", strides=[2, 3], pads=[0, 1, 2, 0], dilations=[2, 1]),
    _conv("Conv", f(2, 3, 11), f(4, 3, 4), f(4), note="1d", strides=[3], pads=[1, 2]),
    _conv("Conv", f(1, 2, 5, 4, 6), f(3, 2, 2, 3, 2), f(3), note="3d", strides=[1, 2, 2], pads=[1, 0, 1, 0, 1, 0]),
    _conv("Conv", IMAGE, f(5, 4, 3, 3), note="same-upper", auto_pad="SAME_UPPER", strides=[2, 2]),
    _conv("Conv", IMAGE, f(5, 4, 2, 2), note="same-lower", auto_pad="SAME_LOWER"),
    _conv("Conv", IMAGE, f(5, 4, 3, 3), note="valid", auto_pad="VALID", strides=[2, 2]),
    _conv("Conv", FREE_PICTURE, f(5, 4, 3, 3), f(5), note="free", strides=[2, 2], pads=[1, 1, 1, 1]),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), f(5), note="plain"),
    _conv(
        "ConvTranspose", f(2, 4, 3, 3), f(4, 3, 3, 3), f(6), note="groups", group=2, strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    _conv(
        "ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), note="extra", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]
    ),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 1, 1), f(5), note="beyond", strides=[2, 2], output_padding=[1, 1]),
    _conv("ConvTranspose", f(2, 8, 4), f(8, 3, 3), note="1d", dilations=[2]),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), note="shape", strides=[2, 2], output_shape=[6, 6]),
    _conv("ConvTranspose", f(2, 4, 3, 3), f(4, 5, 3, 3), note="same", strides=[2, 2], auto_pad="SAME_UPPER"),
    row("Col2Im", f(2, 12, 20), i(5, 6), i(2, 2)),
    row("Col2Im", f(2, 12, 9), i(5, 6), i(2, 3), note="strided", strides=[2, 2], pads=[0, 1, 1, 0]),
    _conv("com.microsoft::FusedConv", IMAGE, f(5, 4, 3, 3), f(5), note="relu", activation="Relu"),
]
