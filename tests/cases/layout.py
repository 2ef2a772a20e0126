"""Rows of ``coupling/rules/layout.py``."""

from __future__ import annotations

from support.rows import DENSE, PLAIN, row, stays

from onnxprune.coupling.groups import ONLY_UNIT

ROWS = [
    row(
        "Reshape/heads",
        "h = Reshape(p, @[0, 0, 2, 3])",
        "w1 3x2: w1.1 writes, b1.0 shifts, w2.0 reads",
        width=3,
        frame="tokens",
    ),
    row(
        "Reshape/-1",
        "r = Reshape(p, @[2, -1, 2, 3]); h = Reshape(r, @[0, 4, -1])",
        "w1 2x3: w1.1 writes, b1.0 shifts, w2.0 reads",
        frame="tokens",
    ),
    row("Reshape/literal", "h = Reshape(p, @[2, 4, 6])", DENSE, frame="tokens"),
    row(
        "Reshape/flatten",
        "h = Reshape(p, @[0, -1])",
        "w1 6: w1.0 writes, b1.0 shifts, t4.0 reads",
        after="y = MatMul(h, %96x5)",
    ),
    row("Reshape/allowzero", "h = Reshape<allowzero=1>(p, @[2, 4, 6])", DENSE, frame="tokens"),
    row(
        "Reshape/computed",
        "s = Shape(p); n = Gather(s, @[0]); l = Gather(s, @[1]); t = Concat<axis=0>(n, l, @[2, -1]); "
        "r = Reshape(p, t); u = Shape(r); v = Slice(u, @[0], @[2]); k = Concat<axis=0>(v, @[6]); "
        "h = Reshape(r, k)",
        "w1 2x3: w1.1 writes, b1.0 shifts, w2.0 reads",
        frame="tokens",
    ),
    row(
        "Reshape/across",
        "h = Reshape(p, @[2, 3, 8])",
        *stays("reshaped across its boundaries", "w1.1 6/6", "b1.0 6/6", "w2.0 8/8"),
        width=8,
        frame="tokens",
    ),
    row(
        "Reshape/opset 1",
        "q = Reshape<shape=[0, -1, 8]>(p); h = Reshape<shape=[2, 6, 4, 4]>(q)",
        PLAIN,
        opset=4,
        runs=False,
        outputs="float[2,5,4,4] y",
    ),
    row(
        "Reshape/merge rows",
        "q = Reshape(p, @[-1, 6]); u = MatMul(q, %6x8); h = Reshape(u, @[2, 4, 8])",
        "w1 6: w1.1 writes, b1.0 shifts, t4.0 reads",
        "t4 8: t4.1 writes, w2.0 reads",
        width=8,
        frame="tokens",
    ),
    row("Flatten", "f = Flatten(p); y = Gemm(f, %96x5, %5)", "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads", after=""),
    row(
        "Flatten/axis",
        "t = Transpose<perm=[0,2,3,1]>(p); f = Flatten<axis=-1>(t); y = MatMul(f, %6x5)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        after="",
    ),
    row("Squeeze", "u = Unsqueeze(p, @[1]); h = Squeeze(u, @[1])", PLAIN),
    row("Squeeze/opset 11", "u = Unsqueeze<axes=[0,-1]>(p); h = Squeeze<axes=[0,-1]>(u)", PLAIN, opset=11),
    row("Squeeze/no axes", "g = GlobalAveragePool(p); s = Squeeze(g); h = Unsqueeze(s, @[2, 3])", PLAIN),
    row(
        "Squeeze/no axes, opset 11",
        "g = GlobalAveragePool(p); s = Squeeze(g); h = Unsqueeze<axes = [2, 3]>(s)",
        PLAIN,
        opset=11,
    ),
    row(
        "Squeeze/all",
        "g = GlobalAveragePool(p); s = Squeeze(g); y = MatMul(s, %6x5)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        after="",
    ),
    row(
        "Unsqueeze",
        "h = Unsqueeze(p, @[2, -1])",
        "w1 6: w1.1 writes, b1.0 shifts, t4.1 reads",
        frame="dense",
        after="y = Conv(h, %5x6x1x1)",
    ),
    row(
        "Transpose",
        "t = Transpose<perm=[0,2,3,1]>(p); y = MatMul(t, %6x5)",
        "w1 6: w1.0 writes, b1.0 shifts, t3.0 reads",
        after="",
    ),
    row(
        "Transpose/reversed",
        "t = Transpose(p); y = MatMul(%5x6, t)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.1 reads",
        frame="dense",
        after="",
    ),
    row(
        "DepthToSpace",
        "q = Conv(x, %8x3x1x1, %8); h = DepthToSpace<blocksize=2>(q)",
        "t1 2x4: t1.0 writes, t2.0 shifts, t3.1 reads",
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
    ),
    row(
        "DepthToSpace/CRD",
        'q = Conv(x, %8x3x1x1, %8); h = DepthToSpace<blocksize=2, mode="CRD">(q)',
        "t1 2x4: t1.0 writes, t2.0 shifts, t3.1 reads",
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
    ),
    row(
        "DepthToSpace/opset 1",
        "q = Conv(x, %8x3x1x1, %8); h = DepthToSpace<blocksize=2>(q)",
        "t1 2x4: t1.0 writes, t2.0 shifts, t3.1 reads",
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
        opset=10,
    ),
    row("SpaceToDepth", "h = SpaceToDepth<blocksize=2>(p)", PLAIN, width=24),
    row("SpaceToDepth/opset 1", "h = SpaceToDepth<blocksize=2>(p)", PLAIN, width=24, opset=9),
    row(
        "DepthToSpace/other order than SpaceToDepth",
        'q = Conv(x, %2x3x1x1); s = SpaceToDepth<blocksize=2>(q); h = DepthToSpace<blocksize=2, mode="CRD">(s)',
        *stays(ONLY_UNIT, "t1.0 2/2", "t2.1 2/2"),
        frame="open",
        after="y = Conv(h, %5x2x1x1)",
    ),
    row(
        "Resize",
        'h = Resize<mode="nearest">(p, , @[1., 1., 2., 2.])',
        PLAIN,
        *stays("read as a setting by Resize", "t3.0 4/4"),
    ),
    row("Resize/sizes", 'h = Resize<mode="linear">(p, , , @[2, 6, 3, 5])', PLAIN),
    row("Resize/axes", 'h = Resize<axes=[2,3], mode="linear">(p, , , @[8, 8])', PLAIN),
    row(
        "Resize/channels",
        "h = Resize(p, , @[1., 2., 1., 1.])",
        *stays("this axis is resized", "w1.0 6/6", "b1.0 6/6"),
        *stays("read as a setting by Resize", "t3.0 4/4"),
        *stays("this axis is resized", "w2.1 12/12"),
        width=12,
    ),
    row(
        "Resize/opset 10",
        "h = Resize(p, @[1., 1., 2., 2.])",
        PLAIN,
        *stays("read as a setting by Resize", "t3.0 4/4"),
        opset=10,
    ),
    row(
        "Resize/opset 11",
        'h = Resize<coordinate_transformation_mode="asymmetric">(p, @[]:float, @[]:float, @[2, 6, 8, 8])',
        PLAIN,
        opset=11,
    ),
    row(
        "Resize/opset 13, computed",
        "s = Shape(p); n = Slice(s, @[0], @[2]); t = Concat<axis=0>(n, @[7, 7]); h = Resize(p, , , t)",
        PLAIN,
        opset=13,
    ),
    row(
        "Upsample/opset 9",
        "h = Upsample(p, @[1., 1., 2., 2.])",
        PLAIN,
        *stays("read as a setting by Upsample", "t3.0 4/4"),
        opset=9,
    ),
    row("Upsample/opset 7", "h = Upsample<scales=[1.0, 1.0, 2.0, 3.0]>(p)", PLAIN, opset=7),
]
