"""The way from a matrix with a slice per token to outputs with a position per token: what on it has to become narrower too."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node

ALONE = frozenset(
    {"Cast", "Identity", "Tanh", "Neg", "Relu", "Sigmoid", "Clip", "Abs", "Exp", "Erf", "Softplus", "LeakyRelu"}
)
"""Operators that take every position for itself, along their first input."""
PAIRED = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"})
"""Operators of two operands, of which the other may hold a number per token."""
ALONG = {"Gather": 1, "Slice": 3}
"""Operators that take some of another axis -> the input that names what (Slice: its axes)."""


class Unfollowed(Exception):
    """What reads the scores of tokens, and why it needs all of them."""


@dataclass
class HeadPath:
    """``node``: the contraction; ``between``: the matrix in other forms in front of it. ``values``: what is made of it, a position per token along the last axis.

    ``stored``: tensor -> axis of further numbers per token.
    """

    node: Node
    between: list[str]
    values: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)


def followed_head(facts: Facts, node: Node, place: int, axis: int, tokens: int) -> HeadPath:
    """Follow what ``node`` makes of a matrix whose axis ``axis`` counts tokens to the outputs; raises Unfollowed."""
    between = list[str]()
    while node.op in ("Transpose", "Identity", "Cast") and place == 0 and len(facts.shape(node.inputs[0]) or ()) == 2:
        if node.op == "Transpose":
            axis = list(node.attribute("perm", [1, 0])).index(axis)
        between.append(node.outputs[0])
        node, place = _only_reader(facts, node)
    path = HeadPath(node, between)
    if not _contracts(node, place, axis):
        raise Unfollowed(f"{node.op} {node.label!r} reads it, and is no head that scores tokens")
    if node.op == "Gemm" and node.input(2):
        _take(facts, path, node, node.inputs[2], tokens)
    waiting = [node.outputs[0]]
    while waiting:
        value = waiting.pop()
        path.values.append(value)
        if value in facts.graph.outputs:
            path.outputs.append(value)
        for reader, at in facts.graph.consumers.get(value, ()):
            _read(facts, path, reader, at, tokens)
            waiting.append(reader.outputs[0])
    if not path.outputs:
        raise Unfollowed(f"no output is made of what {node.op} {node.label!r} gives")
    if any(set(path.values) & n.reads() for n in facts.graph.top if n.bodies):
        raise Unfollowed("its scores are read inside of a body of a node")
    return path


def _only_reader(facts: Facts, node: Node) -> tuple[Node, int]:
    readers = facts.graph.consumers.get(node.outputs[0], ())
    if len(readers) != 1 or node.outputs[0] in facts.graph.outputs:
        raise Unfollowed(f"{node.op} {node.label!r} of it is read in several places")
    return readers[0]


def _contracts(node: Node, place: int, axis: int) -> bool:
    """Whether a node contracts the other axis of its second operand, so that tokens are the last axis of what it gives."""
    if node.op == "MatMul":
        return place == 1 and axis == 1
    return node.op == "Gemm" and place == 1 and axis == 1 - int(bool(node.attribute("transB", 0)))


def _read(facts: Facts, path: HeadPath, node: Node, place: int, tokens: int) -> None:
    """Note what a node that reads scores needs; raises Unfollowed."""
    if node.op in ALONE and place == 0:
        return
    if node.op in PAIRED and len(node.inputs) == 2:
        return _take(facts, path, node, node.inputs[1 - place], tokens)
    if node.op in ALONG and place == 0 and _elsewhere(facts, node):
        return
    raise Unfollowed(f"{node.op} {node.label!r} reads the scores of all tokens together")


def _take(facts: Facts, path: HeadPath, node: Node, other: str, tokens: int) -> None:
    """Note an operand beside the scores: one number for all, or one for each token."""
    shape = facts.shape(other)
    if other in path.values or (shape is not None and (not shape or shape[-1] == 1)):
        return
    if other not in facts.graph.tensors or shape is None or shape[-1] != tokens:
        raise Unfollowed(f"{node.op} {node.label!r} joins the scores with {other!r}, which is computed")
    if len(facts.graph.consumers[other]) > 1:
        raise Unfollowed(f"{other!r}, a number per token, is read in several places")
    path.stored[other] = len(shape) - 1


def _elsewhere(facts: Facts, node: Node) -> bool:
    """Whether a node takes some of another axis than the last."""
    rank = len(facts.shape(node.inputs[0]) or ())
    if node.op == "Gather":
        index = facts.shape(node.inputs[1])
        return index is not None and rank > 0 and int(node.attribute("axis", 0)) % rank != rank - 1
    axes = facts.array(node.input(3)) if node.input(3) else None
    return axes is not None and rank > 0 and all(int(axis) % rank != rank - 1 for axis in axes.reshape(-1))
