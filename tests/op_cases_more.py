"""More rows: recurrent, indexing, quantised, attention, fused and control-flow operators, and those that bar."""

from __future__ import annotations

from op_cases import DENSE, PLAIN, Row, row, stays

from onnxprune.coupling.rules.barriers import BARRIERS
from onnxprune.coupling.rules.recurrent import QUANTISED

MICROSOFT = {"com.microsoft": 1}
CLASSICAL = {"ai.onnx.ml": 3}


def _barrier(operator: str, reason: str) -> Row:
    """An operator of ONNX Runtime reads the producer's output beside a consumer that could otherwise be cut."""
    return row(
        operator,
        f"q = {operator.replace('::', '.')}(p); h = Relu(p)",
        *(f"! {axis} 6/6: {reason}" for axis in ("w1.1", "b1.0", "w2.0")),
        frame="tokens",
        domains={operator.partition("::")[0]: 1},
        runs=False,
    )


ROWS = [
    # recurrent
    row(
        "LSTM",
        "w = %1x20x6; r = %1x20x5; b = %1x40; q = LSTM<hidden_size = 5>(p, w, r, b); h = Squeeze(q, @[1])",
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5x4: w.1 writes, r.1 writes, r.2 reads, b.1 shifts, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    row(
        "LSTM/all outputs and inputs",
        "w = %1x20x6; r = %1x20x5; b = %1x40; h0 = %1x4x5; c0 = %1x4x5; pe = %1x15; "
        "q, yh, yc = LSTM<hidden_size = 5>(p, w, r, b, @[2, 1, 2, 2]:int32, h0, c0, pe); s = Squeeze(q, @[1]); "
        "a = Add(s, yh); h = Mul(a, yc)",
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5x4: w.1 writes, r.1 writes, r.2 reads, b.1 shifts, h0.2 writes, c0.2 writes, pe.1 writes, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    row(
        "LSTM/bidirectional",
        "w = %2x20x6; r = %2x20x5; b = %2x40; "
        'q = LSTM<hidden_size = 5, direction = "bidirectional">(p, w, r, b); '
        "u = Transpose<perm = [0, 2, 1, 3]>(q); h = Reshape(u, @[0, 0, -1])",
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5x4: w.1 writes, r.1 writes, r.2 reads, b.1 shifts, w2.0 reads",
        "! w.0 2/2: both directions share their tensors",
        "! r.0 2/2: both directions share their tensors",
        "! b.0 2/2: both directions share their tensors",
        frame="tokens",
        width=10,
    ),
    row(
        "LSTM/last state only",
        'w = %2x20x6; r = %2x20x5; q, yh = LSTM<hidden_size = 5, direction = "bidirectional">(p, w, r); '
        "u = Transpose<perm = [1, 0, 2]>(yh); h = Reshape(u, @[4, 10])",
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5x4: w.1 writes, r.1 writes, r.2 reads, w2.0 reads",
        "! w.0 2/2: both directions share their tensors",
        "! r.0 2/2: both directions share their tensors",
        frame="tokens",
        width=10,
    ),
    row(
        "LSTM/stacked",
        "w = %1x20x6; r = %1x20x5; q = LSTM<hidden_size = 5>(p, w, r); s = Squeeze(q, @[1]); w3 = %1x16x5; "
        'r3 = %1x16x4; q3 = LSTM<hidden_size = 4, direction = "reverse">(s, w3, r3); h = Squeeze(q3, @[1])',
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5x4: w.1 writes, r.1 writes, r.2 reads, w3.2 reads",
        "w3 4x4: w3.1 writes, r3.1 writes, r3.2 reads, w2.0 reads",
        frame="tokens",
        width=4,
    ),
    row(
        "LSTM/layout 1",
        "w = %2x20x6; r = %2x20x5; b = %2x40; h0 = %2x2x5; "
        'q, yh = LSTM<hidden_size = 5, direction = "bidirectional", layout = 1>(p, w, r, b, , h0); '
        "u = Reshape(q, @[2, 4, 10]); v = Reshape(yh, @[2, 1, 10]); h = Add(u, v)",
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5x4: w.1 writes, r.1 writes, r.2 reads, b.1 shifts, h0.2 writes, w2.0 reads",
        "! w.0 2/2: both directions share their tensors",
        "! r.0 2/2: both directions share their tensors",
        "! b.0 2/2: both directions share their tensors",
        "! h0.1 2/2: both directions share their tensors",
        frame="tokens",
        width=10,
        runs=False,
    ),
    row(
        "GRU",
        "w = %2x15x6; r = %2x15x5; b = %2x30; "
        'q = GRU<hidden_size = 5, direction = "bidirectional", linear_before_reset = 1>(p, w, r, b); '
        "u = Transpose<perm = [0, 2, 1, 3]>(q); h = Reshape(u, @[0, 0, -1])",
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5x3: w.1 writes, r.1 writes, r.2 reads, b.1 shifts, w2.0 reads",
        "! w.0 2/2: both directions share their tensors",
        "! r.0 2/2: both directions share their tensors",
        "! b.0 2/2: both directions share their tensors",
        frame="tokens",
        width=10,
    ),
    row(
        "RNN",
        "w = %1x5x6; r = %1x5x5; b = %1x10; h0 = %1x4x5; q, yh = RNN<hidden_size = 5>(p, w, r, b, , h0); "
        "s = Squeeze(q, @[1]); h = Add(s, yh)",
        "w1 6: w1.1 writes, b1.0 shifts, w.2 reads",
        "w 5: w.1 writes, r.1 writes, r.2 reads, b.1 shifts, h0.2 writes, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    # indexing
    row(
        "GatherElements",
        "k = Reshape(@[0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0], @[2, 6]); h = GatherElements<axis = 0>(p, k)",
        DENSE,
        frame="dense",
    ),
    row(
        "GatherElements/picks",
        "h = GatherElements<axis = 1>(p, k)",
        "! w1.1 6/6: its positions are picked by numbers computed elsewhere",
        "! b1.0 6/6: its positions are picked by numbers computed elsewhere",
        "! w2.0 6/6: its positions are picked by numbers computed elsewhere",
        inputs="float[2,3] x, int64[2,6] k",
        frame="dense",
    ),
    row(
        "ScatterElements",
        "u = %1x6; k = Reshape(@[0, 1, 1, 0, 1, 0], @[1, 6]); h = ScatterElements<axis = 0>(p, k, u)",
        "w1 6: w1.1 writes, b1.0 shifts, u.1 writes, w2.0 reads",
        frame="dense",
    ),
    row(
        "Scatter",
        "u = %1x6; k = Reshape(@[0, 1, 1, 0, 1, 0], @[1, 6]); h = Scatter<axis = 0>(p, k, u)",
        "w1 6: w1.1 writes, b1.0 shifts, u.1 writes, w2.0 reads",
        frame="dense",
        opset=10,
    ),
    row(
        "GatherND",
        "h = GatherND(p, k)",
        DENSE,
        inputs="float[2,4,3] x, int64[3,2] k",
        frame="tokens",
    ),
    row(
        "GatherND/batch",
        "h = GatherND<batch_dims = 1>(p, k)",
        DENSE,
        inputs="float[2,4,3] x, int64[2,3,1] k",
        frame="tokens",
    ),
    row(
        "ScatterND",
        "u = %3x6; k = Reshape(@[0, 1, 1, 2, 0, 3], @[3, 2]); h = ScatterND(p, k, u)",
        "w1 6: w1.1 writes, b1.0 shifts, u.1 scales, w2.0 reads",
        "! u.0 3/3: each entry writes a position of its own",
        frame="tokens",
    ),
    row(
        "TensorScatter",
        "u = %2x2x6; h = TensorScatter<axis = 1>(p, u)",
        "w1 6: w1.1 writes, b1.0 shifts, u.2 writes, w2.0 reads",
        "! u.0 2/2: its positions are picked by numbers computed elsewhere",
        "! u.1 2/2: its positions are picked by numbers computed elsewhere",
        frame="tokens",
        opset=24,
    ),
    row(
        "OneHot",
        "a = Greater(p, @0.); c = Cast<to = 7>(a); o = OneHot(c, @2, @[0., 1.]); h = ReduceSum<keepdims = 0>(o, @[3])",
        DENSE,
        "! t5.0 2/2: read as a setting by OneHot",
        frame="tokens",
    ),
    row(
        "Compress",
        "h = Compress<axis = 1>(p, @[true, false, true, true])",
        DENSE,
        frame="tokens",
    ),
    row(
        "Compress/channels",
        "h = Compress<axis = 2>(p, @[true, false, true, true])",
        "w1#0 3: w1.1 writes, b1.0 shifts, w2.0 reads",
        "w1#1 3: w1.1 writes, b1.0 shifts",
        frame="tokens",
        width=3,
    ),
    row(
        "Compress/channels, beside another reader",
        "c = Compress<axis = 2>(p, @[true, false, true, true, false, false]); z = MatMul(c, %3x4); h = Relu(p)",
        "w1#0 3: w1.1 writes, b1.0 shifts, t4.0 reads, w2.0 reads",
        "w1#1 3: w1.1 writes, b1.0 shifts, w2.0 reads",
        "t4 4: t4.1 writes",
        frame="tokens",
    ),
    row(
        "Compress/flat",
        "f = Compress(p, @[true, true, false, true, true, true, true]); h = Reshape(f, @[1, 6])",
        "! w1.1 6/6: flattened and picked by a condition",
        "! b1.0 6/6: flattened and picked by a condition",
        "! w2.0 6/6: flattened and picked by a condition",
        frame="tokens",
    ),
    row(
        "Trilu",
        "u = Unsqueeze(p, @[3, 4]); t = Trilu(u); h = Squeeze(t, @[3, 4])",
        DENSE,
        frame="tokens",
    ),
    row(
        "ReverseSequence",
        "h = ReverseSequence<time_axis = 1, batch_axis = 0>(p, @[3, 2])",
        DENSE,
        frame="tokens",
    ),
    row(
        "Col2Im",
        "k = Reshape(p, @[2, 6, 16]); w = %8x6; e = MatMul(w, k); h = Col2Im(e, @[5, 5], @[2, 2])",
        "w1 6: w1.0 writes, b1.0 shifts, w.1 reads",
        "w 2x4: w.0 writes, w2.1 reads",
        width=2,
    ),
    row(
        "RoiAlign",
        "k = Reshape(@[0., 0., 2., 2., 1., 1., 3., 3.], @[2, 4]); "
        "h = RoiAlign<output_height = 2, output_width = 2>(p, k, @[0, 1])",
        PLAIN,
        "! t3.0 8/8: regions are picked by numbers",
    ),
    row(
        "MaxRoiPool",
        "k = Reshape(@[0., 0., 0., 2., 2., 1., 1., 1., 3., 3.], @[2, 5]); h = MaxRoiPool<pooled_shape = [2, 2]>(p, k)",
        PLAIN,
        "! t3.0 10/10: regions are picked by numbers",
    ),
    row(
        "GridSample",
        "h = GridSample(p, g)",
        PLAIN,
        inputs="float[2,3,4,4] x, float[2,2,2,2] g",
    ),
    # sums of products
    row(
        "DeformConv",
        "w = %4x3x2x2; b = %4; h = DeformConv<group = 2>(p, w, o, b)",
        "w1 3x2: w1.0 writes, b1.0 shifts, w.1 reads",
        "w 2x2: w.0 writes, b.0 shifts, w2.1 reads",
        "! w.2 2/2: a window slides over this axis",
        "! w.3 2/2: a window slides over this axis",
        inputs="float[2,3,4,4] x, float[2,8,3,3] o",
        width=4,
    ),
    row(
        "DeformConv/offset groups",
        "w = %4x6x2x2; h = DeformConv<offset_group = 2>(p, w, o)",
        "w 4: w.0 writes, w2.1 reads",
        "! w1.0 6/6: its channels share offsets in groups",
        "! b1.0 6/6: its channels share offsets in groups",
        "! w.1 6/6: its channels share offsets in groups",
        "! w.2 2/2: a window slides over this axis",
        "! w.3 2/2: a window slides over this axis",
        inputs="float[2,3,4,4] x, float[2,16,3,3] o",
        width=4,
    ),
    row(
        "Einsum",
        'w = %6x2x3; q = Einsum<equation = "bsi,ihd->bshd">(p, w); w3 = %2x3x7; '
        'h = Einsum<equation = "bshd, hde -> bse">(q, w3)',
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w#0 2: w.1 writes, w3.0 reads",
        "w#1 3: w.2 writes, w3.1 reads",
        "w3 7: w3.2 writes, w2.0 reads",
        frame="tokens",
        width=7,
    ),
    row(
        "Einsum/implicit",
        'w = %6x5; q = Einsum<equation = "bsi,ij">(p, w); h = Transpose<perm = [0, 2, 1]>(q)',
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    row(
        "Einsum/ellipsis",
        'w = %6x6; h = Einsum<equation = "...i,ij->...j">(p, w)',
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 6: w.1 writes, w2.0 reads",
        frame="tokens",
    ),
    row(
        "Einsum/diagonal",
        'w = %6x6; d = Einsum<equation = "ii->i">(w); h = Mul(p, d)',
        "! w1.1 6/6: a diagonal is taken",
        "! b1.0 6/6: a diagonal is taken",
        "! w.0 6/6: a diagonal is taken",
        "! w.1 6/6: a diagonal is taken",
        "! w2.0 6/6: a diagonal is taken",
        frame="tokens",
    ),
    row(
        "Einsum/transpose",
        'u = Einsum<equation = "bsi->sbi">(p); h = Identity(u)',
        DENSE,
        frame="tokens",
    ),
    # quantised
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
    row(
        "com.microsoft::DynamicQuantizeLSTM",
        "w = %1x6x20:int8; r = %1x5x20:int8; ws = %+1; wz = %1:int8; "
        "q = com.microsoft.DynamicQuantizeLSTM<hidden_size = 5>(p, w, r, , , , , , ws, wz, ws, wz); "
        "h = Squeeze(q, @[1])",
        "w1 6: w1.1 writes, b1.0 shifts, w.1 reads",
        *stays("the gates of one unit go together", "w.2 20/20"),
        *stays(QUANTISED, "r.1 5/5"),
        *stays("the gates of one unit go together", "r.2 20/20"),
        *stays(QUANTISED, "w2.0 5/5"),
        frame="tokens",
        width=5,
        domains=MICROSOFT,
    ),
    # attention
    row(
        "Attention",
        "wq = %6x12; wk = %6x12; wv = %6x6; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); "
        "h = Attention<q_num_heads = 3, kv_num_heads = 3>(q, k, v)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 3x4: wq.1 writes, wk.1 writes, wv.1 writes, w2.0 reads",
        frame="tokens",
        width=6,
        opset=23,
    ),
    row(
        "Attention/grouped",
        "wq = %6x24; wk = %6x12; wv = %6x12; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); "
        "mask = %6x4x4; h = Attention<q_num_heads = 6, kv_num_heads = 3, is_causal = 1>(q, k, v, mask)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 3x8: wq.1 writes, wk.1 writes, wv.1 writes, mask.0 scales, w2.0 reads",
        "! mask.1 4/4: attention is normalised over the tokens",
        "! mask.2 4/4: attention is normalised over the tokens",
        frame="tokens",
        width=24,
        opset=24,
    ),
    row(
        "Attention/4D",
        "wq = %6x12; wk = %6x12; wv = %6x6; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); "
        "q3 = Reshape(q, @[0, 0, 3, 4]); k3 = Reshape(k, @[0, 0, 3, 4]); v3 = Reshape(v, @[0, 0, 3, 2]); "
        "q4 = Transpose<perm = [0, 2, 1, 3]>(q3); k4 = Transpose<perm = [0, 2, 1, 3]>(k3); "
        "v4 = Transpose<perm = [0, 2, 1, 3]>(v3); a = Attention(q4, k4, v4); "
        "u = Transpose<perm = [0, 2, 1, 3]>(a); h = Reshape(u, @[0, 0, 6])",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 3x4: wq.1 writes, wk.1 writes, wv.1 writes, w2.0 reads",
        frame="tokens",
        width=6,
        opset=23,
    ),
    row(
        "Attention/past",
        "wq = %6x12; wk = %6x12; wv = %6x12; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); "
        "pk = %2x3x5x4; pv = %2x3x5x4; "
        "h, yk, yv = Attention<q_num_heads = 3, kv_num_heads = 3>(q, k, v, , pk, pv)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 3x4: wq.1 writes, wk.1 writes, wv.1 writes, pk.1 scales, pv.1 scales, w2.0 reads",
        "! pk.2 5/5: attention is normalised over the tokens",
        "! pk.3 4/4: a factor of the same axis as 'g', which is cut instead",
        "! pv.2 5/5: attention is normalised over the tokens",
        "! pv.3 4/4: a factor of the same axis as 'g', which is cut instead",
        frame="tokens",
        width=12,
        opset=23,
    ),
    row(
        "RotaryEmbedding",
        "wq = %6x12; q = MatMul(p, wq); cs = %16x2; sn = %16x2; "
        "pos = Reshape(@[0, 1, 2, 3, 1, 2, 3, 4], @[2, 4]); h = RotaryEmbedding<num_heads = 3>(q, cs, sn, pos)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads",
        "wq 2x6: wq.1 writes, cs.1 scales, sn.1 scales, w2.0 reads",
        "! cs.0 16/16: its positions are picked by numbers computed elsewhere",
        "! sn.0 16/16: its positions are picked by numbers computed elsewhere",
        frame="tokens",
        width=12,
        opset=23,
    ),
    row(
        "RotaryEmbedding/interleaved 4D",
        "q3 = Reshape(p, @[2, 4, 1, 6]); q4 = Transpose<perm = [0, 2, 1, 3]>(q3); cs = %2x4x3; sn = %2x4x3; "
        "u = RotaryEmbedding<interleaved = 1>(q4, cs, sn); h = Reshape(u, @[2, 4, 6])",
        "w1 3x2: w1.1 writes, b1.0 shifts, cs.2 scales, sn.2 scales, w2.0 reads",
        frame="tokens",
        width=6,
        opset=23,
    ),
    row(
        "RotaryEmbedding/partial",
        "wq = %6x18; q = MatMul(p, wq); cs = %16x2; sn = %16x2; "
        "pos = Reshape(@[0, 1, 2, 3, 1, 2, 3, 4], @[2, 4]); "
        "h = RotaryEmbedding<num_heads = 3, rotary_embedding_dim = 4>(q, cs, sn, pos)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads",
        "wq 3x6: wq.1 writes, w2.0 reads",
        "! cs.0 16/16: its positions are picked by numbers computed elsewhere",
        "! cs.1 2/2: only a part of it is rotated",
        "! sn.0 16/16: its positions are picked by numbers computed elsewhere",
        "! sn.1 2/2: only a part of it is rotated",
        frame="tokens",
        width=18,
        opset=23,
    ),
    row(
        "com.microsoft::RotaryEmbedding",
        "wq = %6x12; q = MatMul(p, wq); cs = %16x2; sn = %16x2; "
        "pos = Reshape(@[0, 1, 2, 3, 1, 2, 3, 4], @[2, 4]); "
        "h = com.microsoft.RotaryEmbedding<num_heads = 3>(q, pos, cs, sn)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads",
        "wq 2x6: wq.1 writes, cs.1 scales, sn.1 scales, w2.0 reads",
        "! cs.0 16/16: its positions are picked by numbers computed elsewhere",
        "! sn.0 16/16: its positions are picked by numbers computed elsewhere",
        frame="tokens",
        width=12,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::RotaryEmbedding/one table",
        "wq = %6x12; q = MatMul(p, wq); cs = %16x2; sn = %16x2; "
        "pos = Reshape(@[0, 1, 2, 3, 1, 2, 3, 4], @[2, 4]); "
        "h = com.microsoft.RotaryEmbedding<interleaved = 1>(q, pos, cs, sn)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads",
        "wq 2x6: wq.1 writes, cs.1 scales, sn.1 scales, w2.0 reads",
        "! cs.0 16/16: its positions are picked by numbers computed elsewhere",
        "! sn.0 16/16: its positions are picked by numbers computed elsewhere",
        frame="tokens",
        width=12,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::Attention",
        "w = %6x36; b = %36; h = com.microsoft.Attention<num_heads = 3>(p, w, b)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 3x12: w.1 writes, b.0 shifts, w2.0 reads",
        frame="tokens",
        width=12,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::Attention/narrow values",
        "w = %6x30; b = %30; ab = %1x3x4x4; "
        "h = com.microsoft.Attention<num_heads = 3, qkv_hidden_sizes = [12, 12, 6]>(p, w, b, , , ab)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 3x10: w.1 writes, b.0 shifts, ab.1 writes, w2.0 reads",
        "! ab.2 4/4: attention is normalised over the tokens",
        "! ab.3 4/4: attention is normalised over the tokens",
        frame="tokens",
        width=6,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MultiHeadAttention",
        "wq = %6x12; wk = %6x12; wv = %6x6; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); b = %30; "
        "h = com.microsoft.MultiHeadAttention<num_heads = 3>(q, k, v, b)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 3x4: wq.1 writes, wk.1 writes, wv.1 writes, b.0 shifts, w2.0 reads",
        frame="tokens",
        width=6,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MultiHeadAttention/4D keys",
        "wq = %6x12; q = MatMul(p, wq); k = %2x3x5x4; v = %2x3x5x4; ab = %1x1x4x5; "
        "h = com.microsoft.MultiHeadAttention<num_heads = 3>(q, k, v, , , ab)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads",
        "wq 3x4: wq.1 writes, k.1 scales, v.1 scales, w2.0 reads",
        "! k.2 5/5: attention is normalised over the tokens",
        "! k.3 4/4: a factor of the same axis as 'g', which is cut instead",
        "! v.2 5/5: attention is normalised over the tokens",
        "! v.3 4/4: a factor of the same axis as 'g', which is cut instead",
        "! ab.2 4/4: attention is normalised over the tokens",
        "! ab.3 5/5: attention is normalised over the tokens",
        frame="tokens",
        width=12,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::GroupQueryAttention",
        "wq = %6x48; wk = %6x16; wv = %6x16; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); "
        "h = com.microsoft.GroupQueryAttention<num_heads = 6, kv_num_heads = 2>(q, k, v, , , @[3, 3]:int32, "
        "@4:int32)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 2x24: wq.1 writes, wk.1 writes, wv.1 writes, w2.0 reads",
        frame="tokens",
        width=48,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::GroupQueryAttention/packed rotary",
        "w = %6x160; q = MatMul(p, w); cs = %16x8; sn = %16x8; "
        "h = com.microsoft.GroupQueryAttention<num_heads = 6, kv_num_heads = 2, do_rotary = 1>(q, , , , , @[3, "
        "3]:int32, @4:int32, cs, sn)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 2x80: w.1 writes, w2.0 reads",
        "! cs.0 16/16: read as a setting by com.microsoft::GroupQueryAttention",
        "! cs.1 8/8: read as a setting by com.microsoft::GroupQueryAttention",
        "! sn.0 16/16: read as a setting by com.microsoft::GroupQueryAttention",
        "! sn.1 8/8: read as a setting by com.microsoft::GroupQueryAttention",
        frame="tokens",
        width=96,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QAttention",
        "q, s, z = DynamicQuantizeLinear(p); w = %6x36:int8; b = %36; ws = %+36; wz = %36:int8; "
        "h = com.microsoft.QAttention<num_heads = 3>(q, w, b, s, ws, , z, wz)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 3x12: w.1 writes, b.0 shifts, ws.0 scales, wz.0 shifts, w2.0 reads",
        frame="tokens",
        width=12,
        domains=MICROSOFT,
    ),
    # fused
    row(
        "com.microsoft::Gelu",
        "h = com.microsoft.Gelu(p)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QuickGelu",
        "h = com.microsoft.QuickGelu(p)",
        PLAIN,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::BiasGelu",
        "b = %6; h = com.microsoft.BiasGelu(p, b)",
        "w1 6: w1.1 writes, b1.0 shifts, b.0 shifts, w2.0 reads",
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::FastGelu",
        "b = %6; h = com.microsoft.FastGelu(p, b)",
        "w1 6: w1.1 writes, b1.0 shifts, b.0 shifts, w2.0 reads",
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::SkipLayerNormalization",
        "w = %6x6; s = MatMul(p, w); g = %6; e = %6; b = %6; "
        "n, , , t = com.microsoft.SkipLayerNormalization(s, p, g, e, b); h = Add(n, t)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads, w.1 writes, g.0 scales, e.0 shifts, b.0 shifts, w2.0 reads ~ "
        "com.microsoft::SkipLayerNormalization",
        frame="tokens",
        allow=("statistics",),
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::SkipLayerNormalization/statistics",
        "g = %6; sk = %4x6; h = com.microsoft.SkipLayerNormalization(p, sk, g)",
        "! w1.1 6/6: normalises, averages or picks over this axis: removing positions changes its statistics",
        "! b1.0 6/6: normalises, averages or picks over this axis: removing positions changes its statistics",
        "! g.0 6/6: normalises, averages or picks over this axis: removing positions changes its statistics",
        "! sk.1 6/6: normalises, averages or picks over this axis: removing positions changes its statistics",
        "! w2.0 6/6: normalises, averages or picks over this axis: removing positions changes its statistics",
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        "g = %6; sk = %1x4x6; b = %6; h = com.microsoft.SkipSimplifiedLayerNormalization(p, sk, g, b)",
        "w1 6: w1.1 writes, b1.0 shifts, g.0 scales, sk.2 scales, b.0 shifts, w2.0 reads ~ "
        "com.microsoft::SkipSimplifiedLayerNormalization",
        frame="tokens",
        allow=("statistics",),
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::EmbedLayerNormalization",
        "we = %9x6; pe = %4x6; se = %2x6; g = %6; e = %6; "
        "h, mi = com.microsoft.EmbedLayerNormalization(ids, seg, we, pe, se, g, e); w2 = %6x5; y = MatMul(h, w2)",
        "we 6: we.1 writes, pe.1 writes, se.1 writes, g.0 scales, e.0 shifts, w2.0 reads ~ "
        "com.microsoft::EmbedLayerNormalization",
        "! we.0 9/9: its positions are picked by numbers computed elsewhere",
        "! pe.0 4/4: its positions are picked by numbers computed elsewhere",
        "! se.0 2/2: its positions are picked by numbers computed elsewhere",
        inputs="int32[2,4] ids, int32[2,4] seg",
        frame="open",
        allow=("statistics",),
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::FusedMatMul",
        "w = %8x6; a = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(p, w); "
        "t = Transpose<perm = [0, 2, 1]>(a); c = %8x7; h = com.microsoft.FusedMatMul<transA = 1>(t, c)",
        "w1 6: w1.1 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, c.0 reads",
        "c 7: c.1 writes, w2.0 reads",
        frame="tokens",
        width=7,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::TransposeMatMul",
        "w = %8x6; h = com.microsoft.TransposeMatMul<transB = 1>(p, w)",
        "w1 6: w1.1 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, w2.0 reads",
        frame="tokens",
        width=8,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::FusedGemm",
        'w = %8x6; b = %8; h = com.microsoft.FusedGemm<transB = 1, activation = "Relu">(p, w, b)',
        "w1 6: w1.1 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, b.0 shifts, w2.0 reads",
        frame="dense",
        width=8,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MatMulNBits",
        "w3 = %6x16; q = MatMul(p, w3); w = %8x1x8:uint8; s = %+8; z = %8:uint8; b = %8; "
        "h = com.microsoft.MatMulNBits<N = 8, K = 16, bits = 4, block_size = 16>(q, w, s, z, , b)",
        "w1 6: w1.1 writes, b1.0 shifts, w3.0 reads",
        "w 8: w.0 writes, s.0 scales, z.0 shifts, b.0 shifts, w2.0 reads",
        "! w3.1 16/16: its weights are packed in blocks of bits",
        "! w.2 8/8: its weights are packed in blocks of bits",
        frame="tokens",
        width=8,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MatMulNBits/blocks of inputs",
        "v = %64x1x8:uint8; t = %+64x1; e = %6x16; d = MatMul(p, e); "
        "q = com.microsoft.MatMulNBits<N = 64, K = 16, bits = 4, block_size = 16>(d, v, t); g = Relu(q); "
        "w = %8x4x8:uint8; s = %+8x4; "
        "h = com.microsoft.MatMulNBits<N = 8, K = 64, bits = 4, block_size = 16>(g, w, s)",
        "w1 6: w1.1 writes, b1.0 shifts, e.0 reads",
        "v 4x16: v.0 writes, t.0 scales, w.1 reads, s.1 reads",
        "w 8: w.0 writes, s.0 scales, w2.0 reads",
        "! v.2 8/8: its weights are packed in blocks of bits",
        "! e.1 16/16: its weights are packed in blocks of bits",
        "! w.2 8/8: its weights are packed in blocks of bits",
        frame="tokens",
        width=8,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MatMulNBits/8 bits",
        "e = %6x64; q = MatMul(p, e); w = %8x4x16:uint8; s = %+8x4; z = %8x4:uint8; "
        "h = com.microsoft.MatMulNBits<N = 8, K = 64, bits = 8, block_size = 16>(q, w, s, z)",
        "w1 6: w1.1 writes, b1.0 shifts, e.0 reads",
        "e 4x16: e.1 writes, w.1 reads, s.1 reads, z.1 reads",
        "w 8: w.0 writes, s.0 scales, z.0 shifts, w2.0 reads",
        "! w.2 16/16: its weights are packed in blocks of bits",
        frame="tokens",
        width=8,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::Trilu",
        "u = Unsqueeze(p, @[3, 4]); t = com.microsoft.Trilu(u); h = Squeeze(t, @[3, 4])",
        DENSE,
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::GatherND",
        "k = Reshape(@[0, 1, 1, 2, 0, 3], @[3, 2]); h = com.microsoft.GatherND(p, k)",
        DENSE,
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::GridSample",
        "h = com.microsoft.GridSample(p, g)",
        PLAIN,
        inputs="float[2,3,4,4] x, float[2,2,2,2] g",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::FusedConv",
        'w = %8x6x1x1; b = %8; z = Conv(p, w); h = com.microsoft.FusedConv<activation = "Relu">(p, w, b, z)',
        "w1 6: w1.0 writes, b1.0 shifts, w.1 reads",
        "w 8: w.0 writes, b.0 shifts, w2.1 reads",
        width=8,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::GroupQueryAttention/cache",
        "wq = %6x48; wk = %6x16; wv = %6x16; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); "
        "h, yk, yv = com.microsoft.GroupQueryAttention<num_heads = 6, kv_num_heads = 2>(q, k, v, pk, pv, "
        "@[8]:int32, @9:int32)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 3x16: wq.1 writes, w2.0 reads",
        inputs="float[1,4,3] x, float[1,2,5,8] pk, float[1,2,5,8] pv",
        frame="tokens",
        width=48,
        domains=MICROSOFT,
    ),
    row(
        "Attention/cache",
        "wq = %6x24; wk = %6x12; wv = %6x12; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); "
        "h, yk, yv = Attention<q_num_heads = 6, kv_num_heads = 3>(q, k, v, , pk, pv)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 2x12: wq.1 writes, w2.0 reads",
        inputs="float[2,4,3] x, float[2,3,5,4] pk, float[2,3,5,4] pv",
        frame="tokens",
        width=24,
        opset=24,
    ),
    row(
        "SimplifiedLayerNormalization",
        "w = %6x6; m2 = MatMul(p, w); g = %6; s = Add(m2, p); h = SimplifiedLayerNormalization(s, g)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads, w.1 writes, g.0 scales, w2.0 reads ~ SimplifiedLayerNormalization",
        frame="tokens",
        allow=("statistics",),
    ),
    row(
        "LayerNormalization/before opset 17",
        "g = %6; e = %6; h = LayerNormalization(p, g, e)",
        "w1 6: w1.1 writes, b1.0 shifts, g.0 scales, e.0 shifts, w2.0 reads ~ LayerNormalization",
        frame="tokens",
        allow=("statistics",),
        opset=14,
    ),
    row(
        "CausalConvWithState",
        "t = Transpose<perm = [0, 2, 1]>(p); w = %6x1x3; b = %6; q, s = CausalConvWithState(t, w, b); "
        "h = Transpose<perm = [0, 2, 1]>(q)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 scales, b.0 shifts, w2.0 reads",
        "! w.2 3/3: a window slides over this axis",
        frame="tokens",
        opset=27,
        runs=False,
    ),
    row(
        "com.microsoft::CausalConvWithState",
        "t = Transpose<perm = [0, 2, 1]>(p); w = %6x1x3; b = %6; st = %2x6x2; "
        "q, s = com.microsoft.CausalConvWithState(t, w, b, st); h = Transpose<perm = [0, 2, 1]>(q)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 scales, b.0 shifts, st.1 shifts, w2.0 reads",
        "! w.2 3/3: a window slides over this axis",
        "! st.2 2/2: a window slides over this axis",
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "SwiGLU",
        "h = SwiGLU(p, p)",
        PLAIN,
        opset=28,
        runs=False,
    ),
    # control flow
    row(
        "If",
        "g = ReduceSum<keepdims = 0>(p); c = Greater(g, @0.); w = %6x8; v = %6x7; v3 = %7x8; "
        "q = If(c) <then_branch = a () => (float[2,4,8] ya) { ya = MatMul(p, w) }, else_branch = b () => "
        "(float[2,4,8] yb) { m2 = MatMul(p, v); "
        "yb = MatMul(m2, v3) }>; h = Relu(q)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads, v.0 reads",
        "w 8: w.1 writes, v3.1 writes, w2.0 reads",
        "v 7: v.1 writes, v3.0 reads",
        frame="tokens",
        width=8,
    ),
    row(
        "If/other branch",
        "g = ReduceSum<keepdims = 0>(p); c = Less(g, @0.); w = %6x8; v = %6x7; v3 = %7x8; "
        "q = If(c) <then_branch = a () => (float[2,4,8] ya) { ya = MatMul(p, w) }, else_branch = b () => "
        "(float[2,4,8] yb) { m2 = MatMul(p, v); "
        "yb = MatMul(m2, v3) }>; h = Relu(q)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads, v.0 reads",
        "w 8: w.1 writes, v3.1 writes, w2.0 reads",
        "v 7: v.1 writes, v3.0 reads",
        frame="tokens",
        width=8,
    ),
    row(
        "If/constants and shapes inside",
        "g = ReduceSum<keepdims = 0>(p); c = Greater(g, @0.); "
        "q = If(c) <then_branch = a () => (float[2,4,6] ya) { s = Constant<value_ints = [2, 4, 2, 3]>(); "
        "t = Reshape(p, s); n = Relu(t); k = Constant<value = int64[3] {2, 4, 6}>(); "
        "ya = Reshape(n, k) }, else_branch = b () => (float[2,4,6] yb) { k = Constant<value = float[6] {1, 2, 3, "
        "4, 5, 6}>(); "
        "yb = Mul(p, k) }>; h = Relu(q)",
        "w1 2x3: w1.1 writes, b1.0 shifts, w2.0 reads, q/else_branch:k.0 scales",
        frame="tokens",
    ),
    row(
        "If/branches of different shape",
        "g = ReduceSum<keepdims = 0>(p); c = Greater(g, @0.); "
        "q = If(c) <then_branch = a () => (float[d0,d1,6] ya) { ya = Identity(p) }, else_branch = b () => "
        "(float[d0,d1,6] yb) { yb = Concat<axis = 1>(p, p) }>; "
        "h = Relu(q)",
        DENSE,
        frame="tokens",
    ),
    row(
        "If/known condition",
        "q = If(@true) <then_branch = a () => (float[d0,d1,6] ya) { ya = Relu(p) }, else_branch = b () => "
        "(float[d2,d3] yb) { yb = Flatten(p) }>; "
        "h = Relu(q)",
        DENSE,
        frame="tokens",
    ),
    row(
        "Loop",
        "w = %6x6; v = %6x7; "
        "f, o = Loop(@3, , p) <body = turn (int64 i, bool c, float[2,4,6] s) => (bool d, float[2,4,6] n, "
        "float[2,4,7] e) { d = Identity(c); "
        "z = MatMul(s, w); n = Tanh(z); e = MatMul(n, v) }>; t = ReduceSum<keepdims = 0>(o, @[0]); w4 = %7x5; "
        "u = MatMul(t, w4); w3 = %6x5; a = MatMul(f, w3); h = Add(a, u)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads, w.1 writes, v.0 reads, w3.0 reads",
        "v 7: v.1 writes, w4.0 reads",
        "w4 5: w4.1 writes, w3.1 writes, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    row(
        "Loop/growing state",
        "f = Loop(@3, , p) <body = turn (int64 i, bool c, float[2,n,6] s) => (bool d, float[2,m,6] e) { d = "
        "Identity(c); "
        "e = Concat<axis = 1>(s, s) }>; h = Relu(f)",
        DENSE,
        frame="tokens",
    ),
    row(
        "Scan",
        "w = %6x5; v = %5x5; z0 = %4x5; "
        "f, o = Scan(z0, p) <num_scan_inputs = 1, body = turn (float[4,5] s, float[4,6] x1) => (float[4,5] n, "
        "float[4,5] e) { a = MatMul(x1, w); "
        "b = MatMul(s, v); q = Add(a, b); n = Tanh(q); e = Identity(n) }>; u = Unsqueeze(f, @[0]); h = Add(o, u)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, v.0 reads, v.1 writes, z0.1 writes, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    row(
        "Scan/axes",
        "w = %6x5; "
        "o = Scan(p) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1], body = turn "
        "(float[2,6] x1) => (float[2,5] e) { e = MatMul(x1, w) }>; "
        "h = Relu(o)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 5: w.1 writes, w2.0 reads",
        frame="tokens",
        width=5,
    ),
    # classical machine learning
    row(
        "ai.onnx.ml::Scaler",
        "h = ai.onnx.ml.Scaler<offset=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], scale=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]>(p)",
        DENSE,
        frame="dense",
        domains=CLASSICAL,
    ),
    row(
        "ai.onnx.ml::Scaler/one for all",
        "h = ai.onnx.ml.Scaler<offset=[0.1], scale=[2.0]>(p)",
        DENSE,
        frame="dense",
        domains=CLASSICAL,
    ),
    row(
        "ai.onnx.ml::Imputer",
        "r = Relu(p); h = ai.onnx.ml.Imputer<imputed_value_floats=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], replaced_value_float=0.0>(r)",
        DENSE,
        frame="dense",
        domains=CLASSICAL,
    ),
    row("ai.onnx.ml::Binarizer", "h = ai.onnx.ml.Binarizer(p)", DENSE, frame="dense", domains=CLASSICAL),
    row(
        "ai.onnx.ml::Normalizer",
        'h = ai.onnx.ml.Normalizer<norm="L2">(p)',
        DENSE + " ~ ai.onnx.ml::Normalizer",
        frame="dense",
        domains=CLASSICAL,
        allow=("statistics",),
    ),
    # barriers
    row(
        "NonZero",
        "q = NonZero(p); h = Relu(p)",
        "! w1.1 6/6: the number of its results depends on the values",
        "! b1.0 6/6: the number of its results depends on the values",
        "! w2.0 6/6: the number of its results depends on the values",
        frame="tokens",
    ),
    row(
        "Unique",
        "q = Unique(p); h = Relu(p)",
        "! w1.1 6/6: the number of its results depends on the values",
        "! b1.0 6/6: the number of its results depends on the values",
        "! w2.0 6/6: the number of its results depends on the values",
        frame="tokens",
    ),
    row(
        "NonMaxSuppression",
        "w3 = %6x4; a = MatMul(p, w3); q = NonMaxSuppression(a, a); h = Relu(p)",
        "w1 6: w1.1 writes, b1.0 shifts, w3.0 reads, w2.0 reads",
        "! w3.1 4/4: the number of its results depends on the values",
        frame="tokens",
    ),
    row(
        "Range",
        "q = Range(@0., @6., @1.); h = Add(p, q)",
        "! w1.1 6/6: its values count positions",
        "! b1.0 6/6: its values count positions",
        "! w2.0 6/6: its values count positions",
        frame="tokens",
    ),
    row(
        "AffineGrid",
        "a = Reshape(p, @[8, 2, 3]); q = AffineGrid(a, @[8, 1, 5, 5]); h = Relu(p)",
        "! w1.1 6/6: its values count positions",
        "! b1.0 6/6: its values count positions",
        "! w2.0 6/6: its values count positions",
        frame="tokens",
    ),
    row(
        "CenterCropPad",
        "h = CenterCropPad<axes = [1]>(p, @[3])",
        DENSE,
        frame="tokens",
    ),
    row(
        "RandomNormal",
        "q = RandomNormal<shape = [6]>(); h = Add(p, q)",
        "! w1.1 6/6: random numbers cannot be drawn for fewer positions alike",
        "! b1.0 6/6: random numbers cannot be drawn for fewer positions alike",
        "! w2.0 6/6: random numbers cannot be drawn for fewer positions alike",
        runs=False,
        frame="tokens",
    ),
    row(
        "RandomUniform",
        "q = RandomUniform<shape = [6]>(); h = Add(p, q)",
        "! w1.1 6/6: random numbers cannot be drawn for fewer positions alike",
        "! b1.0 6/6: random numbers cannot be drawn for fewer positions alike",
        "! w2.0 6/6: random numbers cannot be drawn for fewer positions alike",
        runs=False,
        frame="tokens",
    ),
    row(
        "Multinomial",
        "a = Reshape(p, @[8, 6]); q = Multinomial<sample_size = 3>(a); h = Relu(p)",
        "! w1.1 6/6: random numbers cannot be drawn for fewer positions alike",
        "! b1.0 6/6: random numbers cannot be drawn for fewer positions alike",
        "! w2.0 6/6: random numbers cannot be drawn for fewer positions alike",
        frame="tokens",
    ),
    row(
        "DFT",
        "u = Unsqueeze(p, @[3]); q = DFT(u, , @1); f = ReduceSum<keepdims = 0>(q, @[3]); h = Relu(f)",
        DENSE,
        frame="tokens",
    ),
    row(
        "DFT/opset 17",
        "u = Unsqueeze(p, @[3]); q = DFT<axis = 2>(u); h = Relu(p)",
        "! w1.1 6/6: a spectrum of fixed length",
        "! b1.0 6/6: a spectrum of fixed length",
        "! w2.0 6/6: a spectrum of fixed length",
        opset=17,
        frame="tokens",
    ),
    row(
        "STFT",
        "a = Reshape(p, @[2, 24, 1]); q = STFT(a, @4, , @8); h = Relu(p)",
        "! w1.1 6/6: a signal of fixed length",
        "! b1.0 6/6: a signal of fixed length",
        "! w2.0 6/6: a signal of fixed length",
        frame="tokens",
    ),
    row(
        "MelWeightMatrix",
        "q = MelWeightMatrix(@4, @10, @8000, @0., @4000.); h = MatMul(p, q)",
        "! w1.1 6/6: a signal of fixed length",
        "! b1.0 6/6: a signal of fixed length",
        "! w2.0 4/4: a signal of fixed length",
        width=4,
        frame="tokens",
    ),
    row(
        "HannWindow",
        "q = HannWindow(@6); h = Mul(p, q)",
        "! w1.1 6/6: a signal of fixed length",
        "! b1.0 6/6: a signal of fixed length",
        "! w2.0 6/6: a signal of fixed length",
        frame="tokens",
    ),
    row(
        "HammingWindow",
        "q = HammingWindow(@6); h = Mul(p, q)",
        "! w1.1 6/6: a signal of fixed length",
        "! b1.0 6/6: a signal of fixed length",
        "! w2.0 6/6: a signal of fixed length",
        frame="tokens",
    ),
    row(
        "BlackmanWindow",
        "q = BlackmanWindow(@6); h = Mul(p, q)",
        "! w1.1 6/6: a signal of fixed length",
        "! b1.0 6/6: a signal of fixed length",
        "! w2.0 6/6: a signal of fixed length",
        frame="tokens",
    ),
    row(
        "SequenceConstruct, SequenceAt",
        "s = SequenceConstruct(p, p); q = SequenceAt(s, @0); h = Relu(q)",
        "! w1.1 6/6: tensors in a sequence or an optional are not followed",
        "! b1.0 6/6: tensors in a sequence or an optional are not followed",
        "! w2.0 6/6: tensors in a sequence or an optional are not followed",
        frame="tokens",
    ),
    row(
        "SequenceEmpty, SequenceInsert, SequenceErase, SequenceLength",
        "s = SequenceEmpty(); t = SequenceInsert(s, p); n = SequenceLength(t); u = SequenceErase(t, @0); h = Relu(p)",
        "! w1.1 6/6: tensors in a sequence or an optional are not followed",
        "! b1.0 6/6: tensors in a sequence or an optional are not followed",
        "! w2.0 6/6: tensors in a sequence or an optional are not followed",
        frame="tokens",
    ),
    row(
        "SplitToSequence, ConcatFromSequence",
        "s = SplitToSequence<axis = 1>(p, @2); q = ConcatFromSequence<axis = 1>(s); h = Relu(q)",
        "! w1.1 6/6: tensors in a sequence or an optional are not followed",
        "! b1.0 6/6: tensors in a sequence or an optional are not followed",
        "! w2.0 6/6: tensors in a sequence or an optional are not followed",
        frame="tokens",
    ),
    row(
        "SequenceMap",
        "s = SplitToSequence<axis = 1>(p, @2); "
        "t = SequenceMap(s) <body = each (float[2,2,6] a) => (float[2,2,6] b) { b = Relu(a) }>; "
        "q = ConcatFromSequence<axis = 1>(t); h = Relu(q)",
        "! w1.1 6/6: tensors in a sequence or an optional are not followed",
        "! b1.0 6/6: tensors in a sequence or an optional are not followed",
        "! w2.0 6/6: tensors in a sequence or an optional are not followed",
        frame="tokens",
    ),
    row(
        "Optional",
        "o = Optional(p); e = OptionalHasElement(o); q = OptionalGetElement(o); h = Relu(q)",
        "! w1.1 6/6: tensors in a sequence or an optional are not followed",
        "! b1.0 6/6: tensors in a sequence or an optional are not followed",
        "! w2.0 6/6: tensors in a sequence or an optional are not followed",
        frame="tokens",
    ),
    row(
        "StringNormalizer",
        "q = StringNormalizer(s); h = Relu(p)",
        DENSE,
        inputs="float[2,4,3] x, string[3] s",
        runs=False,
        frame="tokens",
    ),
    row(
        "StringConcat",
        "q = StringConcat(s, s); h = Relu(p)",
        DENSE,
        inputs="float[2,4,3] x, string[3] s",
        runs=False,
        frame="tokens",
    ),
    row(
        "RegexFullMatch",
        'q = RegexFullMatch<pattern = "a">(s); h = Relu(p)',
        DENSE,
        inputs="float[2,4,3] x, string[3] s",
        runs=False,
        frame="tokens",
    ),
    row(
        "StringSplit",
        "q, n = StringSplit(s); h = Relu(p)",
        DENSE,
        inputs="float[2,4,3] x, string[3] s",
        runs=False,
        frame="tokens",
    ),
    row(
        "TfIdfVectorizer",
        "a = Reshape(p, @[8, 6]); c = Cast<to = 7>(a); "
        'q = TfIdfVectorizer<max_gram_length = 1, max_skip_count = 0, min_gram_length = 1, mode = "TF", '
        "ngram_counts = [0], ngram_indexes = [0, 1], pool_int64s = [0, 1]>(c); "
        "h = Relu(p)",
        "! w1.1 6/6: text and pictures are read whole",
        "! b1.0 6/6: text and pictures are read whole",
        "! w2.0 6/6: text and pictures are read whole",
        frame="tokens",
    ),
    row(
        "ImageDecoder",
        "q = ImageDecoder(i); h = Relu(p)",
        DENSE,
        inputs="float[2,4,3] x, uint8[9] i",
        runs=False,
        frame="tokens",
    ),
    row(
        "NegativeLogLikelihoodLoss",
        "q = NegativeLogLikelihoodLoss(p, t); h = Relu(p)",
        "! w1.1 6/6: a loss compares whole predictions",
        "! b1.0 6/6: a loss compares whole predictions",
        "! w2.0 6/6: a loss compares whole predictions",
        inputs="float[2,4,3] x, int64[2,6] t",
        frame="tokens",
    ),
    row(
        "SoftmaxCrossEntropyLoss",
        "q = SoftmaxCrossEntropyLoss(p, t); h = Relu(p)",
        "! w1.1 6/6: a loss compares whole predictions",
        "! b1.0 6/6: a loss compares whole predictions",
        "! w2.0 6/6: a loss compares whole predictions",
        inputs="float[2,4,3] x, int64[2,6] t",
        frame="tokens",
    ),
    row(
        "MaxUnpool",
        "m, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(p); "
        "h = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(m, i)",
        "! w1.0 6/6: its indices number all positions of the tensor",
        "! b1.0 6/6: its indices number all positions of the tensor",
        "! w2.1 6/6: its indices number all positions of the tensor",
    ),
    row(
        "Det",
        "w3 = %6x4; a = MatMul(p, w3); q = Det(a); h = Relu(p)",
        "w1 6: w1.1 writes, b1.0 shifts, w3.0 reads, w2.0 reads",
        "! w3.1 4/4: a determinant needs the whole matrix",
        frame="tokens",
    ),
    row(
        "BitCast",
        "q = BitCast<to = 6>(p); h = Relu(p)",
        "! w1.1 6/6: the bits of an element spread over several positions",
        "! b1.0 6/6: the bits of an element spread over several positions",
        "! w2.0 6/6: the bits of an element spread over several positions",
        opset=26,
        runs=False,
        frame="tokens",
    ),
    row(
        "LinearAttention",
        'q, s = LinearAttention<q_num_heads = 2, kv_num_heads = 2, update_rule = "linear">(p, p, p); h = Relu(p)',
        "! w1.1 6/6: its heads, states and caches are laid out inside the operator",
        "! b1.0 6/6: its heads, states and caches are laid out inside the operator",
        "! w2.0 6/6: its heads, states and caches are laid out inside the operator",
        opset=27,
        runs=False,
        frame="tokens",
    ),
    *(_barrier(operator, reason) for operator, reason in BARRIERS.items() if "::" in operator),
]
