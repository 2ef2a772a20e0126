"""What has a slice per token, followed from one tensor on: stored tensors, what is computed of them, lookups and outputs.

The signatures of operators say which axes share their positions, so that scales, zero points and biases go with the tensor they belong
to, and a head is one in whatever form it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.links import signature
from onnxprune.coupling.spec import RULES, Operand, Spec, Term, View
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.model.lookups import LOOKUPS, Lookup

SHAPED = {"Reshape": 1, "Expand": 1, "Tile": 1, "ConstantOfShape": 0}
"""Operators that are told the sizes of what they give -> the input that tells them."""
IN_BLOCKS = "blocks of tokens share their scales"


class Unfollowed(Exception):
    """What reads something that has a slice per token, and why it needs all of them."""


class Along(NamedTuple):
    """The axis along which a value has ``each`` positions per token, one token after the other."""

    axis: int
    each: int = 1

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Return int64: the positions of these tokens."""
        return np.asarray(ids[:, None] * self.each + np.arange(self.each)).reshape(-1)


@dataclass
class Slices:
    """``stored`` tensors, what is computed of them, and ``outputs``, each with the axis that counts tokens.

    ``lookups``: node and which of its tables; ``nodes``: all others on the way, with the letter that stands for tokens.
    """

    tokens: int
    stored: dict[str, Along] = field(default_factory=dict)
    values: dict[str, Along] = field(default_factory=dict)
    outputs: dict[str, Along] = field(default_factory=dict)
    lookups: list[tuple[Node, Lookup]] = field(default_factory=list)
    nodes: dict[Node, tuple[Spec, str]] = field(default_factory=dict)

    def edits(self, facts: Facts, node: Node, staying: int) -> Edits:
        """Return what a node needs when ``staying`` tokens are left."""
        entry, (spec, letter) = RULES.get(node.op), self.nodes[node]
        if entry is None or entry.rewrite is None:
            return Edits()

        def kept(value: str, axis: int) -> np.ndarray | None:
            along = self.stored.get(value) or self.values.get(value)
            if along is None or along.axis != axis:
                return None
            return np.arange(self.tokens * along.each) < staying * along.each

        sizes = {**spec.sizes, letter: staying}
        return entry.rewrite(View(node, facts), KeptPositions(kept, sizes.__getitem__))


def followed(facts: Facts, name: str, along: Along, tokens: int) -> Slices:
    """Follow all that has a slice per token with a stored tensor; raises Unfollowed for what needs them all."""
    found, waiting = Slices(tokens), [(name, along)]
    while waiting:
        value, place = waiting.pop()
        own = found.stored if value in facts.graph.tensors else found.values
        if value in own:
            if own[value] != place:
                raise Unfollowed(f"{value!r} counts tokens along two axes")
            continue
        own[value] = place
        _require_inside(facts, value)
        for node, at in facts.graph.consumers.get(value, ()):
            waiting += _through(facts, found, node, at, place)
        if value in found.values:
            maker = facts.graph.producer[value]
            waiting += _through(facts, found, maker, len(maker.inputs) + maker.outputs.index(value), place)
            if value in facts.graph.outputs:
                found.outputs[value] = place
    if not found.outputs and not found.lookups:
        raise Unfollowed("no output is made of it")
    return found


def _require_inside(facts: Facts, value: str) -> None:
    """Refuse what the caller feeds, what bodies read, and outputs that are stored."""
    if value in facts.graph.inputs:
        raise Unfollowed(f"it is joined with the input {value!r}")
    if any(value in node.reads() for node in facts.graph.top if node.bodies):
        raise Unfollowed(f"{value!r} is read inside of a body of a node")
    if value in facts.graph.outputs and value in facts.constants:
        maker = facts.graph.producer.get(value)
        stored = maker is None or value in facts.graph.tensors
        raise Unfollowed("it is an output" if stored else _no_head(maker))


def _no_head(node: Node | None) -> str:
    return f"{node.op} {node.label!r} reads it, and is no head that scores tokens" if node else "it is an output"


