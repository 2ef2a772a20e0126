"""Patterns of layouts, with axes moved, split and merged."""

from __future__ import annotations

from support.patterns import Pattern

ROWS = [
    Pattern(
        "channels last",
        "t = Transpose<perm=[0,3,1,2]>(x); w1 = %6x3x1x1; a = Conv(t, w1); "
        "b = Transpose<perm=[0,2,3,1]>(a); c = Add(b, %6); r = Relu(c); "
        "d = Transpose<perm=[0,3,1,2]>(r); w2 = %5x6x1x1; e = Conv(d, w2); "
        "y = Transpose<perm=[0,2,3,1]>(e)",
        "w1 6",
        1.0,
        inputs="float[1,4,4,3] x",
    ),
    Pattern(
        "flatten to a dense layer",
        "w1 = %6x3x1x1; a = Conv(x, w1); p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a); "
        "f = Flatten(p); w2 = %24x10; b = Gemm(f, w2, %10); y = Gemm(b, %10x4)",
        "w1 6; w2 10",
        1.0,
    ),
    Pattern(
        "channels last, flattened",
        "w1 = %6x3x1x1; a = Conv(x, w1); t = Transpose<perm=[0,2,3,1]>(a); f = Reshape(t, @[1, -1]); "
        "w2 = %96x7; b = MatMul(f, w2); y = MatMul(b, %7x4)",
        "w1 6; w2 7",
        1.0,
    ),
    Pattern(
        "pixel shuffle, depth first",
        "w1 = %12x3x1x1; a = Conv(x, w1); b = DepthToSpace<blocksize=2>(a); y = Conv(b, %4x3x1x1)",
        "w1 3x4",
        1.0,
    ),
    Pattern(
        "pixel shuffle, columns first",
        'w1 = %12x3x1x1; a = Conv(x, w1); b = DepthToSpace<blocksize=2, mode="CRD">(a); y = Conv(b, %4x3x1x1)',
        "w1 3x4",
        1.0,
    ),
    Pattern(
        "pixel shuffle by hand",
        "w1 = %12x3x1x1; a = Conv(x, w1); r = Reshape(a, @[1, 3, 2, 2, 4, 4]); "
        "t = Transpose<perm=[0,1,4,2,5,3]>(r); b = Reshape(t, @[1, 3, 8, 8]); y = Conv(b, %4x3x1x1)",
        "w1 3x4",
        1.0,
    ),
    Pattern(
        "space to depth",
        "w1 = %5x3x1x1; a = Conv(x, w1); b = SpaceToDepth<blocksize=2>(a); y = Conv(b, %4x20x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "focus stem",
        "w1 = %4x3x1x1; c = Conv(x, w1); p = Slice(c, @[0, 0], @[99, 99], @[2, 3], @[2, 2]); "
        "q = Slice(c, @[1, 0], @[99, 99], @[2, 3], @[2, 2]); d = Concat<axis=1>(p, q); "
        "y = Conv(d, %5x8x1x1)",
        "w1 4",
        1.0,
    ),
    Pattern(
        "channel shuffle",
        "w1 = %8x3x1x1; a = Conv(x, w1); w2 = %8x4x1x1; g = Conv<group=2>(a, w2); "
        "r = Reshape(g, @[1, 2, 4, 4, 4]); t = Transpose<perm=[0,2,1,3,4]>(r); "
        "h = Reshape(t, @[1, 8, 4, 4]); w3 = %8x1x3x3; d = Conv<group=8, pads=[1,1,1,1]>(h, w3); "
        "y = Conv(d, %4x8x1x1)",
        "w1 4x2; w2 4x2",
        1.0,
    ),
    Pattern(
        "channel shuffle of a half",
        "w1 = %8x3x1x1; a = Conv(x, w1); b, c = Split<axis=1, num_outputs=2>(a); w2 = %4x4x1x1; "
        "d = Conv(c, w2); e = Concat<axis=1>(b, d); r = Reshape(e, @[1, 2, 4, 16]); "
        "t = Transpose<perm=[0,2,1,3]>(r); h = Reshape(t, @[1, 8, 4, 4]); y = Conv(h, %4x8x1x1)",
        "w1#0 4; w1#1 4",
        1.0,
    ),
    Pattern(
        "window partition and reverse",
        "w1 = %6x8; a = MatMul(x, w1); r = Reshape(a, @[1, 2, 2, 2, 2, 8]); "
        "t = Transpose<perm=[0,1,3,2,4,5]>(r); s = Reshape(t, @[4, 4, 8]); w2 = %8x8; m = MatMul(s, w2); "
        "u = Reshape(m, @[1, 2, 2, 2, 2, 8]); v = Transpose<perm=[0,1,3,2,4,5]>(u); "
        "z = Reshape(v, @[1, 4, 4, 8]); e = Add(a, z); y = MatMul(e, %8x3)",
        "w1 8",
        1.0,
        inputs="float[1,4,4,6] x",
    ),
    Pattern(
        "shifted windows",
        "w1 = %6x8; a = MatMul(x, w1); p = Slice(a, @[2], @[4], @[1]); q = Slice(a, @[0], @[2], @[1]); "
        "s = Concat<axis=1>(p, q); r = Reshape(s, @[2, 2, 4, 8]); w2 = %8x5; m = MatMul(r, w2); "
        "u = Reshape(m, @[1, 4, 4, 5]); y = MatMul(u, %5x3)",
        "w1 8; w2 5",
        1.0,
        inputs="float[1,4,4,6] x",
    ),
    Pattern(
        "patch merging",
        "w1 = %6x5; a = MatMul(x, w1); p = Slice(a, @[0], @[99], @[1], @[2]); "
        "q = Slice(a, @[1], @[99], @[1], @[2]); c = Concat<axis=-1>(p, q); y = MatMul(c, %10x3)",
        "w1 5",
        1.0,
        inputs="float[1,4,4,6] x",
    ),
    Pattern(
        "columns to image",
        "w1 = %6x12; a = MatMul(x, w1); t = Transpose<perm=[0,2,1]>(a); "
        "b = Col2Im<strides=[2,2]>(t, @[4, 4], @[2, 2]); y = Conv(b, %4x3x1x1)",
        "w1 3x4",
        1.0,
        inputs="float[1,4,6] x",
    ),
    Pattern(
        "unfold by slices",
        "w1 = %4x3x1x1; a = Conv(x, w1); p = Slice(a, @[0], @[3], @[2]); q = Slice(a, @[1], @[4], @[2]); "
        "u = Unsqueeze(p, @[2]); v = Unsqueeze(q, @[2]); c = Concat<axis=2>(u, v); "
        "r = Reshape(c, @[1, 8, 3, 4]); y = Conv(r, %5x8x1x1)",
        "w1 4",
        1.0,
    ),
    Pattern(
        "resized by a computed shape",
        "w1 = %5x3x1x1; a = Conv(x, w1); b = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a); "
        "s = Shape<start=2>(a); n = Shape<end=2>(b); z = Concat<axis=0>(n, s); u = Resize(b, , , z); "
        "e = Add(a, u); y = Conv(e, %4x5x1x1)",
        "w1 5",
        1.0,
    ),
    Pattern(
        "free batch and size",
        "w1 = %6x3x3x3; a = Conv<pads=[1,1,1,1]>(x, w1); g = GlobalAveragePool(a); "
        "s = Shape<start=0, end=1>(g); n = Concat<axis=0>(s, @[-1]); r = Reshape(g, n); w2 = %6x5; "
        "b = MatMul(r, w2); y = MatMul(b, %5x4)",
        "w1 6; w2 5",
        1.0,
        inputs="float[N,3,H,W] x",
        outputs="float[N,4] y",
    ),
]
