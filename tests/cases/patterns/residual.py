"""Patterns of residual adds."""

from __future__ import annotations

from support.patterns import TOKENS, Pattern

ROWS = [
    Pattern(
        "projection shortcut",
        "w1 = %8x3x1x1; a = Conv(x, w1); r = Relu(a); w2 = %6x8x3x3; b = Conv<pads=[1,1,1,1]>(r, w2); "
        "w3 = %6x8x1x1; c = Conv(r, w3); e = Add(b, c); y = Conv(e, %4x6x1x1)",
        "w1 8; w2 6",
        1.0,
    ),
    Pattern(
        "identity shortcut",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); w3 = %6x5x1x1; c = Conv(b, w3); "
        "e = Add(c, a); y = Conv(e, %4x6x1x1)",
        "w1 6; w2 5",
        1.0,
    ),
    Pattern(
        "option-A shortcut",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %8x4x1x1; b = Conv<strides=[2,2]>(a, w2); "
        "s = Slice(a, @[0, 0], @[99, 99], @[2, 3], @[2, 2]); p = Pad(s, @[0, 2, 0, 0, 0, 2, 0, 0]); "
        "e = Add(b, p); y = Conv(e, %5x8x1x1)",
        "w1 4; w2 4",
        1.0,
    ),
    Pattern(
        "spine across stages",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x6x1x1; b = Conv(a, w2); c = Add(a, b); w3 = %6x6x1x1; "
        "d = Conv(c, w3); e = Add(c, d); f = Relu(e); y = Conv(f, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "three-way sum",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x3x1x1; b = Conv(x, w2); w3 = %6x3x1x1; c = Conv(x, w3); "
        "e = Sum(a, b, c); y = Conv(e, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "merges by Sub, Mul and Max",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x3x1x1; b = Conv(x, w2); d = Sub(a, b); m = Mul(d, a); "
        "e = Max(m, b); y = Conv(e, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "broadcast adds",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = Add(a, %1x6x1x1); c = Add(b, %6x1x1); d = Add(c, %); "
        "y = Conv(d, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "bias on the last axis",
        "w1 = %6x5; a = MatMul(x, w1); b = Add(a, %5); c = Mul(b, %1x5); y = MatMul(c, %5x3)",
        "w1 5",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "spine that is an output",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); w3 = %6x5x1x1; c = Conv(b, w3); y = Add(a, c)",
        "w2 5",
        0.769,
    ),
    Pattern(
        "spine from an input",
        "w1 = %5x3x1x1; a = Conv(x, w1); w2 = %3x5x1x1; b = Conv(a, w2); e = Add(x, b); y = Conv(e, %4x3x1x1)",
        "w1 5",
        0.714,
    ),
]