def _through(facts: Facts, found: Slices, node: Node, at: int, along: Along) -> Iterator[tuple[str, Along]]:
    """Yield the operands of a node that have a slice per token because the one at ``at`` has (outputs count on from inputs)."""
    lookup = next((own for own in LOOKUPS.get(node.op, ()) if at == own.table or at in own.beside), None)
    if lookup and along == Along(lookup.axis_of(node, len(facts.shape(node.inputs[lookup.table]) or ()))):
        yield from _looked_up(facts, found, node, lookup)
        return
    spec = found.nodes[node][0] if node in found.nodes else signature(node, facts)
    operands = [*_padded(spec.inputs, len(node.inputs)), *spec.outputs]
    letter = _letter(spec, operands[at] if at < len(operands) else None, along, found.tokens)
    if not letter or letter in (*spec.lossy, *spec.statistics, *spec.sinks()):
        raise Unfollowed(_refusal(facts, node, at))
    barred = next((bar.reason for bar in spec.bars if bar.letter == letter), None)
    if barred is not None:
        raise Unfollowed(f"{node.op} {node.label!r}: {barred}")
    if node.op in SHAPED and facts.array(node.inputs[SHAPED[node.op]]) is None:
        raise Unfollowed(f"{node.op} {node.label!r} is told a shape that is computed")
    if found.nodes.setdefault(node, (spec, letter))[1] != letter:
        raise Unfollowed(f"{node.op} {node.label!r} counts tokens along two axes")
    for name, operand in zip((*node.inputs, *node.outputs), operands, strict=False):
        for axis, term in enumerate(operand or ()):
            if name and letter in term.letters:
                other = _along(spec, term, letter, axis)
                if other is None:
                    raise Unfollowed(_refusal(facts, node, at))
                yield name, other


def _refusal(facts: Facts, node: Node, at: int) -> str:
    name = (*node.inputs, *node.outputs)[at]
    if node.op.endswith("DequantizeLinear") and node.attribute("block_size", 0):
        return f"{node.op} {node.label!r}: {IN_BLOCKS}"
    return (
        _no_head(node)
        if name in facts.constants
        else f"{node.op} {node.label!r} reads the scores of all tokens together"
    )


def _padded(operands: Sequence[Operand], count: int) -> list[Operand]:
    return [*operands[:count], *[None] * (count - len(operands))]


def _looked_up(facts: Facts, found: Slices, node: Node, lookup: Lookup) -> Iterator[tuple[str, Along]]:
    """Note a node that looks rows up, and yield what it has beside the table."""
    rank = len(facts.shape(node.inputs[lookup.table]) or ())
    axis = lookup.axis_of(node, rank)
    if lookup.beside and int(node.attribute("quantize_axis", 1)) % rank == axis:
        raise Unfollowed(f"{node.op} {node.label!r}: {IN_BLOCKS}")
    if (node, lookup) not in found.lookups:
        found.lookups.append((node, lookup))
    for place in (lookup.table, *lookup.beside):
        name = node.input(place)
        if name and (facts.shape(name) or (1,))[axis] == found.tokens:
            yield name, Along(axis)


def _letter(spec: Spec, operand: Operand, along: Along, tokens: int) -> str:
    """Return the letter that counts tokens along an axis of an operand; "" where none does."""
    if operand is None or along.axis >= len(operand):
        return ""
    term = operand[along.axis]
    fitting = (x for x in term.letters if spec.sizes[x] == tokens and _along(spec, term, x, along.axis) == along)
    return next(fitting, "")


def _along(spec: Spec, term: Term, letter: str, axis: int) -> Along | None:
    """Return how an axis counts the positions of a letter, None where not one after the other."""
    before, _, after = (part for part in _parted(term.letters, letter))
    if term.places is not None or math.prod(spec.sizes[x] for x in before) != 1:
        return None
    return Along(axis, math.prod(spec.sizes[x] for x in after))


def _parted(letters: tuple[str, ...], letter: str) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    at = letters.index(letter)
    return letters[:at], letter, letters[at + 1 :]


def root_of(facts: Facts, value: str, axis: int) -> tuple[str, int] | None:
    """Return the stored tensor, and its axis, that a computed table has its rows from; None where it is not stored."""
    while value not in facts.graph.tensors:
        node = facts.graph.producer.get(value)
        if node is None or value not in facts.constants or not (facts.shape(value) or ()):
            return None
        spec = signature(node, facts)
        output = spec.outputs[node.outputs.index(value)]
        letter = _letter(spec, output, Along(axis), (facts.shape(value) or ())[axis])
        ends = (
            (name, at)
            for name, operand in zip(node.inputs, spec.inputs, strict=False)
            for at, term in enumerate(operand or ())
            if letter and letter in term.letters and _along(spec, term, letter, at) == Along(at)
        )
        alike = (node.input(0), axis) if facts.shape(node.input(0)) == facts.shape(value) else None
        found = next(ends, alike)
        if found is None:
            return None
        value, axis = found
    return value, axis
