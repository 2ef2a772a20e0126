"""Rows of ``coupling/rules/experts.py``: neurons go from all experts alike; experts themselves stay without a change of their own."""

from __future__ import annotations

from support.rows import MICROSOFT, row, stays

from onnxprune.coupling.rules.experts import PACKED, ROUTED

ROUTER = "wr = %6x4; s = MatMul(f, wr); "
WEIGHTS = "e1 = %4x7x6; c1 = %4x7; e2 = %4x6x7; c2 = %4x6; "
HIDDEN = "w1 6: w1.1 writes, b1.0 shifts, wr.0 reads, e1.2 reads, e2.1 writes, c2.1 shifts, w2.0 reads"
INNER = "e1 7: e1.1 reads, c1.1 reads, e2.2 reads"
STAYS = stays(ROUTED, "wr.1 4/4", "e1.0 4/4", "c1.0 4/4", "e2.0 4/4", "c2.0 4/4")

ROWS = [
    row(
        "com.microsoft::MoE",
        "f = Relu(p); "
        + ROUTER
        + WEIGHTS
        + 'h = com.microsoft.MoE<k = 2, activation_type = "gelu">(p, s, e1, c1, e2, c2)',
        HIDDEN,
        INNER,
        *STAYS,
        frame="dense",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MoE/of sequences",
        "f = Reshape(p, @[8, 6]); "
        + ROUTER
        + WEIGHTS
        + 'h = com.microsoft.MoE<k = 2, activation_type = "relu", normalize_routing_weights = 1>(p, s, e1, c1, e2, c2)',
        HIDDEN,
        INNER,
        *STAYS,
        frame="tokens",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::MoE/gated",
        "f = Relu(p); "
        + ROUTER
        + "e1 = %4x10x6; c1 = %4x10; e2 = %4x6x5; "
        + 'h = com.microsoft.MoE<k = 1, activation_type = "swiglu", swiglu_fusion = 1>(p, s, e1, c1, e2)',
        "w1 6: w1.1 writes, b1.0 shifts, wr.0 reads, e1.2 reads, e2.1 writes, w2.0 reads",
        "e1 5x2: e1.1 reads, c1.1 reads, e2.2 reads",
        *stays(ROUTED, "wr.1 4/4", "e1.0 4/4", "c1.0 4/4", "e2.0 4/4"),
        frame="dense",
        domains=MICROSOFT,
    ),
    row(
        "com.microsoft::QMoE",
        "f = Relu(p); "
        + ROUTER
        + "e1 = %4x7x6:uint8; g1 = %+4x7; e2 = %4x6x7:uint8; g2 = %+4x6; c2 = %4x6; "
        + 'h = com.microsoft.QMoE<k = 2, activation_type = "relu", expert_weight_bits = 8>(p, s, e1, g1, , e2, g2, c2)',
        *stays(PACKED, "w1.1 6/6", "b1.0 6/6", "wr.0 6/6"),
        *stays(ROUTED, "wr.1 4/4", "e1.0 4/4"),
        *stays(PACKED, "e1.1 7/7", "e1.2 6/6"),
        *stays(ROUTED, "g1.0 4/4"),
        *stays(PACKED, "g1.1 7/7"),
        *stays(ROUTED, "e2.0 4/4"),
        *stays(PACKED, "e2.1 6/6", "e2.2 7/7"),
        *stays(ROUTED, "g2.0 4/4"),
        *stays(PACKED, "g2.1 6/6"),
        *stays(ROUTED, "c2.0 4/4"),
        *stays(PACKED, "c2.1 6/6", "w2.0 6/6"),
        frame="dense",
        domains=MICROSOFT,
    ),
]
