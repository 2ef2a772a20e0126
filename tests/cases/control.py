"""Rows of ``coupling/rules/control.py``."""

from __future__ import annotations

from support.rows import DENSE, row

ROWS = [
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
]
