"""Operators with heads inside, cut in width: queries and keys apart from values, the scaling factor kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import OPERATORS
from support.oracles import analysed, assert_sound, group_line, random_plan

ROWS = {row.name: row for module in ("attention", "microsoft") for row in OPERATORS[module]}
GROUPS = {
    "Attention": ["wq 4x3: wq.1 writes, wk.1 writes", "wv 2x3: wv.1 writes, w2.0 reads"],
    "Attention/4D": ["wq 4x3: wq.1 writes, wk.1 writes", "wv 2x3: wv.1 writes, w2.0 reads"],
    "com.microsoft::Attention": [
        "w#0 4x6: w.1 writes, b.0 shifts",
        "w#1 4x3: w.1 writes, b.0 shifts, w2.0 reads",
    ],
    "com.microsoft::MultiHeadAttention": [
        "wq 4x3: wq.1 writes, wk.1 writes, b.0 shifts",
        "wv 2x3: wv.1 writes, b.0 shifts, w2.0 reads",
    ],
}
TOUCHED = "w1 6: w1.1 writes, b1.0 shifts, "


@pytest.mark.parametrize("name", GROUPS)
def test_width_of_queries_and_values(name: str) -> None:
    analysis = analysed(ROWS[name].model(), prefer="inner")
    lines = [group_line(group) for group in analysis.groups]
    assert lines[0].startswith(TOUCHED)
    assert lines[1:] == GROUPS[name]
    for seed in range(3):
        small = assert_sound(analysis, random_plan(analysis, np.random.default_rng(seed)))
        (node,) = (node for node in small.graph.node if node.op_type.endswith("Attention"))
        scale = {a.name: a.f for a in node.attribute}["scale"]
        assert scale == pytest.approx(1 / math.sqrt(4)), "the factor of the uncut width of 4"


@pytest.mark.parametrize(
    "name", ["RotaryEmbedding", "com.microsoft::RotaryEmbedding", "com.microsoft::RotaryEmbedding/one table"]
)
def test_width_of_rotary_pairs(name: str) -> None:
    """Pairs go with their sines and cosines where width is asked for; tables are no reason to cut it where heads are."""
    analysis = analysed(ROWS[name].model(), prefer="inner")
    assert [group_line(group) for group in analysis.groups][1:] == [
        "wq 2x6: wq.1 writes, cs.1 scales, sn.1 scales, w2.0 reads"
    ]
    assert_sound(analysis, random_plan(analysis, np.random.default_rng(0)))
