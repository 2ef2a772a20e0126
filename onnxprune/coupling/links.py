"""From signatures to links: every position of every axis gets a number, every signature gives pairs that go together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxprune.coupling import rules as _rules  # noqa: F401  (fills the table)
from onnxprune.coupling.caches import freed_outputs
from onnxprune.coupling.spec import LOSSY, RULES, Operand, Spec, View, frozen
from onnxprune.model.decoding import HEADS
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node

FREE = -1
AT_ONCE = 1 << 18  # edges that are looked at at a time
PositionList = np.ndarray | range
Adapt = Callable[[Node, Spec], Spec]


def as_it_is(node: Node, spec: Spec) -> Spec:
    return spec


class Barrier(NamedTuple):
    """Why positions may not be cut: the node that says so (None: the model's own boundary) and its reason."""

    node: Node | None
    reason: str
    kind: str = "rule"


class Product(NamedTuple):
    """An axis that is a product: ``fine`` positions, and for each factor its positions and which one each fine position has."""

    node: Node
    fine: np.ndarray
    letters: tuple[str, ...]
    factors: tuple[np.ndarray, ...]
    maps: tuple[np.ndarray, ...]


@dataclass
class Links:
    """All positions of a model: value axes first come, first numbered, then each node's letters."""

    facts: Facts
    specs: list[tuple[Node, Spec]] = field(default_factory=list)
    axes: dict[tuple[str, int], int] = field(default_factory=dict)
    letters: dict[tuple[int, str], int] = field(default_factory=dict)
    barriers: list[Barrier] = field(default_factory=list)
    choices: list[Product] = field(default_factory=list)
    size: int = 0
    _pairs: list[tuple[PositionList, PositionList]] = field(default_factory=list)
    _barred: list[tuple[np.ndarray, int]] = field(default_factory=list)

    def axis(self, value: str, axis: int) -> np.ndarray:
        """Return int64[size]: the position numbers of one axis of a value."""
        start = self.axes[value, axis]
        return np.arange(start, start + (self.facts.shape(value) or ())[axis])

    def letter(self, index: int, letter: str) -> np.ndarray:
        """Return int64[size]: the position numbers of a letter of the ``index``-th signature."""
        start = self.letters[index, letter]
        return np.arange(start, start + self.specs[index][1].sizes[letter])

    def link(self, left: np.ndarray, right: np.ndarray) -> None:
        self._pairs.append((_run(left), _run(right)))

    def bar(self, positions: np.ndarray, barrier: Barrier) -> None:
        self._barred.append((positions, len(self.barriers)))
        self.barriers.append(barrier)

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (component of each position, lowest barrier number of each component or FREE)."""
        count, labels = joined_components(self.size, self._pairs)
        reasons = np.full(count, len(self.barriers), np.int64)
        for positions, number in self._barred:
            np.minimum.at(reasons, labels[positions], number)
        return labels, np.where(reasons == len(self.barriers), FREE, reasons)


def components(size: int, left: np.ndarray, right: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of connected components and each node's component, numbered in order of first appearance."""
    return joined_components(size, [(left, right)])


def joined_components(size: int, pairs: Sequence[tuple[PositionList, PositionList]]) -> tuple[int, np.ndarray]:
    """Return the same for edges in several parts, of which a few are looked at at a time.

    The same as scipy.sparse.csgraph, whose import takes longer than a whole analysis. Every component is led to its first member
    in as many turns as the logarithm of its size.
    """
    root, left = np.arange(size, dtype=_kind(size)), list(_together(pairs))
    while left:
        for edges in left:
            one, two = (root[_joined(ends, size)] for ends in edges)
            np.minimum.at(
                root, np.maximum(one, two), np.minimum(one, two)
            )  # a root is led to the smallest that it meets
        while not np.array_equal(root, further := root[root]):
            root = further
        left = [found for edges in left if (found := _apart(edges, root))]
    first = root == np.arange(size, dtype=root.dtype)
    number = np.cumsum(first, dtype=root.dtype) - 1
    return int(first.sum()), number[root]


Edges = tuple[list[PositionList], list[PositionList]]


def _together(pairs: Sequence[tuple[PositionList, PositionList]]) -> Iterator[Edges]:
    """Yield edges in parts that are worth the time that it takes to look at one."""
    ends: Edges = ([], [])
    count = 0
    for one, two in pairs:
        ends[0].append(one)
        ends[1].append(two)
        count += len(one)
        if count >= AT_ONCE:
            yield ends
            ends, count = ([], []), 0
    if count:
        yield ends


def _apart(edges: Edges, root: np.ndarray) -> Edges | None:
    """Return the edges whose ends are not in one component yet; None where there are none."""
    one, two = (_joined(ends, len(root)) for ends in edges)
    apart = root[one] != root[two]
    return ([one[apart]], [two[apart]]) if apart.any() else None


def _run(positions: np.ndarray) -> PositionList:
    """Return positions that follow one another as a range, which takes no memory."""
    if len(positions) and np.array_equal(positions, span := np.arange(positions[0], positions[0] + len(positions))):
        return range(int(span[0]), int(span[-1]) + 1)
    return positions


def _joined(parts: Sequence[PositionList], size: int) -> np.ndarray:
    """Return all positions of several parts, one after the other."""
    result, place = np.empty(sum(map(len, parts)), _kind(size)), 0
    for part in parts:
        own = result[place : place + len(part)]
        own[:] = np.arange(part.start, part.stop) if isinstance(part, range) else part
        place += len(part)
    return result


def _kind(size: int) -> type[np.signedinteger]:
    """Return the integers that hold position numbers: a model of billions of weights has many positions, not that many."""
    return np.int32 if size < np.iinfo(np.int32).max else np.int64


def signature(node: Node, facts: Facts, second: bool = False) -> Spec:
    """Return a node's signature from the table; all axes barred where there is no rule or a shape is unknown."""
    view = View(node, facts, second)
    entry = RULES.get(node.op)
    if entry is None:
        return frozen(view, f"no rule for operator {node.op}")
    if entry.family == "barrier":
        return entry.spec(view)
    carried = [name for name in (*node.inputs, *node.outputs) if name]
    used = [name for name in carried if name in facts.graph.consumers or name in facts.graph.outputs]
    unknown = next((name for name in used if view.fact_of(name).shape is None), None)
    if unknown is not None:
        return frozen(view, f"the shape of {unknown!r} is not known")
    try:
        return entry.spec(view)
    except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
        return frozen(view, f"the rule for {node.op} does not fit this node ({error})")


def build_links(
    facts: Facts,
    allowed: frozenset[str] = frozenset(),
    adapted: Adapt = as_it_is,
) -> Links:
    """Read every node's signature, ``adapted``; lossy letters whose kind is not in ``allowed`` become barriers."""
    links = Links(facts)
    for name in facts.first:
        shape = facts.shape(name)
        for axis, size in enumerate(shape or ()):
            links.axes[name, axis] = links.size
            links.size += size
    for node in facts.graph.nodes:
        links.specs.append((node, adapted(node, signature(node, facts))))
    for index, (node, spec) in enumerate(links.specs):
        for letter, size in spec.sizes.items():
            links.letters[index, letter] = links.size
            links.size += size
        for names, operands in ((node.inputs, spec.inputs), (node.outputs, spec.outputs)):
            for name, operand in zip(names, operands, strict=False):
                _couple(links, index, name, operand)
        for name, operand in spec.extra:
            _couple(links, index, name, operand)
        _bar_settings(links, node, spec)
        _bar_letters(links, index, node, spec)
    _bar_boundary(links)
    if facts.first is not facts.second:
        _bar_free_sizes(links, adapted)
    _bar_lossy(links, allowed)  # last: the first barrier is the reason, and these alone can be lifted by a setting
    return links


def _couple(links: Links, index: int, name: str, operand: Operand) -> None:
    node, spec = links.specs[index]
    if operand is None or not name or links.facts.shape(name) is None:
        return
    for axis, term in enumerate(operand):
        positions = links.axis(name, axis)
        if not term.letters:
            if len(positions) > 1:
                links.bar(positions, Barrier(node, f"the rule for {node.op} says nothing about this axis"))
            continue
        letters = [letter for letter in term.letters if spec.sizes[letter] > 1] or [term.letters[0]]
        flat = np.arange(len(positions)) if term.places is None else term.places
        inside = flat >= 0
        if len(letters) == 1:
            links.link(positions[inside], links.letter(index, letters[0])[flat[inside]])
            continue
        maps = np.unravel_index(flat[inside], [spec.sizes[letter] for letter in letters])
        factors = tuple(links.letter(index, letter) for letter in letters)
        links.choices.append(Product(node, positions[inside], tuple(letters), factors, tuple(maps)))


def _bar_settings(links: Links, node: Node, spec: Spec) -> None:
    """Bar what a node reads as a setting (scales, indices, a condition); asking for a shape bars nothing."""
    entry = RULES.get(node.op)
    if entry is None or entry.family == "facts":
        return
    for name, operand in zip(node.inputs, spec.inputs, strict=False):
        if name and operand is None:
            for axis in range(len(links.facts.shape(name) or ())):
                links.bar(links.axis(name, axis), Barrier(node, f"read as a setting by {node.op}", "setting"))


def _bar_letters(links: Links, index: int, node: Node, spec: Spec) -> None:
    for letter, reason, positions in spec.bars:
        where = links.letter(index, letter)
        links.bar(where if positions is None else where[positions], Barrier(node, reason))
    if spec.sinks() and node.inputs and all(name in links.facts.constants for name in node.inputs if name):
        shared = set() if node.bodies else spec.letters(operand for _, operand in spec.extra)
        for letter in spec.sinks() - shared:
            links.bar(
                links.letter(index, letter), Barrier(node, "summed up inside a computation on stored tensors alone")
            )


def _bar_lossy(links: Links, allowed: frozenset[str]) -> None:
    for index, (node, spec) in enumerate(links.specs):
        for letter, kind in spec.lossy.items():
            if kind not in allowed:
                links.bar(links.letter(index, letter), Barrier(node, LOSSY[kind], "lossy"))


CACHED = "heads of a cache, which clients feed"


def _bar_boundary(links: Links) -> None:
    """Inputs and outputs keep their shapes, caches of picked heads aside, and no axis whose size is the caller's to choose is cut."""
    facts, states = links.facts, links.facts.decoding.caches
    freed, past = freed_outputs(facts.model), {state.past for state in states}
    caches = past.union(state.present for state in states)
    for names, what in ((facts.graph.inputs, "input"), (facts.graph.outputs, "output")):
        for name in names:
            for axis in range(len(facts.shape(name) or ())):
                barrier = Barrier(None, f"axis {axis} of the model's {what} {name!r}", what)
                if name in caches and axis == HEADS:
                    barrier = Barrier(None, CACHED, "cache")
                if (name, axis) not in freed:
                    links.bar(links.axis(name, axis), barrier)


def _bar_free_sizes(links: Links, adapted: Adapt) -> None:
    """Bar letters whose size, or whose positions that are taken, differ under the second assignment of the free sizes.

    Not those along an axis that elsewhere is a product with a fixed factor (batch x heads): the product governs it.
    """
    free: dict[tuple[int, str], Node] = {}
    for index, (node, spec) in enumerate(links.specs):
        other = adapted(node, signature(node, links.facts, second=True))
        changed = [letter for letter, size in spec.sizes.items() if other.sizes.get(letter) != size]
        free.update(((index, letter), node) for letter in [*changed, *_moving(spec, other)])
    governed = _governed(links, free)
    for (index, letter), node in free.items():
        if (index, letter) not in governed:
            links.bar(links.letter(index, letter), Barrier(node, "its size depends on the input", "dynamic"))


def _moving(spec: Spec, other: Spec) -> set[str]:
    """Letters of which an axis takes other positions under the second assignment (a table sliced to the input's length)."""
    pairs = zip([*spec.inputs, *spec.outputs], [*other.inputs, *other.outputs], strict=False)
    terms = [term for one, two in pairs for term in zip(one or (), two or (), strict=False)]
    return {
        letter
        for one, two in terms
        if one.places is not None and (two.places is None or not np.array_equal(one.places, two.places))
        for letter in one.letters
    }


def _governed(links: Links, free: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return the free letters that stand for whole axes, one of which is a product with a fixed factor somewhere."""
    number: dict[tuple, int] = {}
    edges: list[tuple[int, int]] = []
    products: list[int] = []
    parts: set[tuple[int, str]] = set()
    for index, (node, spec) in enumerate(links.specs):
        operands = ((node.inputs, spec.inputs), (node.outputs, spec.outputs))
        mentions = [*(pair for side in operands for pair in zip(*side, strict=False)), *spec.extra]
        for name, axis, term in ((n, a, t) for n, operand in mentions for a, t in enumerate(operand or ())):
            inside = [(index, letter) for letter in term.letters if (index, letter) in free]
            whole = number.setdefault((name, axis), len(number))
            factors = [letter for letter in term.letters if spec.sizes[letter] > 1]
            if inside and len(factors) == 1 and term.places is None:
                edges.append((whole, number.setdefault(inside[0], len(number))))
                continue
            parts.update(inside)
            if inside and len(inside) < len(factors) and term.places is None:
                products.append(whole)
    left, right = np.array(edges, np.int64).reshape(-1, 2).T
    _, labels = components(len(number), left, right)
    explained = set(labels[products].tolist())
    return {letter for letter in set(free) & set(number) - parts if labels[number[letter]] in explained}
