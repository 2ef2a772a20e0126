"""Which stored tensors have a row for every token: tables that an input's numbers look up, and heads that score tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from onnx import TensorProto

from onnxprune.changes.vocabulary.follow import Along, Slices, Unfollowed, followed, root_of
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.model.lookups import LOOKUPS, Lookup

PASSED_ON = frozenset({"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice"})
"""Operators behind which every number is still one that came in."""
OTHER_NUMBERS = ("mask", "type", "segment", "position")
"""Words in names of inputs whose numbers are not of tokens."""
INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})
WIDE = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING})
"""Types of what is looked up by computed numbers and is no embedding."""


@dataclass(frozen=True, eq=False)
class TokenTensor:
    """A stored tensor with a slice per token along ``axis``; ``reason``: why it stays whole ("": it can be cut).

    ``lookups``: the nodes that look its rows up, by numbers of ``inputs``. ``slices``: all that is cut with it.
    """

    name: str
    tokens: int
    axis: int = 0
    lookups: tuple[Node, ...] = ()
    inputs: tuple[str, ...] = ()
    slices: Slices | None = None
    reason: str = ""

    @property
    def outputs(self) -> dict[str, Along]:
        """The outputs that score tokens, with the axis that does."""
        return {} if self.slices is None else self.slices.outputs


class RowsRead(NamedTuple):
    """A node that looks up rows of a stored tensor, and the input whose numbers it takes ("": they are computed)."""

    node: Node
    lookup: Lookup
    name: str
    axis: int
    source: str


def rows_read(facts: Facts) -> Iterator[RowsRead]:
    """Yield the lookups in stored tables, directly or behind what is computed of them row by row."""
    for node in facts.graph.top:
        for lookup in LOOKUPS.get(node.op, ()):
            table = node.input(lookup.table)
            shape = facts.shape(table) or ()
            axis = lookup.axis_of(node, len(shape))
            root = root_of(facts, table, axis) if shape else None
            if root is not None:
                source = "" if lookup.ids is None else _source(facts, node.input(lookup.ids))
                yield RowsRead(node, lookup, *root, source)


def _source(facts: Facts, value: str) -> str:
    """Return the input whose numbers a value holds; "" where they are computed."""
    while value not in facts.graph.inputs:
        node = facts.graph.producer.get(value)
        if node is None or node.op not in PASSED_ON:
            return ""
        value = node.inputs[0]
    return value if facts.dtype(value) in INTEGERS else ""


def token_tensors(facts: Facts) -> list[TokenTensor]:
    """Return the tables of the largest vocabulary and the heads over it, and the other tables that are looked up, with reasons."""
    uses = dict[tuple[str, int], list[RowsRead]]()
    for read in rows_read(facts):
        uses.setdefault((read.name, read.axis), []).append(read)
    sizes = {key: (facts.shape(key[0]) or ())[key[1]] for key in uses}
    own = {key for key, reads in uses.items() if any(_names_tokens(read.source) for read in reads)}
    tokens = max((sizes[key] for key in own if len(facts.shape(key[0]) or ()) > 1), default=0)
    result = list[TokenTensor]()
    for key, reads in uses.items():
        if any(found.slices and key[0] in found.slices.stored for found in result):
            continue
        if key in own and sizes[key] == tokens:
            result.append(_followed(facts, *key, tokens, reads))
        elif reason := _other(facts, key[0], reads, tokens):
            nodes = tuple(read.node for read in reads)
            result.append(TokenTensor(*key[:1], sizes[key], key[1], nodes, _inputs(reads), reason=reason))
    return [*result, *_heads(facts, tokens, result)] if tokens else result


def _followed(facts: Facts, name: str, axis: int, tokens: int, reads: Sequence[RowsRead]) -> TokenTensor:
    """Look at all that reads a table, which may be the matrix of a head too."""
    nodes = tuple(read.node for read in reads)
    try:
        slices = followed(facts, name, Along(axis), tokens)
        computed = next((reason for n, look in slices.lookups if (reason := _computed(facts, n, look))), "")
        if computed:
            raise Unfollowed(computed)
    except Unfollowed as problem:
        return TokenTensor(name, tokens, axis, nodes, _inputs(reads), reason=str(problem))
    sources = (_source(facts, node.inputs[look.ids]) for node, look in slices.lookups if look.ids is not None)
    nodes = tuple(dict.fromkeys(node for node, _ in slices.lookups))
    return TokenTensor(name, tokens, axis, nodes, tuple(dict.fromkeys(sources)), slices)


def _computed(facts: Facts, node: Node, lookup: Lookup) -> str:
    """Say by which numbers rows are looked up that are no input's ("": they are one's)."""
    if lookup.ids is None or not node.input(lookup.ids):
        return "its rows are looked up by their place"
    if _source(facts, node.inputs[lookup.ids]):
        return ""
    maker = _maker(facts, node.inputs[lookup.ids])
    return f"its rows are looked up by numbers that {f'{maker.op} {maker.label!r} computes' if maker else 'are stored'}"


def _maker(facts: Facts, value: str) -> Node | None:
    """Return the node that computes what is passed on as a value, None where it is stored."""
    node = facts.graph.producer.get(value)
    while node is not None and node.op in PASSED_ON:
        value, node = node.inputs[0], facts.graph.producer.get(node.inputs[0])
    return None if value in facts.graph.tensors else node


def _names_tokens(source: str) -> bool:
    return bool(source) and not any(word in source.lower() for word in OTHER_NUMBERS)


def _inputs(reads: Sequence[RowsRead]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(read.source for read in reads if read.source))


def _other(facts: Facts, name: str, reads: Sequence[RowsRead], tokens: int) -> str:
    """Say why a table is not of the vocabulary's tokens; "" for what is no embedding at all."""
    names = ", ".join(_inputs(reads))
    if names and not any(_names_tokens(read.source) for read in reads):
        return f"its rows are looked up by {names}, whose numbers are not of tokens"
    if names:
        return f"it has another number of rows than the vocabulary of {tokens}" if tokens else ""
    embeds = len(facts.shape(name) or ()) > 1 and facts.dtype(name) not in WIDE and reads[0].axis == 0
    return _computed(facts, reads[0].node, reads[0].lookup) if embeds else ""


