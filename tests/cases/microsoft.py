"""Rows of ``coupling/rules/microsoft.py``."""

from __future__ import annotations

from support.rows import MICROSOFT, PLAIN, row

ROWS = [
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
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads, w.1 writes, g.0 scales, e.0 shifts, b.0 shifts, w2.0 reads",
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::SkipLayerNormalization/no shift",
        "g = %6; sk = %4x6; h = com.microsoft.SkipLayerNormalization(p, sk, g)",
        "w1 6: w1.1 writes, b1.0 shifts, g.0 scales, sk.1 scales, w2.0 reads",
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::SkipSimplifiedLayerNormalization",
        "g = %6; sk = %1x4x6; b = %6; h = com.microsoft.SkipSimplifiedLayerNormalization(p, sk, g, b)",
        "w1 6: w1.1 writes, b1.0 shifts, g.0 scales, sk.2 scales, b.0 shifts, w2.0 reads",
        frame="tokens",
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
        "com.microsoft::MatMulNBits/a short block",
        "e = %6x24; q = MatMul(p, e); w = %8x2x8:uint8; s = %+8x2; "
        "h = com.microsoft.MatMulNBits<N = 8, K = 24, bits = 4, block_size = 16>(q, w, s)",
        "w1 6: w1.1 writes, b1.0 shifts, e.0 reads",
        "w 8: w.0 writes, s.0 scales, w2.0 reads",
        "! e.1 24/24: its weights are packed in blocks of bits",
        "! w.1 2/2: its last block is cut short",
        "! w.2 8/8: its weights are packed in blocks of bits",
        "! s.1 2/2: its last block is cut short",
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
]
