"""Patterns of convolutions: separable, grouped, transposed."""

from __future__ import annotations

from support.patterns import Pattern

ROWS = [
    Pattern(
        "depthwise separable",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x1x3x3; b = Conv<group=6, pads=[1,1,1,1]>(a, w2, %6); "
        "w3 = %8x6x1x1; c = Conv(b, w3); y = Conv(c, %4x8x1x1)",
        "w1 6; w3 8",
        1.0,
    ),
    Pattern(
        "depthwise multiplier",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %8x1x3x3; b = Conv<group=4>(a, w2); y = Conv(b, %5x8x1x1)",
        "w1 4",
        1.0,
    ),
    Pattern(
        "inverted residual",
        "w1 = %4x3x1x1; a = Conv(x, w1); w2 = %12x4x1x1; b = Conv(a, w2); c = Clip(b, @0.0, @6.0); "
        "w3 = %12x1x3x3; d = Conv<group=12, pads=[1,1,1,1]>(c, w3); w4 = %4x12x1x1; e = Conv(d, w4); "
        "f = Add(a, e); y = Conv(f, %5x4x1x1)",
        "w1 4; w2 12",
        1.0,
    ),
    Pattern(
        "groups of equal count",
        "w1 = %8x3x1x1; a = Conv(x, w1); w2 = %8x4x3x3; b = Conv<group=2>(a, w2); y = Conv(b, %5x8x1x1)",
        "w1 4x2; w2 4x2",
        1.0,
    ),
    Pattern(
        "groups of unequal count",
        "w1 = %12x3x1x1; a = Conv(x, w1); w2 = %12x6x1x1; b = Conv<group=2>(a, w2); w3 = %12x4x1x1; "
        "c = Conv<group=3>(b, w3); y = Conv(c, %5x12x1x1)",
        "w1 6x2; w2 2x6; w3 4x3",
        1.0,
    ),
    Pattern(
        "aggregated residual block",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %8x6x1x1; b = Conv(a, w2); w3 = %8x2x3x3; "
        "c = Conv<group=4, pads=[1,1,1,1]>(b, w3); w4 = %6x8x1x1; d = Conv(c, w4); e = Add(a, d); "
        "y = Conv(e, %5x6x1x1)",
        "w1 6; w2 2x4; w3 2x4",
        1.0,
    ),
    Pattern(
        "one weight used twice",
        "w = %3x3x3x3; w1 = %3x3x1x1; i = Conv(x, w1); a = Conv<pads=[1,1,1,1]>(i, w); "
        "b = Conv<pads=[1,1,1,1]>(a, w); y = Conv(b, %4x3x1x1)",
        "w 3",
        1.0,
    ),
    Pattern(
        "siamese towers",
        "w1 = %6x3x1x1; w2 = %5x6x1x1; a = Conv(x, w1); b = Conv(a, w2); c = Conv(u, w1); "
        "d = Conv(c, w2); e = Sub(b, d); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        inputs="float[1,3,4,4] x, float[1,3,4,4] u",
    ),
    Pattern(
        "shared bias",
        "w1 = %6x3x1x1; s = %6; a = Conv(x, w1, s); w2 = %6x3x1x1; b = Conv(x, w2, s); c = Relu(a); "
        "d = Conv(c, %4x6x1x1); e = Conv(b, %4x6x1x1); y = Add(d, e)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "single-channel bottleneck",
        "w1 = %1x3x1x1; a = Conv(x, w1); s = Sigmoid(a); w2 = %6x3x1x1; b = Conv(x, w2); g = Mul(b, s); "
        "y = Conv(g, %4x6x1x1)",
        "w2 6",
        0.933,
    ),
    Pattern(
        "weights computed from an input",
        "k = MatMul(u, @[[1., 2., 3., 4., 5., 6.], [1., 0., 1., 0., 1., 0.]]); "
        "w = Reshape(k, @[6, 3, 1, 1]); a = Conv(x, w); y = Conv(a, %4x6x1x1)",
        "t1 2x3",
        1.0,
        inputs="float[1,3,4,4] x, float[3,2] u",
    ),
    Pattern(
        "transposed convolution",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x5x2x2; b = ConvTranspose<strides=[2,2]>(a, w2, %5); "
        "y = Conv(b, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
    ),
    Pattern(
        "grouped transposed convolution",
        "w1 = %6x3x1x1; a = Conv(x, w1); w2 = %6x4x2x2; "
        "b = ConvTranspose<group=2, strides=[2,2], output_padding=[1,1]>(a, w2); y = Conv(b, %4x8x1x1)",
        "w1 2x3",
        1.0,
    ),
    Pattern(
        "dilated causal convolutions",
        "w1 = %6x3x2; a = Conv<pads=[1,0]>(x, w1); t = Tanh(a); w2 = %6x6x2; "
        "b = Conv<pads=[2,0], dilations=[2]>(t, w2); s = Sigmoid(b); g = Mul(t, s); y = Conv(g, %4x6x1)",
        "w1 6",
        1.0,
        inputs="float[1,3,8] x",
    ),
    Pattern(
        "volumes",
        "w1 = %6x3x1x1x1; a = Conv(x, w1); p = MaxPool<kernel_shape=[2,2,2], strides=[2,2,2]>(a); "
        "y = Conv(p, %4x6x1x1x1)",
        "w1 6",
        1.0,
        inputs="float[1,3,4,4,4] x",
    ),
]
