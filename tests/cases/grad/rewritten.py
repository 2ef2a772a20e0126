"""Rows of operators without a rule of their own: unrolled, or replaced by ONNX's definition of them."""

from __future__ import annotations

from support.gradients import f, i, row

ROWS = [
    row("LSTM", f(4, 2, 3), f(1, 20, 3), f(1, 20, 5), f(1, 40), outputs=3, hidden_size=5),
    row(
        "LSTM",
        f(3, 2, 3),
        f(2, 8, 3),
        f(2, 8, 2),
        f(2, 16),
        None,
        f(2, 2, 2),
        f(2, 2, 2),
        f(2, 6),
        note="bidirectional-peepholes",
        outputs=3,
        hidden_size=2,
        direction="bidirectional",
    ),
    row("GRU", f(4, 2, 3), f(1, 15, 3), f(1, 15, 5), f(1, 30), outputs=2, hidden_size=5),
    row(
        "GRU",
        f(4, 2, 3),
        f(1, 15, 3),
        f(1, 15, 5),
        f(1, 30),
        note="linear-reverse",
        outputs=2,
        hidden_size=5,
        linear_before_reset=1,
        direction="reverse",
    ),
    row("RNN", f(4, 2, 3), f(1, 5, 3), f(1, 5, 5), f(1, 10), None, f(1, 2, 5), outputs=2, hidden_size=5),
    row("Attention", f(1, 2, 3, 4), f(1, 2, 5, 4), f(1, 2, 5, 4), opset=23),
    row("SoftmaxCrossEntropyLoss", f(3, 5), i(0, 4, 2)),
    row("CenterCropPad", f(5, 6), i(3, 8)),
]
