"""Patterns of control flow, model functions and other domains."""

from __future__ import annotations

from support.patterns import DENSE, TOKENS, Pattern

ROWS = [
    Pattern(
        "If",
        "w1 = %6x3x1x1; a = Conv(x, w1); "
        "b = If (c) <then_branch = t () => (float[1,6,4,4] u) { u = Relu(a) }, else_branch = e () => (float[1,6,4,4] v) { v = Neg(a) }>; "
        "y = Conv(b, %4x6x1x1)",
        "w1 6",
        1.0,
        inputs="float[1,3,4,4] x, bool c",
    ),
    Pattern(
        "Scan",
        "w1 = %6x5; a = MatMul(x, w1); s = %2x5; "
        "f, q = Scan<num_scan_inputs=1, body = b (float[2,5] h, float[2,5] i) => (float[2,5] o, float[2,5] z) { o = Add(h, i)\nz = Relu(o) }>(s, a); "
        "y = MatMul(q, %5x3)",
        "w1 5",
        1.0,
        inputs="float[4,2,6] x",
    ),
    Pattern(
        "Loop",
        "w1 = %6x5; a = MatMul(x, w1); n = Constant<value_int = 3>(); t = Constant<value = bool {1}>(); "
        "f = Loop<body = b (int64 i, bool c, float[2,4,5] h) => (bool d, float[2,4,5] o) { d = Identity(c)\no = Relu(h) }>(n, t, a); "
        "y = MatMul(f, %5x3)",
        "w1 5",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "functions",
        "w1 = %6x5; b1 = %5; p = local.dense(x, w1, b1); w2 = %5x7; b2 = %7; q = local.dense(p, w2, b2); "
        "y = MatMul(q, %7x3)",
        "w1 5; w2 7",
        1.0,
        inputs=TOKENS,
        domains={"local": 1},
        functions=DENSE,
    ),
    Pattern(
        "an unknown operator in the middle",
        "w1 = %6x5; a = MatMul(x, w1); w2 = %5x7; b = MatMul(a, w2); c = strange.Warp(b); w3 = %7x4; "
        "d = MatMul(c, w3); y = MatMul(d, %4x3)",
        "w1 5",
        1.0,
        inputs=TOKENS,
        outputs="float[2,4,3] y",
        domains={"strange": 1},
        runs=False,
    ),
]
