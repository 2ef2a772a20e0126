"""All channels of a model followed: one row per operator that is linear in them."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.coupling.heads.attention import ATTENTIONS, attend, attend_packed, attend_with_bias
from onnxprune.coupling.heads.operators import (
    add_up,
    join_parts,
    lay_out,
    pick_positions,
    take_product,
    take_quotient,
)
from onnxprune.coupling.heads.tracing import Trace
from onnxprune.coupling.links import Links
from onnxprune.coupling.spec import Spec
from onnxprune.coupling.streams.residual import ADDS, ALIKE, SCALES
from onnxprune.model.graph import Node

ChannelRule = Callable[[Trace, Node, Spec], None]
"""What an operator does with channels."""
CHANNEL_RULES: dict[str, ChannelRule] = {
    **dict.fromkeys(ADDS, add_up),
    **dict.fromkeys(ALIKE | {"Neg"}, lay_out),
    "Gather": pick_positions,
    "Concat": join_parts,
    **dict.fromkeys(("MatMul", "Gemm", "Einsum", "Conv", *SCALES), take_product),
    "Div": take_quotient,
    "Attention": attend,
    "com.microsoft::MultiHeadAttention": attend_with_bias,
    "com.microsoft::Attention": attend_packed,
}
"""Operator -> what it does with channels; what no row is about is not linear in them."""


def traced(links: Links) -> Trace:
    """Follow every channel of a model."""
    trace = Trace(links)
    top = set(links.facts.graph.top)
    for node, spec in links.specs:
        rule = CHANNEL_RULES.get(node.op)
        constant = not node.outputs or node.outputs[0] in links.facts.constants
        unread = node.op in ATTENTIONS and "g" not in spec.sizes  # a form that the table of signatures does not know
        if rule is not None and node in top and not constant and not unread:
            rule(trace, node, spec)
    trace.close()
    return trace
