"""Rows of ``coupling/rules/quantization.py``."""

from __future__ import annotations

from support.rows import MICROSOFT, PLAIN, row

ROWS = [
    row(
        "MatMulInteger",
        "a = Abs(p); c = Cast<to=2>(a); i = MatMulInteger(c, %6x8:uint8); h = Cast<to=1>(i)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "MatMulInteger/zero points",
        "a = Abs(p); c = Cast<to=2>(a); i = MatMulInteger(c, %6x8:uint8, @0:uint8, %8:uint8); h = Cast<to=1>(i)",
        "w1 6: w1.1 writes, b1.0 shifts, t3.0 reads",
        "t3 8: t3.1 writes, t5.0 shifts, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "QuantizeLinear",
        "q = QuantizeLinear(p, @0.05, @128:uint8); h = DequantizeLinear(q, @0.05, @128:uint8)",
        PLAIN,
    ),
    row(
        "QuantizeLinear/per channel",
        "s = %+6; z = %6:uint8; q = QuantizeLinear<axis = 1>(p, s, z); h = DequantizeLinear<axis = 1>(q, s, z)",
        "w1 6: w1.0 writes, b1.0 shifts, s.0 scales, z.0 shifts, w2.1 reads",
    ),
    row(
        "DequantizeLinear/weights",
        "w = %8x6x1x1:int8; s = %+8; z = %8:int8; d = DequantizeLinear<axis = 0>(w, s, z); h = Conv(p, d)",
        "w1 6: w1.0 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, s.0 writes, z.0 writes, w2.1 reads",
        width=8,
    ),
    row(
        "DequantizeLinear/blocked",
        "w = %6x8:int8; s = %+3x8; d = DequantizeLinear<axis = 0, block_size = 2>(w, s); h = MatMul(p, d)",
        "w1 3x2: w1.1 writes, b1.0 shifts, w.0 reads, s.0 reads",
        "w 8: w.1 writes, s.1 writes, w2.0 reads",
        frame="dense",
        width=8,
    ),
    row(
        "DequantizeLinear/blocked by heads",
        "v = %3x6:int8; s = %+3x3; d = DequantizeLinear<axis = 1, block_size = 2>(v, s); q = MatMul(x, d); "
        "a = Add(p, q); u = Reshape(a, @[2, 3, 2]); h = Reshape(u, @[2, 6])",
        "w1 3x2: w1.1 writes, b1.0 shifts, v.1 writes, s.1 writes, w2.0 reads",
        frame="dense",
    ),
    row(
        "DequantizeLinear/blocked, cut inside",
        "v = %3x6:int8; s = %+3x1; d = DequantizeLinear<axis = 1, block_size = 6>(v, s); q = MatMul(x, d); "
        "h = Add(p, q)",
        "w1 6: w1.1 writes, b1.0 shifts, v.1 writes, w2.0 reads",
        frame="dense",
    ),
    row(
        "DynamicQuantizeLinear",
        "q, s, z = DynamicQuantizeLinear(p); w = %6x5:uint8; n = MatMulInteger(q, w, z, @7:uint8); "
        "c = Cast<to = 1>(n); h = Mul(c, s)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    row(
        "MatMulInteger/columns",
        "q, s, z = DynamicQuantizeLinear(p); w = %6x5:int8; zw = %5:int8; n = MatMulInteger(q, w, z, zw); "
        "c = Cast<to = 1>(n); h = Mul(c, s)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, zw.0 shifts, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    row(
        "ConvInteger",
        "q, s, z = DynamicQuantizeLinear(p); w = %8x6x1x1:uint8; m = ConvInteger(q, w, z, @7:uint8); "
        "c = Cast<to = 1>(m); h = Mul(c, s)",
        "w1 6: w1.0 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, w2.1 reads",
        width=8,
    ),
    row(
        "ConvInteger/grouped",
        "q, s, z = DynamicQuantizeLinear(p); w = %6x1x3x3:uint8; "
        "m = ConvInteger<group = 6, pads = [1, 1, 1, 1]>(q, w, z); c = Cast<to = 1>(m); h = Mul(c, s)",
        "w1 6: w1.0 writes, b1.0 shifts, w.0 scales, w2.1 reads",
        "! w.2 3/3: a window slides over this axis",
        "! w.3 3/3: a window slides over this axis",
    ),
    row(
        "QLinearConv",
        "q = QuantizeLinear(p, @0.05, @128:uint8); w = %8x6x3x3:int8; s = %+8; z = %8:int8; b = %8:int32; "
        "m = QLinearConv<pads = [1, 1, 1, 1]>(q, @0.05, @128:uint8, w, s, z, @9., @120:uint8, b); "
        "h = DequantizeLinear(m, @9., @120:uint8)",
        "w1 6: w1.0 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, s.0 scales, z.0 shifts, w2.1 reads",
        "! w.2 3/3: a window slides over this axis",
        "! w.3 3/3: a window slides over this axis",
        width=8,
    ),
    row(
        "QLinearMatMul",
        "q = QuantizeLinear(p, @0.05, @128:uint8); w = %6x5:int8; s = %+5; z = %5:int8; "
        "n = QLinearMatMul(q, @0.05, @128:uint8, w, s, z, @9., @120:uint8); "
        "h = DequantizeLinear(n, @9., @120:uint8)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, s.0 scales, z.0 shifts, w2.0 reads",
        width=5,
        frame="tokens",
    ),
    row(
        "com.microsoft::QuantizeLinear",
        "q = com.microsoft.QuantizeLinear(p, @0.05, @128:uint8); "
        "h = com.microsoft.DequantizeLinear(q, @0.05, @128:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::DynamicQuantizeMatMul",
        "w = %6x5:int8; s = %+5; z = %5:int8; b = %5; h = com.microsoft.DynamicQuantizeMatMul(p, w, s, z, b)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, s.0 scales, z.0 shifts, b.0 shifts, w2.0 reads",
        frame="tokens",
        width=5,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MatMulIntegerToFloat",
        "q, t, u = DynamicQuantizeLinear(p); w = %6x5:int8; s = %+5; z = %5:int8; b = %5; "
        "h = com.microsoft.MatMulIntegerToFloat(q, w, t, s, u, z, b)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, s.0 scales, z.0 shifts, b.0 shifts, w2.0 reads",
        frame="tokens",
        width=5,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QGemm",
        "q = QuantizeLinear(p, @0.05, @128:uint8); w = %5x6:int8; s = %+5; z = %5:int8; c = %5:int32; "
        "h = com.microsoft.QGemm<transB = 1>(q, @0.05, @128:uint8, w, s, z, c)",
        "w1 6: w1.1 writes, b1.0 shifts, w.1 reads",
        "w 5: w.0 writes, s.0 scales, z.0 shifts, w2.0 reads",
        frame="dense",
        width=5,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearConv",
        "q = QuantizeLinear(p, @0.05, @128:uint8); w = %8x6x1x1:int8; "
        "m = com.microsoft.QLinearConv(q, @0.05, @128:uint8, w, @0.02, @0:int8, @9., @120:uint8); "
        "h = DequantizeLinear(m, @9., @120:uint8)",
        "w1 6: w1.0 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, w2.1 reads",
        width=8,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearAdd",
        "q = QuantizeLinear(p, @0.05, @128:uint8); "
        "m = com.microsoft.QLinearAdd(q, @0.05, @128:uint8, q, @0.05, @128:uint8, @0.06, @120:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearMul",
        "q = QuantizeLinear(p, @0.05, @128:uint8); c = %6x1x1:uint8; "
        "m = com.microsoft.QLinearMul(q, @0.05, @128:uint8, c, @0.05, @128:uint8, @0.06, @120:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        "w1 6: w1.0 writes, b1.0 shifts, c.0 scales, w2.1 reads",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearSigmoid",
        "q = QuantizeLinear(p, @0.05, @128:uint8); "
        "m = com.microsoft.QLinearSigmoid(q, @0.05, @128:uint8, @0.06, @120:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearLeakyRelu",
        "q = QuantizeLinear(p, @0.05, @128:uint8); "
        "m = com.microsoft.QLinearLeakyRelu<alpha = 0.1>(q, @0.05, @128:uint8, @0.06, @120:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearWhere",
        "q = QuantizeLinear(p, @0.05, @128:uint8); c = Greater(p, @0.); "
        "m = com.microsoft.QLinearWhere(c, q, @0.05, @128:uint8, q, @0.05, @128:uint8, @0.06, @120:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearConcat",
        "q = QuantizeLinear(p, @0.05, @128:uint8); "
        "m = com.microsoft.QLinearConcat<axis = 1>(@0.06, @120:uint8, q, @0.05, @128:uint8, q, @0.05, "
        "@128:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        width=12,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearGlobalAveragePool",
        "q = QuantizeLinear(p, @0.05, @128:uint8); "
        "m = com.microsoft.QLinearGlobalAveragePool(q, @0.05, @128:uint8, @0.06, @120:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearAveragePool",
        "q = QuantizeLinear(p, @0.05, @128:uint8); "
        "m = com.microsoft.QLinearAveragePool<kernel_shape = [2, 2]>(q, @0.05, @128:uint8, @0.06, @120:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::NhwcMaxPool",
        "q = QuantizeLinear(p, @0.05, @128:uint8); t = Transpose<perm = [0, 2, 3, 1]>(q); "
        "u = com.microsoft.NhwcMaxPool<kernel_shape = [2, 2]>(t); m = Transpose<perm = [0, 3, 1, 2]>(u); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QLinearSoftmax",
        "q = QuantizeLinear(p, @0.05, @128:uint8); "
        "m = com.microsoft.QLinearSoftmax<axis = 3, opset = 13>(q, @0.05, @128:uint8, @0.004, @0:uint8); "
        "h = DequantizeLinear(m, @0.06, @120:uint8)",
        PLAIN,
        domains=MICROSOFT,
    ),
]
