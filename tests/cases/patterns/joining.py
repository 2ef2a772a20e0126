"""Patterns of values that are joined and cut."""

from __future__ import annotations

from support.patterns import Pattern

ROWS = [
    Pattern(
        "dense re-use",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %5x4x1x1; b = Conv(a, w2); c = Concat<axis=1>(a, b); "
        "w3 = %6x9x1x1; d = Conv(c, w3); e = Concat<axis=1>(c, d); y = Conv(e, %4x15x1x1)",
        "w1 4; w2 5; w3 6",
        1.0,
    ),
    Pattern(
        "inception",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %5x3x3x3; b = Conv<pads=[1,1,1,1]>(x, w2); "
        "m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x); w3 = %3x3x1x1; c = Conv(m, w3); "
        "d = Concat<axis=1>(a, b, c); y = Conv(d, %4x12x1x1)",
        "w1 4; w2 5; w3 3",
        1.0,
    ),
    Pattern(
        "unequal split, joined in another order",
        "w1 = %8x3x1x1; a = Conv(x, w1); b, c, d = Split<axis=1>(a, @[2, 3, 3]); "
        "e = Concat<axis=1>(d, b, c); y = Conv(e, %4x8x1x1)",
        "w1#0 2; w1#1 3; w1#2 3",
        1.0,
    ),
    Pattern(
        "the same tensor twice in a join",
        "w1 = %5x3x1x1; a = Conv(x, w1); c = Concat<axis=1>(a, a); y = Conv(c, %4x10x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "a constant in a join",
        "w1 = %5x3x1x1; a = Conv(x, w1); c = Concat<axis=1>(a, %1x2x4x4); y = Conv(c, %4x7x1x1)",
        "w1 5; t2 2",
        1.0,
    ),
    Pattern(
        "an input in a join",
        "w1 = %5x3x1x1; a = Conv(x, w1); c = Concat<axis=1>(x, a); y = Conv(c, %4x8x1x1)",
        "w1 5",
        0.745,
    ),
    Pattern(
        "joined along height and batch",
        "w1 = %5x3x1x1; a = Conv(x, w1); b = Relu(a); c = Concat<axis=2>(a, b); "
        "d = Concat<axis=0>(c, c); y = Conv(d, %4x5x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "C2f",
        "w1 = %8x3x1x1; a = Conv(x, w1); b, c = Split<axis=1, num_outputs=2>(a); w2 = %4x4x3x3; "
        "d = Conv<pads=[1,1,1,1]>(c, w2); e = Add(c, d); f = Concat<axis=1>(b, c, e); w3 = %6x12x1x1; "
        "g = Conv(f, w3); y = Conv(g, %4x6x1x1)",
        "w1#0 4; w1#1 4; w3 6",
        1.0,
    ),
    Pattern(
        "SPPF",
        "w1 = %6x3x1x1; a = Conv(x, w1); b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a); "
        "c = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b); d = Concat<axis=1>(a, b, c); "
        "y = Conv(d, %4x18x1x1)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "U-Net skip",
        "w1 = %6x3x3x3; a = Conv<pads=[1,1,1,1]>(x, w1); "
        "b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a); w2 = %8x6x1x1; c = Conv(b, w2); "
        "w3 = %8x5x2x2; d = ConvTranspose<strides=[2,2]>(c, w3); e = Concat<axis=1>(a, d); "
        "y = Conv(e, %4x11x1x1)",
        "w1 6; w2 8; w3 5",
        1.0,
    ),
    Pattern(
        "feature pyramid",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %8x6x1x1; b = Conv<strides=[2,2]>(a, w2); w3 = %5x8x1x1; "
        't = Conv(b, w3); u = Resize<mode="nearest">(t, , @[1., 1., 2., 2.]); w4 = %5x6x1x1; '
        "l = Conv(a, w4); e = Add(u, l); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 8; w3 5",
        1.0,
    ),
    Pattern(
        "detection head",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %8x6x1x1; b = Conv(a, w2); "
        "t = Transpose<perm=[0,2,3,1]>(b); y = Reshape(t, @[1, -1, 4])",
        "w1 6",
        1.0,
    ),
    Pattern(
        "distribution focal head",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %16x6x1x1; b = Conv(a, w2); "
        "r = Reshape(b, @[1, 4, 4, 16]); t = Transpose<perm=[0,2,1,3]>(r); s = Softmax<axis=1>(t); "
        "w3 = %1x4x1x1; y = Conv(s, w3)",
        "w1 6",
        0.877,
    ),
    Pattern(
        "two heads on one trunk",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %5x6x1x1; b = Conv(a, w2); y = Conv(b, %4x5x1x1); "
        "w3 = %7x6x1x1; c = Conv(a, w3); z = Conv(c, %2x7x1x1)",
        "w1 6; w2 5; w3 7",
        1.0,
        outputs="float[] y, float[] z",
    ),
]
