"""Rows of ``coupling/rules/attention.py``."""

from __future__ import annotations

from support.rows import MICROSOFT, row

ROWS = [
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
        "wq 3x4: wq.1 writes, w2.0 reads",
        "! cs.0 16/16: its positions are picked by numbers computed elsewhere",
        "! cs.1 2/2: a factor of the same axis as 'h', which is cut instead",
        "! sn.0 16/16: its positions are picked by numbers computed elsewhere",
        "! sn.1 2/2: a factor of the same axis as 'h', which is cut instead",
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
        "wq 3x4: wq.1 writes, w2.0 reads",
        "! cs.0 16/16: its positions are picked by numbers computed elsewhere",
        "! cs.1 2/2: a factor of the same axis as 'h', which is cut instead",
        "! sn.0 16/16: its positions are picked by numbers computed elsewhere",
        "! sn.1 2/2: a factor of the same axis as 'h', which is cut instead",
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
        "wq 3x4: wq.1 writes, w2.0 reads",
        "! cs.0 16/16: its positions are picked by numbers computed elsewhere",
        "! cs.1 2/2: a factor of the same axis as 'h', which is cut instead",
        "! sn.0 16/16: its positions are picked by numbers computed elsewhere",
        "! sn.1 2/2: a factor of the same axis as 'h', which is cut instead",
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
        "com.microsoft::GroupQueryAttention/norms of heads",
        "w = %6x160; a = MatMul(p, w); q, k, v = Split<axis = -1>(a, @[96, 32, 32]); gq = %16; gk = %16; q3 = Reshape(q, @[0, -1, 16]); qn = SimplifiedLayerNormalization<axis = -1>(q3, gq); q4 = Reshape(qn, @[0, -1, 96]); k3 = Reshape(k, @[0, -1, 16]); kn = SimplifiedLayerNormalization<axis = -1>(k3, gk); k4 = Reshape(kn, @[0, -1, 32]); h = com.microsoft.GroupQueryAttention<num_heads = 6, kv_num_heads = 2, local_window_size = 2, softcap = 5.0>(q4, k4, v, , , @[3, 3]:int32, @4:int32)",
        "w1 6: w1.1 writes, b1.0 shifts, w.0 reads",
        "w 2x80: w.1 writes, w2.0 reads",
        "! gq.0 16/16: a factor of the same axis as 'a2_1', which is cut instead",
        "! gk.0 16/16: a factor of the same axis as 'a2_1', which is cut instead",
        frame="tokens",
        width=96,
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MultiHeadAttention/past",
        "wq = %6x12; wk = %6x12; wv = %6x12; q = MatMul(p, wq); k = MatMul(p, wk); v = MatMul(p, wv); pk = %2x3x5x4; pv = %2x3x5x4; h, yk, yv = com.microsoft.MultiHeadAttention<num_heads = 3>(q, k, v, , , , pk, pv)",
        "w1 6: w1.1 writes, b1.0 shifts, wq.0 reads, wk.0 reads, wv.0 reads",
        "wq 3x4: wq.1 writes, wk.1 writes, wv.1 writes, pk.1 scales, pv.1 scales, w2.0 reads",
        "! pk.2 5/5: attention is normalised over the tokens",
        "! pk.3 4/4: a factor of the same axis as 'g', which is cut instead",
        "! pv.2 5/5: attention is normalised over the tokens",
        "! pv.3 4/4: a factor of the same axis as 'g', which is cut instead",
        frame="tokens",
        width=12,
        domains=MICROSOFT,
    ),
]
