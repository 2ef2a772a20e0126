"""What attention in one operator does with channels: of queries, keys and values as operands, and of projections inside."""

from __future__ import annotations

from onnxprune.coupling.heads.labels import Lettered
from onnxprune.coupling.heads.operators import INSIDE, multiply_channels, refuse_channels
from onnxprune.coupling.heads.tracing import KEYS, VALUES, ChannelSource, HiddenValue, Trace
from onnxprune.coupling.spec import Spec, Term
from onnxprune.model.graph import Node

ATTENTIONS = {"Attention": (4, 5), "com.microsoft::MultiHeadAttention": (6, 7), "com.microsoft::Attention": (4,)}
"""Operator -> its operands that hold keys and values of before."""
SCORES = tuple(Term((letter,)) for letter in "bgrsu")
"""The axes of the attention inside of an operator."""


def attend(trace: Trace, node: Node, spec: Spec) -> None:
    """Queries, keys and values as three operands, in one row or with heads apart."""
    if _keeps_for_later(node):
        return
    multiply_channels(trace, node, spec, [(0, spec.inputs[0]), (1, spec.inputs[1])], SCORES, give=False)
    multiply_channels(trace, node, spec, [(INSIDE, SCORES), (2, spec.inputs[2])], spec.outputs[0])


def attend_with_bias(trace: Trace, node: Node, spec: Spec) -> None:
    """The same with one stored bias for all three."""
    attend(trace, node, spec)
    if not node.input(3) or _keeps_for_later(node):
        return
    parts = _packed(trace, node, spec, 3)
    for number, bias in enumerate(parts):
        for own in trace.carried(node, spec, number, spec.inputs[number]):
            trace.link(own, bias)
        if number < 2 and len(spec.inputs[number] or ()) == 3:
            width = (trace.links.facts.shape(node.input(number)) or ())[-1]
            columns = slice(number * width, (number + 1) * width)
            for labels in trace.labels.get(node.input(number), ()):
                trace.hidden.append(
                    HiddenValue(node.input(number), "", trace.origin(node.input(3)), columns, labels.reshape(-1))
                )
        if not trace.labels.get(node.input(number)):
            trace.bar(bias.array, f"{node.label!r} adds it to what no layer writes")


def _keeps_for_later(node: Node) -> bool:
    """Whether keys or values come from elsewhere or go on, where nobody knows what becomes of them."""
    return any(map(node.input, ATTENTIONS[node.op])) or any(node.outputs[1:3])


def _packed(trace: Trace, node: Node, spec: Spec, number: int) -> list[Lettered]:
    """Return the channels of queries, keys and values that stand one after the other in a stored operand."""
    mention = next(operand for name, operand in spec.extra if name == node.input(number))
    both = trace.stored(node, spec, number, mention, "cgd")
    values = trace.stored(node, spec, number, spec.inputs[number], "ge")
    return [] if both is None or values is None else [both.at("c", 0), both.at("c", 1), values]


def attend_packed(trace: Trace, node: Node, spec: Spec) -> None:
    """Projections of queries, keys and values inside of the operator."""
    data = trace.carried(node, spec, 0, spec.inputs[0])
    reads = trace.stored(node, spec, 1, spec.inputs[1], "i")
    parts = _packed(trace, node, spec, 1)
    if reads is None or not parts:
        return refuse_channels(trace, node, data, "reads it with weights that are not stored")
    for own in data:
        trace.use(node, own)
        trace.link(own, reads, inverse=True)
    queries, keys, values = parts
    for own in (queries, keys):
        trace.use(node, own, "g", KEYS)
    trace.link(queries, keys, inverse=True)
    columns = slice(0, 2 * spec.sizes["g"] * spec.sizes["d"])
    labels = trace.sources[ChannelSource(trace.origin(node.input(1)), (1,))].reshape(-1)[columns]
    weight, bias = trace.origin(node.input(1)), trace.origin(node.input(2))
    trace.hidden.append(HiddenValue(node.input(0), weight, bias, columns, labels))
    trace.use(node, values, "g", VALUES)
    trace.give(node.outputs[0], values, spec.outputs[0], spec)
    if node.attribute("do_rotary", 0):
        refuse_channels(trace, node, [queries, keys], "rotates it inside")
    if _keeps_for_later(node):
        refuse_channels(trace, node, parts, "keeps keys and values for later")
    for own, shift in zip(parts, _packed(trace, node, spec, 2) if node.input(2) else (), strict=False):
        trace.link(own, shift)
    return None
