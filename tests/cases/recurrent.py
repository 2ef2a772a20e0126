"""Rows of ``coupling/rules/recurrent.py``."""

from __future__ import annotations

from support.rows import MICROSOFT, row, stays

from onnxprune.coupling.rules.recurrent import QUANTISED

ROWS = [
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
]
