"""The sum of a value's gradients, in as few and as small nodes as it can be had.

A layer that is called once for each step of a sequence has a gradient per step. Products of the same shape are one product of all
rows, and pieces of an axis that lie side by side are put together: neither makes a tensor of full size per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from onnxprune.grad.emitter import Emitter, Value
from onnxprune.model.graph import Node


def added(emit: Emitter, gradients: Sequence[Value]) -> Value:
    """Return the sum of gradients of one shape."""
    if len(gradients) == 1:
        return gradients[0]
    for way in (_one_product, _side_by_side):
        found = way(emit, gradients)
        if found is not None:
            return found
    return emit("Sum", *gradients)


# --- products -------------------------------------------------------------------------------------------------------


def _one_product(emit: Emitter, gradients: Sequence[Value]) -> Value | None:
    """Join sum_t A_t B_t to [A_1 A_2 ...] [B_1; B_2; ...] where all are plain products of matrices, else None."""
    nodes = [emit.made.get(value.name) for value in gradients]
    if len(set(value.name for value in gradients)) < len(gradients):
        return None
    factors = [None if node is None else _factors(emit, node) for node in nodes]
    if any(pair is None for pair in factors) or len({pair[2:] for pair in factors if pair}) > 1:
        return None
    _, _, left, right = factors[0]  # type: ignore[misc]
    a, b = ([pair[place] for pair in factors if pair] for place in (0, 1))
    joined = [emit("Concat", *parts, axis=axis) for parts, axis in ((a, 0 if left else 1), (b, 1 if right else 0))]
    return emit("Gemm", *joined, transA=int(left), transB=int(right))


def _factors(emit: Emitter, node: Node) -> tuple[Value, Value, bool, bool] | None:
    """Return both matrices and whether each is transposed; None for what is no plain product of two matrices."""
    if node.op == "Gemm" and len(node.inputs) == 2 and node.attribute("alpha", 1.0) == 1.0:
        a, b = (emit.value(name) for name in node.inputs)
        return a, b, bool(node.attribute("transA", 0)), bool(node.attribute("transB", 0))
    if node.op != "MatMul" or any(emit.value(name).rank != 2 for name in node.inputs):
        return None
    (a, left), (b, right) = (_untransposed(emit, name) for name in node.inputs)
    return a, b, left, right


def _untransposed(emit: Emitter, name: str) -> tuple[Value, bool]:
    """Return a matrix, or the one that it is the transpose of, and whether it is."""
    node = emit.made.get(name)
    if node is not None and node.op == "Transpose":
        return emit.value(node.inputs[0]), True
    return emit.value(name), False


# --- pieces of an axis ----------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """A gradient that lies at ``start`` of an ``axis`` and is zero elsewhere."""

    axis: int
    start: int
    end: int
    value: Value


def _side_by_side(emit: Emitter, gradients: Sequence[Value]) -> Value | None:
    """Put pieces together that cover an axis, those of the same place added up first; None where they overlap otherwise."""
    pieces = [_piece(emit, emit.made.get(value.name)) for value in gradients]
    places: dict[tuple[int, int], list[Value]] = {}
    for piece in pieces:
        if piece is None or piece.axis != pieces[0].axis:  # type: ignore[union-attr]
            return None
        places.setdefault((piece.start, piece.end), []).append(piece.value)
    axis = pieces[0].axis  # type: ignore[union-attr]
    starts, ends = zip(*sorted(places), strict=True)
    if (0, *ends) != (*starts, gradients[0].sizes[axis]):
        return None
    return emit("Concat", *(added(emit, places[place]) for place in sorted(places)), axis=axis)


def _piece(emit: Emitter, node: Node | None) -> Piece | None:
    """Read a Pad with zeros along one axis of fixed size; None for anything else."""
    if node is None or node.op != "Pad" or len(node.inputs) != 2 or node.attribute("mode", "constant") != "constant":
        return None
    value, pads = (emit.value(name) for name in node.inputs)
    if pads.array is None or (pads.array < 0).any():
        return None
    before, after = pads.array.reshape(2, -1).tolist()
    axes = [axis for axis in range(value.rank) if before[axis] or after[axis]]
    size = value.sizes[axes[0]] if len(axes) == 1 else None
    return None if size is None else Piece(axes[0], before[axes[0]], before[axes[0]] + size, value)
