"""Residual branches: what can be removed whole, so that a sum becomes its other operand.

No kind of block is matched: a branch is whatever works for one operand of one sum and for nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from onnxprune.coupling.groups import WEIGHT_DTYPES, Analysis
from onnxprune.coupling.links import RULES
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph, Node

SUMS = frozenset({"Add", "Sum"})


@dataclass(frozen=True, eq=False)
class Block:
    """A branch: operand ``operand`` (0 or 1) of ``sum``, and the top-level nodes that work for it alone."""

    name: str
    sum: Node
    operand: int
    nodes: tuple[Node, ...]

    @property
    def branch(self) -> str:
        return self.sum.inputs[self.operand]

    @property
    def trunk(self) -> str:
        return self.sum.inputs[1 - self.operand]


class Flow:
    """Which top-level node makes and which ones read each value; a node reads what its bodies capture.

    ``place``: the number of each node, that of its owner for a node inside a body. ``states``: outputs that go with what makes them,
    such as the cache of a layer -> the inputs that go with them.
    """

    def __init__(self, graph: Graph, states: Mapping[str, str] | None = None):
        fed_again = states or {}
        self.top, self.inputs = graph.top, frozenset(graph.inputs).difference(fed_again.values())
        self.reads = [frozenset(node.reads()) for node in graph.top]
        self.maker = {name: i for i, node in enumerate(graph.top) for name in node.outputs if name}
        self.users: dict[str, set[int]] = defaultdict(set)
        for index, names in enumerate(self.reads):
            for name in names:
                self.users[name].add(index)
        self.place = {id(inner): i for i, node in enumerate(graph.top) for inner in node.inside()}
        self.states = frozenset(fed_again)
        self.ends: tuple[str, ...] = tuple(name for name in graph.outputs if name not in self.states)
        needed = self.needed()
        idle = (node for node in graph.top if needed.isdisjoint(node.outputs))  # the file's own business: they stay
        self.ends = (*self.ends, *(name for node in idle for name in node.outputs if name))

    def needed(self, removed: Iterable[Block] = ()) -> set[str]:
        """Return the values that the outputs depend on without the branches ``removed``, states among them whose makers stay."""
        trunks = {block.sum.outputs[0]: block.trunk for block in removed}
        found = self._behind(self.ends, trunks)
        kept = [name for name in self.states if self._stays(name, found)]
        return found | self._behind(kept, trunks) if kept else found

    def gone(self, removed: Iterable[Block]) -> frozenset[str]:
        """Return the states that go with branches."""
        return self.states - self.needed(removed)

    def _stays(self, state: str, needed: set[str]) -> bool:
        """Whether what makes a state is there still, or all that it is made of."""
        if state not in self.maker:
            return True
        maker = self.maker[state]
        made = {name for name in self.reads[maker] if name in self.maker}
        return not needed.isdisjoint(self.top[maker].outputs) or (bool(made) and made <= needed)

    def _behind(self, ends: Iterable[str], trunks: Mapping[str, str]) -> set[str]:
        """Return the values that some depend on, where sums are their trunks."""
        found: set[str] = set()
        todo = list(ends)
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found.add(name)
            if name in trunks:
                todo.append(trunks[name])
            elif name in self.maker:
                todo.extend(self.reads[self.maker[name]])
        return found

    def exclusive(self, value: str, user: int) -> list[int]:
        """Return the numbers of the nodes that work for ``value`` alone, which node ``user`` alone reads; else none."""
        ends, inside = set(self.ends), set[int]()
        if value not in self.maker or self.users[value] != {user} or value in ends:
            return []
        heap, seen = [-self.maker[value]], {self.maker[value]}
        while heap:
            index = -heappop(heap)
            others = [name for name in self.top[index].outputs if name and name != value]
            if any(name in ends or not self.users[name] <= inside for name in others):
                continue
            inside.add(index)
            for source in {self.maker[name] for name in self.reads[index] if name in self.maker} - seen:
                seen.add(source)
                heappush(heap, -source)
        return sorted(inside)


def find_blocks(analysis: Analysis, flow: Flow) -> tuple[Block, ...]:
    """Return every branch that can go, in the order of their sums.

    Both operands of the sum have one shape and depend on the input; the branch multiplies with stored weights, and
    starts from something that the trunk depends on too (the embeddings of a token and of its place do not).
    """
    facts = analysis.facts
    origins = _Origins(facts, flow)
    weighted = {flow.place[id(v.node)] for v in analysis.macs if v.node is not None and _has_weights(facts, v.node)}
    found = []
    for index, node in enumerate(flow.top):
        if node.op not in SUMS or not _is_plain(facts, node):
            continue
        for operand, (branch, trunk) in enumerate((node.inputs, node.inputs[::-1])):
            inside = flow.exclusive(branch, index)
            made = {name for i in inside for name in flow.top[i].outputs}
            borders = {name for i in inside for name in flow.reads[i]} - made
            if not weighted.isdisjoint(inside) and origins.shared(borders, trunk):
                found.append(Block(branch, node, operand, tuple(flow.top[i] for i in inside)))
    return tuple(found)


def _is_plain(facts: Facts, node: Node) -> bool:
    """Whether a sum has two different operands and broadcasts nothing, whatever the free sizes."""
    if len(node.inputs) != 2 or node.inputs[0] == node.inputs[1]:
        return False
    shapes = [[values[name].shape for name in node.inputs] for values in (facts.first, facts.second)]
    return all(None not in pair and pair[0] == pair[1] for pair in shapes)


def _has_weights(facts: Facts, node: Node) -> bool:
    stored = (name for name in node.inputs if name in facts.constants and facts.dtype(name) in WEIGHT_DTYPES)
    return any(size > 1 for name in stored for size in facts.shape(name) or ())


class _Origins:
    """What each value is computed from: a bit for every input and every node; asking for a shape does not count."""

    def __init__(self, facts: Facts, flow: Flow):
        self._own = {name: 1 << i for i, name in enumerate(facts.graph.inputs)}
        self._all = dict(self._own)
        for index, node in enumerate(flow.top):
            rule = RULES.get(node.op)
            if rule is not None and rule.family == "facts":
                continue
            mask = 0
            for name in flow.reads[index]:
                mask |= self._all.get(name, 0)
            if mask:
                bit = 1 << (len(facts.graph.inputs) + index)
                self._own.update((name, bit) for name in node.outputs if name)
                self._all.update((name, mask | bit) for name in node.outputs if name)

    def shared(self, values: Collection[str], trunk: str) -> bool:
        """Whether ``trunk`` is computed from one of ``values``."""
        return any(self._own.get(name, 0) & self._all.get(trunk, 0) for name in values)
