"""Mixtures of experts in one operator: e experts, r tokens in one row after the other, d hidden, f inner, u parts of a gated activation."""

from __future__ import annotations

from onnxprune.coupling.spec import Spec, View, frozen, parse, rule

ROUTED = "experts are picked by their scores inside the operator"
PACKED = "its weights are packed in blocks of bits"
EXPERTS = "e"
"""The letter of experts, in the signatures of both operators."""
FUSED = {1: "(f u)", 2: "(u f)"}
"""swiglu_fusion -> how the rows of fc1 are laid out: gate and value of one neuron after the other, or all gates first."""


@rule("com.microsoft::MoE", family="contraction")
def moe(view: View) -> Spec:
    """Every token goes through k experts; neurons of all experts alike are silenced where fc2 reads them."""
    parts = view.shape(2)[1] // view.shape(4)[2]
    inner = FUSED[int(view.attribute("swiglu_fusion", 0))] if parts > 1 else "f"
    tokens = ("b s d", "(b s) e") if view.rank() == 3 else ("r d", "r e")
    texts = [*tokens, f"e {inner} d", f"e {inner}", "e d f", "e d", "e f d", "e f"]
    shapes = view.shapes()
    signature = f"{','.join(texts[: len(shapes)])} -> {tokens[0]}"
    sizes = {"u": parts} | (dict(zip("bs", view.shape(0), strict=False)) if view.rank() == 3 else {})
    spec = parse(signature, shapes, [view.out_shape()], sizes)
    spec.consumes, spec.silent = {"d"}, {0: None, 4: None}
    spec.roles = {2: "reads", 6: "reads", 4: "writes", 5: "shifts"}
    spec.sizes["k"] = int(view.attribute("k", 1))
    rows = ("b", "s") if view.rank() == 3 else ("r",)
    spec.cost = (*rows, "k", "f", "u", "d")
    spec.further = [(*rows, "k", "f", "d")] * (1 + view.has(6))
    return spec.bar("u", "parts of one activation").bar(EXPERTS, ROUTED)


@rule("com.microsoft::QMoE", family="contraction")
def quantised_moe(view: View) -> Spec:
    """Experts lie one after the other in every operand; inside of one the weights are packed."""
    spec = frozen(view, PACKED)
    spec.sizes[EXPERTS] = experts = view.shape(1)[1]
    for place, operand in enumerate(spec.inputs):
        axis = int(place in (1, 14))
        if place and operand and len(operand) > axis and view.shape(place)[axis] == experts:
            term = operand[axis]._replace(letters=(EXPERTS,))
            spec.inputs[place] = (*operand[:axis], term, *operand[axis + 1 :])
    spec.sizes["k"] = int(view.attribute("k", 1))
    return spec.bar(EXPERTS, ROUTED)
