"""Patterns of gates."""

from __future__ import annotations

from support.patterns import TOKENS, Pattern

ROWS = [
    Pattern(
        "squeeze and excite",
        "w1 = %8x3x1x1; a = Conv(x, w1); g = GlobalAveragePool(a); w2 = %4x8x1x1; s = Conv(g, w2, %4); "
        "r = Relu(s); w3 = %8x4x1x1; e = Conv(r, w3, %8); h = HardSigmoid(e); m = Mul(a, h); "
        "y = Conv(m, %5x8x1x1)",
        "w1 8; w2 4",
        1.0,
    ),
    Pattern(
        "gate by dense layers",
        "w1 = %8x3x1x1; a = Conv(x, w1); g = ReduceMean<keepdims=0>(a, @[2, 3]); w2 = %8x4; "
        "s = MatMul(g, w2); r = Relu(s); w3 = %4x8; e = MatMul(r, w3); h = Sigmoid(e); "
        "u = Unsqueeze(h, @[2, 3]); m = Mul(a, u); y = Conv(m, %5x8x1x1)",
        "w1 8; w2 4",
        1.0,
    ),
    Pattern(
        "gate by a window over channels",
        "w1 = %8x3x1x1; a = Conv(x, w1); g = GlobalAveragePool(a); s = Reshape(g, @[1, 1, 8]); "
        "c = Conv<pads=[1,1]>(s, %1x1x3); h = Sigmoid(c); u = Reshape(h, @[1, 8, 1, 1]); m = Mul(a, u); "
        "y = Conv(m, %5x8x1x1)",
        "w1 8 ~",
        1.0,
    ),
    Pattern(
        "gate over space",
        "w1 = %6x3x1x1; a = Conv(x, w1); m = ReduceMean(a, @[1]); n = ReduceMax(a, @[1]); "
        "c = Concat<axis=1>(m, n); s = Conv<pads=[1,1,1,1]>(c, %1x2x3x3); h = Sigmoid(s); g = Mul(a, h); "
        "y = Conv(g, %4x6x1x1)",
        "w1 6",
        0.7,
    ),
    Pattern(
        "SiLU by parts",
        "w1 = %6x3x1x1; a = Conv(x, w1); s = Sigmoid(a); m = Mul(a, s); y = Conv(m, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "hard swish by parts",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = Add(a, @3.0); c = Clip(b, @0.0, @6.0); d = Div(c, @6.0); "
        "m = Mul(a, d); y = Conv(m, %4x6x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "GELU by parts",
        "w1 = %6x8; a = MatMul(x, w1); b = Div(a, @1.414); c = Erf(b); d = Add(c, @1.0); e = Mul(a, d); "
        "f = Mul(e, @0.5); y = MatMul(f, %8x3)",
        "w1 8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "GLU",
        "w1 = %10x3x1x1; a = Conv(x, w1); b, c = Split<axis=1, num_outputs=2>(a); s = Sigmoid(c); "
        "m = Mul(b, s); y = Conv(m, %4x5x1x1)",
        "w1 5x2",
        1.0,
    ),
    Pattern(
        "SwiGLU",
        "w1 = %6x8; a = MatMul(x, w1); w2 = %6x8; b = MatMul(x, w2); s = Sigmoid(a); m = Mul(a, s); "
        "g = Mul(m, b); y = MatMul(g, %8x3)",
        "w1 8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "GeGLU from one matrix",
        "w1 = %6x16; a = MatMul(x, w1); b = Slice(a, @[0], @[8], @[2]); c = Slice(a, @[8], @[16], @[2]); "
        "e = Gelu(c); g = Mul(b, e); y = MatMul(g, %8x3)",
        "w1 8x2",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "scaled residual",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); w3 = %6x5x1x1; c = Conv(b, w3); "
        "d = Mul(c, %6x1x1); k = Mul(d, @0.9); e = Add(a, k); y = Conv(e, %4x6x1x1)",
        "w1 6; w2 5",
        1.0,
    ),
]
