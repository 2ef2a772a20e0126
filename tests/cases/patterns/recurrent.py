"""Patterns of recurrent layers."""

from __future__ import annotations

from support.patterns import Pattern

ROWS = [
    Pattern(
        "stacked LSTM",
        "w1 = %1x20x6; r1 = %1x20x5; b1 = %1x40; a = LSTM<hidden_size=5>(x, w1, r1, b1); "
        "s = Squeeze(a, @[1]); w2 = %1x16x5; r2 = %1x16x4; b = LSTM<hidden_size=4>(s, w2, r2); "
        "t = Squeeze(b, @[1]); y = MatMul(t, %4x3)",
        "w1 5x4; w2 4x4",
        1.0,
        inputs="float[4,2,6] x",
    ),
    Pattern(
        "bidirectional GRU",
        'w1 = %2x15x6; r1 = %2x15x5; a = GRU<hidden_size=5, direction="bidirectional">(x, w1, r1); '
        "t = Transpose<perm=[0,2,1,3]>(a); c = Reshape(t, @[0, 0, -1]); y = MatMul(c, %10x3)",
        "w1 5x3",
        1.0,
        inputs="float[4,2,6] x",
    ),
    Pattern(
        "embedding and RNN",
        "e = %9x6; i = Gather(e, ids); w1 = %1x5x6; r1 = %1x5x5; a, h = RNN<hidden_size=5>(i, w1, r1); "
        "s = Squeeze(h, @[0]); y = MatMul(s, %5x3)",
        "e 6; w1 5",
        1.0,
        inputs="int64[4,2] ids",
        below=9,
    ),
]
