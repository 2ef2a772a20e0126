"""What operators do with channels that are linear in them: sums, layout, products."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from onnxprune.coupling.channels import written_letters
from onnxprune.coupling.heads.labels import NONE, Lettered, by_letters, compact
from onnxprune.coupling.heads.tracing import KEYS, VALUES, Trace, in_one_place
from onnxprune.coupling.spec import Operand, Spec, Term
from onnxprune.model.graph import Node
from onnxprune.model.read import FLOATS

INSIDE = -1
"""The number of an operand that an operator computes itself."""
FactorAxes = tuple[int, Operand]
"""An operand of a product: its number and its axes."""
BIASED = frozenset({"Gemm", "Conv"})
"""Operators of which the third operand is added."""


# --- sums and layout --------------------------------------------------------------------------------------------------


def add_up(trace: Trace, node: Node, spec: Spec) -> None:
    _add(trace, node, spec, spec.inputs, spec.outputs[0])


def _add(trace: Trace, node: Node, spec: Spec, operands: Sequence[Operand], out: Operand) -> None:
    """All that is added up is turned alike."""
    found = {number: trace.carried(node, spec, number, operand) for number, operand in enumerate(operands)}
    every = list(chain(*found.values()))
    if not every or len(every) != sum(map(bool, found.values())):
        return refuse_channels(trace, node, every, "adds up products")
    whole = in_one_place(every)
    for number, operand in enumerate(operands):
        name = node.input(number)
        if found[number] or not name or trace.is_zero(name):
            continue
        own = trace.stored(node, spec, number, operand, whole.varying)
        if own is None:
            what = (
                "adds the same to all its channels"
                if trace.is_stored(name)
                else f"adds {name!r}, which no layer writes"
            )
            return refuse_channels(trace, node, every, what)
        every.append(own)
    for own in every:
        trace.use(node, own)
        trace.link(whole, own)
    trace.give(node.outputs[0], whole, out, spec)
    return None


def refuse_channels(trace: Trace, node: Node, every: Sequence[Lettered], what: str) -> None:
    for own in every:
        trace.bar(own.array, f"{node.label!r} {what}")


def lay_out(trace: Trace, node: Node, spec: Spec) -> None:
    """Each channel stays one, wherever it goes."""
    found = trace.carried(node, spec, 0, spec.inputs[0])
    if found and not _is_linear(trace, node):
        return refuse_channels(trace, node, found, f"({node.op}) is not linear in it")
    for own in found:
        trace.use(node, own)
        if own.varying - spec.letters(spec.outputs):
            refuse_channels(trace, node, [own], "sums up its channels, or lays them out anew")
            continue
        for value, operand in zip(node.outputs, spec.outputs, strict=False):
            if operand is not None:
                trace.give(value, own, operand, spec)
    return None


def _is_linear(trace: Trace, node: Node) -> bool:
    if node.op == "Cast":
        return node.attribute("to") in FLOATS
    if node.op == "Pad":
        plain = node.attribute("mode", "constant") == "constant" and not node.attribute("value", 0.0)
        return plain and (not node.input(2) or trace.is_zero(node.input(2)))
    return True


def pick_positions(trace: Trace, node: Node, spec: Spec) -> None:
    """One position that is picked by number leaves the others behind."""
    indices = trace.links.facts.array(node.input(1))
    sets = trace.labels.get(node.input(0), [])
    if indices is None or indices.ndim or not sets:
        return lay_out(trace, node, spec)
    axis = int(node.attribute("axis", 0)) % sets[0].ndim
    taken = [labels.take([int(indices) if labels.shape[axis] > 1 else 0], axis) for labels in sets]
    trace.understood.add((node, 0))
    for labels in taken:
        if (labels >= 0).any():
            trace.labels.setdefault(node.outputs[0], []).append(compact(labels.reshape(np.delete(labels.shape, axis))))
    return None


def join_parts(trace: Trace, node: Node, spec: Spec) -> None:
    """Tokens that are joined are of the same channels; channels that are joined stand one after the other."""
    out = spec.outputs[0]
    if out is None:
        return None
    axis = int(node.attribute("axis", 0)) % len(out)
    every = [trace.labels.get(name, []) for name in node.inputs]
    if not any(labels.shape[axis] > 1 for sets in every for labels in sets):
        plain = [None if own is None else (*own[:axis], Term(), *own[axis + 1 :]) for own in (*spec.inputs, out)]
        return _add(trace, node, spec, plain[:-1], plain[-1])
    trace.understood.update((node, number) for number in range(len(every)))
    if any(len(sets) != 1 and not trace.is_zero(name) for sets, name in zip(every, node.inputs, strict=True)):
        for labels in chain(*every):
            trace.bar(labels, f"{node.label!r} joins it with what no layer writes")
        return None
    parts = []
    for sets, name in zip(every, node.inputs, strict=True):
        size = (trace.links.facts.shape(name) or ())[axis]
        own = sets[0] if sets else np.full([1] * len(out), NONE)
        parts.append(np.broadcast_to(own, (*own.shape[:axis], size, *own.shape[axis + 1 :])))
    common = np.broadcast_shapes(*((*own.shape[:axis], 1, *own.shape[axis + 1 :]) for own in parts))
    whole = [np.broadcast_to(own, (*common[:axis], own.shape[axis], *common[axis + 1 :])) for own in parts]
    trace.labels.setdefault(node.outputs[0], []).append(compact(np.concatenate(whole, axis)))
    return None


# --- products ---------------------------------------------------------------------------------------------------------


def take_product(trace: Trace, node: Node, spec: Spec) -> None:
    """A product of all operands, or with a bias behind two."""
    count = 2 if node.op in BIASED else len(node.inputs)
    multiply_channels(trace, node, spec, list(enumerate(spec.inputs[:count])), spec.outputs[0])
    if node.op in BIASED and node.input(2):
        _with_bias(trace, node, spec)


def _with_bias(trace: Trace, node: Node, spec: Spec) -> None:
    result = node.outputs[0]
    sets = trace.labels.get(result, [])
    for labels in sets:
        given = by_letters(labels, spec.outputs[0], spec.sizes)
        bias = None if given is None else trace.stored(node, spec, 2, spec.inputs[2], given.varying)
        if given is None or bias is None or len(sets) > 1:
            trace.bar(labels, f"{node.label!r} adds the same to all its channels")
        else:
            trace.link(given, bias)


def take_quotient(trace: Trace, node: Node, spec: Spec) -> None:
    if trace.labels.get(node.input(1)):
        return  # nobody understands it
    take_product(trace, node, spec)


def multiply_channels(
    trace: Trace, node: Node, spec: Spec, factors: Sequence[FactorAxes], out: Operand, give: bool = True
) -> None:
    """Channels that are summed over meet their inverse; all others pass, apart where what they are multiplied by is."""
    computed = [n for n, _ in factors if n == INSIDE or node.input(n) not in trace.links.facts.constants]
    attends = len(computed) > 1 and bool(spec.cost)
    kept = spec.letters([out])
    for number, operand in factors:
        if number == INSIDE or operand is None:
            continue
        others = [factor for factor in factors if factor[0] != number]
        around = spec.letters(own for _, own in others)
        for own in trace.carried(node, spec, number, operand):
            gone = own.varying - kept
            trace.use(node, own, own.varying & around - gone, (KEYS if gone else VALUES) if attends else "")
            if gone:
                _meet(trace, node, spec, own, gone, others)
            elif give:
                trace.give(node.outputs[0], own, out, spec)
    numbers = {number for number, _ in factors}
    written: dict[int, set[str]] = {}
    for number, letter in written_letters(node, spec, trace.links.facts.constants):
        written.setdefault(number, set()).add(letter)
    for number in sorted(numbers & set(written)):
        own_letters = trace.stored(node, spec, number, spec.inputs[number], written[number])
        if own_letters is not None:
            around = spec.letters(own for n, own in factors if n != number)
            trace.use(node, own_letters, own_letters.varying & around)
            trace.give(node.outputs[0], own_letters, out, spec)


def _meet(trace: Trace, node: Node, spec: Spec, own: Lettered, gone: set[str], others: Sequence[FactorAxes]) -> None:
    """Link channels that a product is summed over to those of the other factor."""
    partner = next(((n, operand) for n, operand in others if gone <= spec.letters([operand])), None)
    if partner is None or partner[0] == INSIDE:
        return refuse_channels(trace, node, [own], "sums up its channels")
    number, operand = partner
    name = node.input(number)
    if name in trace.links.facts.constants:
        met = trace.stored(node, spec, number, operand, own.varying)
        found = [] if met is None else [met]
    else:
        found = [other for other in trace.carried(node, spec, number, operand) if gone <= other.varying]
    if not found:
        trace.bar(own.array, trace.lost_at(name) or f"{node.label!r} multiplies it by {name!r}, which no layer writes")
    for other in found:
        trace.link(own, other, inverse=True)
    return None
