"""Patterns of normalisation."""

from __future__ import annotations

from support.patterns import TOKENS, Pattern

ROWS = [
    Pattern(
        "batch normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = BatchNormalization(a, %6, %6, %6, %+6); r = Relu(b); "
        "y = Conv(r, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "instance normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = InstanceNormalization(a, %6, %6); y = Conv(b, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "group normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = GroupNormalization<num_groups=3>(a, %6, %6); y = Conv(b, %4x6x1x1)",
        "w1 3x2",
        1.0,
    ),
    Pattern(
        "response normalisation",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = LRN<size=3>(a); y = Conv(b, %4x6x1x1)",
        "w1 6 ~",
        1.0,
    ),
    Pattern(
        "global response normalisation",
        "w1 = %6x8; a = MatMul(x, w1); g = ReduceL2(a, @[1]); m = ReduceMean(g, @[-1]); "
        "d = Add(m, @0.001); n = Div(g, d); s = Mul(a, n); t = Mul(s, %8); e = Add(a, t); "
        "y = MatMul(e, %8x3)",
        "w1 8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "standardised weights",
        "w1 = %6x3x1x1; m = ReduceMean(w1, @[1, 2, 3]); d = Sub(w1, m); a = Conv(x, d); y = Conv(a, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
]