def _heads(facts: Facts, tokens: int, found: Sequence[TokenTensor]) -> Iterator[TokenTensor]:
    """Yield the stored matrices of their own, some slices per token along some axis, that outputs are made with."""
    taken = {name for tensor in found for name in (tensor.name, *(tensor.slices.stored if tensor.slices else ()))}
    for name in facts.graph.tensors:
        shape, uses = facts.shape(name) or (), facts.graph.consumers.get(name, ())
        if name in taken or len(shape) < 2 or tokens not in shape or name in facts.graph.outputs or not uses:
            continue
        head = _head(facts, name, [axis for axis, size in enumerate(shape) if size == tokens], tokens)
        taken.update(head.slices.stored if head.slices else {head.name})
        yield head


def _head(facts: Facts, name: str, axes: Sequence[int], tokens: int) -> TokenTensor:
    """Return a tensor as a head, named after the largest that is cut with it, or with the reason why it is none."""
    reason = ""
    for axis in axes:
        try:
            slices = followed(facts, name, Along(axis), tokens)
            if slices.lookups:
                raise Unfollowed("it belongs to a table that stays")
        except Unfollowed as problem:
            reason = reason or str(problem)
            continue
        largest = max(slices.stored, key=lambda stored: math.prod(facts.shape(stored) or ()))
        return TokenTensor(largest, tokens, slices.stored[largest].axis, slices=slices)
    return TokenTensor(name, tokens, axes[0], reason=reason)


def known_outputs(parts: Collection[TokenTensor]) -> dict[str, Along]:
    """Return every output that scores tokens of some part, with the axis that does."""
    return {name: along for part in parts for name, along in part.outputs.items()}
