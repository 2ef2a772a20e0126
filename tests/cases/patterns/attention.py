"""Patterns of attention."""

from __future__ import annotations

from support.patterns import PACKED, SEPARATE, TOKENS, Pattern, attention

ROWS = [
    Pattern(
        "separate projections",
        attention(SEPARATE),
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Split",
        attention(PACKED + " q, k, v = Split<axis=2, num_outputs=3>(p);"),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Slice",
        attention(
            PACKED
            + " q = Slice(p, @[0], @[6], @[2]); k = Slice(p, @[6], @[12], @[2]); v = Slice(p, @[12], @[18], @[2]);"
        ),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Gather",
        attention(
            PACKED
            + " r = Reshape(p, @[0, 0, 3, 6]); q = Gather<axis=2>(r, @0); k = Gather<axis=2>(r, @1); v = Gather<axis=2>(r, @2);"
        ),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, heads outside",
        attention(
            PACKED
            + " r = Reshape(p, @[0, 0, 2, 9]); s, t, u = Split<axis=3, num_outputs=3>(r); q = Reshape(s, @[0, 0, 6]); k = Reshape(t, @[0, 0, 6]); v = Reshape(u, @[0, 0, 6]);"
        ),
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "packed, cut by Reshape",
        "w = %6x18; p = MatMul(x, w); r = Reshape(p, @[0, 0, 3, 2, 3]); "
        "t = Transpose<perm=[2,0,3,1,4]>(r); q = Gather<axis=0>(t, @0); k = Gather<axis=0>(t, @1); "
        "v = Gather<axis=0>(t, @2); kt = Transpose<perm=[0,1,3,2]>(k); z = MatMul(q, kt); "
        "a = Softmax(z); m = MatMul(a, v); mt = Transpose<perm=[0,2,1,3]>(m); "
        "c = Reshape(mt, @[0, 0, 6]); wo = %6x5; y = MatMul(c, wo)",
        "w 2x9",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "batch times heads",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[2, 4, 2, 3]); kr = Reshape(k, @[2, 4, 2, 3]); vr = Reshape(v, @[2, 4, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,3,1]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); qb = Reshape(qt, @[4, 4, 3]); kb = Reshape(kt, @[4, 3, 4]); "
        "vb = Reshape(vt, @[4, 4, 3]); z = MatMul(qb, kb); a = Softmax(z); m = MatMul(a, vb); "
        "mr = Reshape(m, @[2, 2, 4, 3]); mt = Transpose<perm=[0,2,1,3]>(mr); "
        "c = Reshape(mt, @[2, 4, 6]); wo = %6x5; y = MatMul(c, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "grouped queries, expanded",
        "wq = %6x12; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 3]); kr = Reshape(k, @[0, 0, 2, 3]); vr = Reshape(v, @[0, 0, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); ku = Unsqueeze(kt, @[2]); "
        "ke = Expand(ku, @[2, 2, 2, 4, 3]); kh = Reshape(ke, @[2, 4, 4, 3]); vu = Unsqueeze(vt, @[2]); "
        "ve = Expand(vu, @[2, 2, 2, 4, 3]); vh = Reshape(ve, @[2, 4, 4, 3]); "
        "kx = Transpose<perm=[0,1,3,2]>(kh); z = MatMul(qt, kx); a = Softmax(z); m = MatMul(a, vh); "
        "mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 12]); wo = %12x5; y = MatMul(c, wo)",
        "wq 2x6",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "grouped queries, tiled",
        "wq = %6x12; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 3]); kr = Reshape(k, @[0, 0, 2, 3]); vr = Reshape(v, @[0, 0, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); ku = Unsqueeze(kt, @[2]); ke = Tile(ku, @[1, 1, 2, 1, 1]); "
        "kh = Reshape(ke, @[2, 4, 4, 3]); vu = Unsqueeze(vt, @[2]); ve = Tile(vu, @[1, 1, 2, 1, 1]); "
        "vh = Reshape(ve, @[2, 4, 4, 3]); kx = Transpose<perm=[0,1,3,2]>(kh); z = MatMul(qt, kx); "
        "a = Softmax(z); m = MatMul(a, vh); mt = Transpose<perm=[0,2,1,3]>(m); "
        "c = Reshape(mt, @[0, 0, 12]); wo = %12x5; y = MatMul(c, wo)",
        "wq 2x6",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "one key head for all queries",
        "wq = %6x12; wk = %6x3; wv = %6x3; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 3]); qt = Transpose<perm=[0,2,1,3]>(qr); ku = Unsqueeze(k, @[1]); "
        "kx = Transpose<perm=[0,1,3,2]>(ku); vu = Unsqueeze(v, @[1]); z = MatMul(qt, kx); "
        "a = Softmax(z); m = MatMul(a, vu); mt = Transpose<perm=[0,2,1,3]>(m); "
        "c = Reshape(mt, @[0, 0, 12]); wo = %12x5; y = MatMul(c, wo)",
        "wq 3x4; wv 3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "grouped queries with rotary pairs",
        "wq = %6x16; wk = %6x8; wv = %6x8; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 4, 4]); kr = Reshape(k, @[0, 0, 2, 4]); vr = Reshape(v, @[0, 0, 2, 4]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); cos = %4x4; sin = %4x4; q1 = Slice(qt, @[0], @[2], @[3]); "
        "q2 = Slice(qt, @[2], @[4], @[3]); qn = Neg(q2); qo = Concat<axis=-1>(qn, q1); "
        "qc = Mul(qt, cos); qs = Mul(qo, sin); qe = Add(qc, qs); k1 = Slice(kt, @[0], @[2], @[3]); "
        "k2 = Slice(kt, @[2], @[4], @[3]); kn = Neg(k2); ko = Concat<axis=-1>(kn, k1); "
        "kc = Mul(kt, cos); ks = Mul(ko, sin); ke = Add(kc, ks); ku = Unsqueeze(ke, @[2]); "
        "kz = Expand(ku, @[2, 2, 2, 4, 4]); kh = Reshape(kz, @[2, 4, 4, 4]); vu = Unsqueeze(vt, @[2]); "
        "vz = Expand(vu, @[2, 2, 2, 4, 4]); vh = Reshape(vz, @[2, 4, 4, 4]); "
        "kx = Transpose<perm=[0,1,3,2]>(kh); z = MatMul(qe, kx); a = Softmax(z); m = MatMul(a, vh); "
        "mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 16]); wo = %16x5; y = MatMul(c, wo)",
        "wq 2x8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "cross attention",
        attention("wq = %6x6; wk = %5x6; wv = %5x6; q = MatMul(x, wq); k = MatMul(u, wk); v = MatMul(u, wv);"),
        "wq 2x3",
        1.0,
        inputs="float[2,4,6] x, float[2,3,5] u",
    ),
    Pattern(
        "key-value cache",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "qr = Reshape(q, @[0, 0, 2, 3]); kr = Reshape(k, @[0, 0, 2, 3]); vr = Reshape(v, @[0, 0, 2, 3]); "
        "qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,1,3]>(kr); "
        "vt = Transpose<perm=[0,2,1,3]>(vr); kn = Concat<axis=2>(pk, kt); vn = Concat<axis=2>(pv, vt); "
        "kx = Transpose<perm=[0,1,3,2]>(kn); z = MatMul(qt, kx); a = Softmax(z); m = MatMul(a, vn); "
        "mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 6]); wo = %6x8; o = MatMul(c, wo); "
        "g = Gelu(o); y = MatMul(g, %8x6)",
        "wo 8",
        0.348,
        inputs="float[2,1,6] x, float[2,2,5,3] pk, float[2,2,5,3] pv",
        outputs="float[] y, float[] kn, float[] vn",
    ),
    Pattern(
        "linear attention",
        "wq = %6x6; wk = %6x6; wv = %6x6; q0 = MatMul(x, wq); k0 = MatMul(x, wk); v = MatMul(x, wv); "
        "q = Relu(q0); k = Relu(k0); qr = Reshape(q, @[0, 0, 2, 3]); kr = Reshape(k, @[0, 0, 2, 3]); "
        "vr = Reshape(v, @[0, 0, 2, 3]); qt = Transpose<perm=[0,2,1,3]>(qr); "
        "kt = Transpose<perm=[0,2,3,1]>(kr); vt = Transpose<perm=[0,2,1,3]>(vr); kv = MatMul(kt, vt); "
        "m = MatMul(qt, kv); mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, 6]); wo = %6x5; "
        "y = MatMul(c, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "attention by Einsum",
        "wq = %6x2x3; wk = %6x2x3; wv = %6x2x3; wo = %2x3x5; "
        'q = Einsum<equation="bse,ehd->bshd">(x, wq); k = Einsum<equation="bse,ehd->bshd">(x, wk); '
        'v = Einsum<equation="bse,ehd->bshd">(x, wv); z = Einsum<equation="bqhd,bkhd->bhqk">(q, k); '
        'a = Softmax(z); m = Einsum<equation="bhqk,bkhd->bqhd">(a, v); '
        'y = Einsum<equation="bqhd,hde->bqe">(m, wo)',
        "wq#0 2; wq#1 3; wv 3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "relative position bias per head",
        attention(
            SEPARATE,
            extra="tab = %49x2; g = Gather<axis=0>(tab, @[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]); gr = Reshape(g, @[4, 4, 2]); gt = Transpose<perm=[2,0,1]>(gr);",
            scores="zb = Add(zs, gt)",
        ),
        "wq 2x3; tab 33",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "relative position bias, table looked up in two axes",
        attention(
            SEPARATE,
            extra="tab = %7x2; g = Gather<axis=0>(tab, @[[3,2,1,0],[4,3,2,1],[5,4,3,2],[6,5,4,3]]); gt = Transpose<perm=[2,0,1]>(g);",
            scores="zb = Add(zs, gt)",
        ),
        "wq 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "talking heads",
        attention(
            SEPARATE,
            scores="zp = Transpose<perm=[0,2,3,1]>(zs); th = %2x2; zt = MatMul(zp, th); zb = Transpose<perm=[0,3,1,2]>(zt)",
        ),
        "wq 2x3; wv 2x3",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "attention operator",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "m = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v); wo = %6x5; y = MatMul(m, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
        opset=23,
    ),
    Pattern(
        "fused attention",
        "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); "
        "m = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v); wo = %6x5; y = MatMul(m, wo)",
        "wq 2x3",
        1.0,
        inputs=TOKENS,
        domains={"com.microsoft": 1},
    ),
    Pattern(
        "pre-norm block",
        "w0 = %6x6; x0 = MatMul(x, w0); n = LayerNormalization(x0, %6, %6); w1 = %6x8; "
        "f = MatMul(n, w1); g = Gelu(f); w2 = %8x6; h = MatMul(g, w2); e = Add(x0, h); "
        "l = LayerNormalization(e, %6, %6); y = MatMul(l, %6x5)",
        "w0 6; w1 8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "root mean square norm by parts",
        "w0 = %6x6; x0 = MatMul(x, w0); p = Pow(x0, @2.0); m = ReduceMean(p, @[-1]); d = Add(m, @0.001); "
        "s = Sqrt(d); r = Div(x0, s); n = Mul(r, %6); w1 = %6x8; f = MatMul(n, w1); g = Relu(f); "
        "w2 = %8x6; h = MatMul(g, w2); e = Add(x0, h); y = MatMul(e, %6x5)",
        "w0 6; w1 8",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "tied embedding and head",
        "t = %9x6; i = Gather(t, ids); w1 = %6x8; f = MatMul(i, w1); g = Relu(f); w2 = %8x6; "
        "h = MatMul(g, w2); e = Add(i, h); tt = Transpose<perm=[1,0]>(t); y = MatMul(e, tt)",
        "t 6; w1 8",
        1.0,
        inputs="int64[2,4] ids",
        below=9,
    ),
    Pattern(
        "experts",
        "w1 = %6x8; h = MatMul(x, w1); wg = %8x2; s = MatMul(h, wg); a = Softmax(s); "
        "g1, g2 = Split<axis=2, num_outputs=2>(a); u1 = %8x5; e1 = MatMul(h, u1); r1 = Relu(e1); "
        "v1 = %5x7; o1 = MatMul(r1, v1); u2 = %8x5; e2 = MatMul(h, u2); r2 = Relu(e2); v2 = %5x7; "
        "o2 = MatMul(r2, v2); m1 = Mul(o1, g1); m2 = Mul(o2, g2); e = Add(m1, m2); y = MatMul(e, %7x3)",
        "w1 8; u1 5; v1 7; u2 5",
        1.0,
        inputs=TOKENS,
    ),
    Pattern(
        "experts in one tensor",
        "wg = %6x3; s = MatMul(x, wg); v, i = TopK(s, @[1]); r = Squeeze(i, @[1]); w1 = %3x6x8; "
        "u = Gather<axis=0>(w1, r); f = Unsqueeze(x, @[1]); a = MatMul(f, u); b = Relu(a); w2 = %3x8x5; "
        "d = Gather<axis=0>(w2, r); o = MatMul(b, d); y = Mul(o, @2.0)",
        "w1 8",
        0.83,
        inputs="float[2,6] x",
    ),
]
