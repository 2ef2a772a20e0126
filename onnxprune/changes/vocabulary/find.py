"""Which stored tensors have a row for every token: tables that an input's numbers look up, and heads that score tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxprune.changes.vocabulary.heads import HeadPath, Unfollowed, followed_head
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.model.tensors import FLOATS

PASSED_ON = frozenset({"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice"})
"""Operators behind which every number is still one that came in."""
OTHER_NUMBERS = ("mask", "type", "segment", "position")
"""Words in names of inputs whose numbers are not of tokens."""
INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})


@dataclass(frozen=True, eq=False)
class TokenTensor:
    """A stored tensor with a slice per token along ``axis``; ``reason``: why it stays whole ("": it can be cut).

    ``lookups``: the nodes that look rows up, by numbers of ``inputs``. ``heads``: the ways from it to outputs.
    """

    name: str
    tokens: int
    axis: int = 0
    lookups: tuple[Node, ...] = ()
    inputs: tuple[str, ...] = ()
    heads: tuple[HeadPath, ...] = ()
    reason: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(output for head in self.heads for output in head.outputs))


def lookup_tables(facts: Facts) -> dict[str, dict[Node, str]]:
    """Return stored table -> node that looks its rows up -> the input whose numbers it looks up."""
    found: dict[str, dict[Node, str]] = {}
    for node in facts.graph.top:
        table = node.input(0)
        if node.op != "Gather" or table not in facts.graph.tensors or len(facts.shape(table) or ()) < 2:
            continue
        source = _source(facts, node.inputs[1])
        if source and int(node.attribute("axis", 0)) == 0:
            found.setdefault(table, {})[node] = source
    return found


def _source(facts: Facts, value: str) -> str:
    """Return the input whose numbers a value holds; "" where they are computed."""
    while value not in facts.graph.inputs:
        node = facts.graph.producer.get(value)
        if node is None or node.op not in PASSED_ON:
            return ""
        value = node.inputs[0]
    return value if facts.dtype(value) in INTEGERS else ""


def token_tensors(facts: Facts) -> list[TokenTensor]:
    """Return the tables of the largest vocabulary and the heads over it, and the other tables that inputs look up, with reasons."""
    tables = lookup_tables(facts)
    sizes = {name: (facts.shape(name) or (0,))[0] for name in tables}
    own = {name for name, uses in tables.items() if any(map(_names_tokens, uses.values()))}
    tokens = max((sizes[name] for name in own), default=0)
    result = [
        _table(facts, name, uses, tokens)
        if name in own and sizes[name] == tokens
        else TokenTensor(name, sizes[name], 0, tuple(uses), _inputs(uses), reason=_other(uses, tokens))
        for name, uses in tables.items()
    ]
    result += _computed(facts, set(tables))
    return [*result, *_heads(facts, tokens, {found.name for found in result})] if tokens else result


def _computed(facts: Facts, taken: set[str]) -> Iterator[TokenTensor]:
    """Yield the tables of floats that are looked up by other numbers than an input's: positions, and what is made of tokens."""
    for node in facts.graph.top:
        table = node.input(0)
        shape = facts.shape(table) or ()
        if node.op != "Gather" or table not in facts.graph.tensors or table in taken or len(shape) < 2:
            continue
        if facts.dtype(table) not in FLOATS or int(node.attribute("axis", 0)) != 0:
            continue
        taken.add(table)
        maker = _maker(facts, node.inputs[1])
        reason = f"its rows are looked up by numbers that {f'{maker.op} {maker.label!r} computes' if maker else 'are stored'}"
        yield TokenTensor(table, shape[0], 0, (node,), reason=reason)


def _maker(facts: Facts, value: str) -> Node | None:
    """Return the node that computes what is passed on as a value, None where it is stored."""
    node = facts.graph.producer.get(value)
    while node is not None and node.op in PASSED_ON:
        value, node = node.inputs[0], facts.graph.producer.get(node.inputs[0])
    return None if value in facts.graph.tensors else node


def _names_tokens(source: str) -> bool:
    return not any(word in source.lower() for word in OTHER_NUMBERS)


def _inputs(uses: Mapping[Node, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(uses.values()))


def _other(uses: Mapping[Node, str], tokens: int) -> str:
    names = ", ".join(_inputs(uses))
    if not any(map(_names_tokens, uses.values())):
        return f"its rows are looked up by {names}, whose numbers are not of tokens"
    return f"it has another number of rows than the vocabulary of {tokens}"


def _table(facts: Facts, name: str, uses: Mapping[Node, str], tokens: int) -> TokenTensor:
    """Look at all that reads a table, which may be the matrix of a head too."""
    others = [(node, place) for node, place in facts.graph.consumers[name] if node not in uses]
    heads, reason = _followed(facts, others, 0, tokens)
    if name in facts.graph.outputs or any(name in node.reads() for node in facts.graph.top if node.bodies):
        reason = reason or "it is an output, or read inside of a body of a node"
    return TokenTensor(name, tokens, 0, tuple(uses), _inputs(uses), heads, reason)


def _followed(
    facts: Facts, uses: Sequence[tuple[Node, int]], axis: int, tokens: int
) -> tuple[tuple[HeadPath, ...], str]:
    """Return the ways to outputs, and why some use is none ("": all are)."""
    paths, reason = list[HeadPath](), ""
    for node, place in uses:
        try:
            paths.append(followed_head(facts, node, place, axis, tokens))
        except Unfollowed as problem:
            reason = reason or str(problem)
    return tuple(paths), reason


def _heads(facts: Facts, tokens: int, taken: set[str]) -> Iterator[TokenTensor]:
    """Yield the stored matrices of their own, one slice per token along some axis, that outputs are made with."""
    for name in facts.graph.tensors:
        shape, uses = facts.shape(name) or (), facts.graph.consumers.get(name, ())
        if name in taken or len(shape) != 2 or tokens not in shape or name in facts.graph.outputs or not uses:
            continue
        tries = [(axis, *_followed(facts, uses, axis, tokens)) for axis in (0, 1) if shape[axis] == tokens]
        axis, paths, reason = min(tries, key=lambda found: bool(found[2]))
        yield TokenTensor(name, tokens, axis, heads=paths, reason=reason)
