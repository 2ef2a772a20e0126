"""Which nodes are linear in stored weights of their own, by operator."""

from __future__ import annotations

from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.repair.contractions import Axes, Contraction, contraction, equation_axes, product_axes
from onnxprune.repair.linear import as_linear, linear_of
from onnxprune.repair.maps import Finds, LinearMap
from onnxprune.repair.operands import floats_of
from onnxprune.repair.recurrent import GATES, recurrent_layer
from onnxprune.repair.stored import Stored
from onnxprune.repair.transposed import transposed

LAST = 2  # inputs that a product of two operands has


def as_map(node: Node, stored: Stored, facts: Facts) -> LinearMap | None:
    """Return how a node multiplies by weights that are its own; None where it does not, or a shape is not known.

    ``facts``: the shapes of its values while nothing was cut.
    """
    find = MAPS.get(node.op)
    return as_linear(node, stored, facts) or (None if find is None else find(node, stored, facts))


def _product(node: Node, stored: Stored, facts: Facts) -> Contraction | None:
    """A product of matrices, or of stacks of them, whose weight stands at either side."""
    ranks = (len(facts.shape(node.input(0)) or ()), len(facts.shape(node.input(1)) or ()))
    if 0 in ranks or node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        return None
    flips = (bool(node.attribute("transA", 0)) and ranks[0] > 1, bool(node.attribute("transB", 0)) and ranks[1] > 1)
    return _by_axes(node, product_axes(ranks, flips), stored, facts)


def _equation(node: Node, stored: Stored, facts: Facts) -> Contraction | None:
    if len(node.inputs) != LAST:
        return None
    ranks = (len(facts.shape(node.input(0)) or ()), len(facts.shape(node.input(1)) or ()))
    axes = equation_axes(node.attribute("equation"), ranks)
    return None if axes is None else _by_axes(node, axes, stored, facts)


def _by_axes(node: Node, axes: Axes, stored: Stored, facts: Facts) -> Contraction | None:
    """Return a product whose weight is its second operand, or else its first."""
    activation = node.attribute("activation", "")
    for place, own in ((1, axes), (0, Axes(axes.right, axes.left, axes.made))):
        operands = floats_of(node, stored, place)
        if operands is not None and place == 0 and node.input(2):
            return None  # a bias along the other operand's axis
        if operands is not None:
            return contraction(node, operands, own, stored, facts, activation=activation)
    return None


def _fused_convolution(node: Node, stored: Stored, facts: Facts) -> LinearMap | None:
    """A convolution that may add a value, and be activated, before it gives anything out."""
    operands = floats_of(node, stored)
    done = "sum" if node.input(3) else node.attribute("activation", "")
    return None if operands is None else linear_of(node, operands, stored, facts, done)


def _attention(node: Node, stored: Stored, facts: Facts) -> Contraction | None:
    """The product of queries, keys and values out of one value, which stays inside."""
    operands = floats_of(node, stored)
    if operands is None:
        return None
    axes = Axes(["samples", "steps", "in"], ["in", "out"], ["samples", "steps", "out"])
    return contraction(node, operands, axes, stored, facts, activation="attention", hidden=True)


MAPS: dict[str, Finds] = {
    "ConvTranspose": transposed,
    "Einsum": _equation,
    "com.microsoft::Attention": _attention,
    "com.microsoft::FusedConv": _fused_convolution,
    **dict.fromkeys(("MatMul", "Gemm", "com.microsoft::FusedGemm"), _product),
    **dict.fromkeys(("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul"), _product),
    **dict.fromkeys(GATES, recurrent_layer),
}
"""Operator -> how its weights and what they read are found, where it is no plain convolution or product."""
