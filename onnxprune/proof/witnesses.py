"""Inner values that bear witness where outputs cannot: both graphs have them under one name, and they must agree.

A node that a cut reaches is the same function in both graphs if its result agrees wherever its operands do; so where every such
node has been seen, the outputs are proven however little they move themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.model.facts import UNKNOWN, Facts
from onnxprune.model.graph import Graph, Node
from onnxprune.model.model import Model
from onnxprune.proof.stand_ins import MasksOf, everything

DECIDING = {"If": 1, "Loop": 2}  # first inputs of control flow that say what of it is run
WAYS = {"If": {True, False}, "Loop": {True}}  # ways that have to be gone for all of it to be seen
FLOATS = frozenset({1, 10, 11, 16})  # element types
STEPS = {"Round", "Floor", "Ceil", "Sign"}  # operators of floats that have steps too
LIVE_BYTES = 1 << 26  # of values given out by one run
HELD_BYTES = 1 << 24  # of what is kept of one run to compare
MOST_ELEMENTS, FEWEST_ELEMENTS = 1 << 16, 1 << 8  # kept of one value


@dataclass(frozen=True)
class Witnesses:
    """``values``: name -> the node that makes it; ``hidden``: outer nodes with bodies inside which something was changed.

    ``veiled``: those among them where a further If or Loop inside decides by values that nobody sees. ``masks``: the positions
    that stay of a value of the original.
    """

    facts: Facts
    values: Mapping[str, Node]
    hidden: tuple[Node, ...]
    veiled: frozenset[Node] = frozenset()
    masks: MasksOf = everything

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(dict.fromkeys((*self.values.values(), *self.hidden)))

    @property
    def conditions(self) -> dict[Node, tuple[str, ...]]:
        """The values that decide which way a hidden node goes, where they are not known: a condition, a number of turns."""
        unknown = {node: _undecided(self.facts, node) for node in self.hidden}
        return {node: values for node, values in unknown.items() if values}

    def parts(self, scale: float = 1.0) -> Iterator[list[str]]:
        """Return the names in parts that one run can give out, their sizes being those of the analysis times ``scale``."""
        return in_parts(self.values, partial(self.bytes_of, scale=scale), LIVE_BYTES)

    def bytes_of(self, name: str, scale: float) -> float:
        """Return about what a value takes whose inputs are so many times larger than those of the analysis."""
        return 4.0 * scale * math.prod(self.facts.shape(name) or ())

    def sample(self, name: str, value: np.ndarray) -> np.ndarray:
        """Return a part of a value small enough to be kept: all positions of axes that are cut, evenly spaced ones of others.

        The part is the same whether the cut is made or not.
        """
        limit = min(MOST_ELEMENTS, max(FEWEST_ELEMENTS, HELD_BYTES // (4 * max(len(self.values), 1))))
        shape, cut_axes = self.facts.shape(name) or (), self.masks(name).keys()
        sizes = {axis: size for axis, size in enumerate(value.shape) if axis not in cut_axes}
        fixed = math.prod(shape[axis] for axis in cut_axes)
        steps = dict.fromkeys(sizes, 1)
        while sizes and fixed * math.prod(-(-sizes[a] // steps[a]) for a in sizes) > limit:
            axis = max(sizes, key=lambda a: sizes[a] / steps[a])
            if sizes[axis] <= steps[axis]:
                break
            steps[axis] *= 2
        if all(step == 1 for step in steps.values()):
            return value
        return value[
            tuple(slice(None, None, steps.get(axis, 1)) for axis in range(value.ndim))
        ].copy()  # the whole goes


def in_parts(names: Iterable[str], size: Callable[[str], float], limit: float) -> Iterator[list[str]]:
    """Yield names in parts of no more than ``limit`` bytes together, where one alone has no more; ``size``: of each."""
    part: list[str] = []
    total = 0.0
    for name in names:
        if part and total + size(name) > limit:
            yield part
            part, total = [], 0.0
        part.append(name)
        total += size(name)
    if part:
        yield part


def of_cut(analysis: Analysis, kept: Sequence[np.ndarray]) -> Witnesses:
    """Return what the nodes give that a cut reaches: one of their letters loses positions, or an axis of an operand."""
    left = Kept.of(analysis, kept)
    nodes = [node for index, (node, _) in enumerate(analysis.solution.links.specs) if left.reaches(index)]
    return _witnesses(analysis.facts, nodes, left.masks)


def of_change(facts: Facts, small: Model) -> Witnesses:
    """Return what the nodes give that ``small`` has in another form than the original, under the same name."""
    before = {node.outputs: node.proto.SerializeToString(deterministic=True) for node in facts.graph.top}
    after = {node.outputs: node.proto.SerializeToString(deterministic=True) for node in Graph(small.structure).top}
    changed = [
        node for node in facts.graph.top if after.get(node.outputs, before[node.outputs]) != before[node.outputs]
    ]
    return _witnesses(facts, changed, everything)


def _witnesses(facts: Facts, nodes: Iterable[Node], masks: MasksOf) -> Witnesses:
    owners: dict[Node, tuple[Node, ...]] = {}  # node inside a body -> the nodes it is inside of, the outermost first
    for node in facts.graph.top:
        _note_owners(node, (), owners)
    values: dict[str, Node] = {}
    hidden: dict[Node, bool] = {}
    for node in nodes:
        if node in owners:
            outermost, *inner = owners[node]
            veiled = any(_undecided(facts, between) for between in inner)
            hidden[outermost] = hidden.get(outermost, False) or veiled
        elif not node.bodies:
            values.update((name, node) for name in node.outputs if _is_compared(facts, name, masks))
    return Witnesses(facts, values, tuple(hidden), frozenset(n for n, veiled in hidden.items() if veiled), masks)


def _note_owners(node: Node, outside: tuple[Node, ...], owners: dict[Node, tuple[Node, ...]]) -> None:
    for body in node.bodies:
        for inner in body.nodes:
            owners[inner] = (*outside, node)
            _note_owners(inner, owners[inner], owners)


def _undecided(facts: Facts, node: Node) -> tuple[str, ...]:
    """Return the values that decide what of a control-flow node is run, as far as they are not known."""
    deciding = node.inputs[: DECIDING.get(node.op, 0)]
    return tuple(name for name in deciding if name and facts.array(name) is None)


def _is_compared(facts: Facts, name: str, masks: MasksOf) -> bool:
    """Whether a value is a tensor of numbers or flags computed on data; sizes and stored tensors are what the cut changes.

    Where there is no position (the rest behind a rotated part that is all of a head) there is nothing to see. What is known without data may be computed from sizes, unless it has an axis that is cut (states that begin as zeros).
    """
    fact = facts.first.get(name, UNKNOWN)
    if (
        not name
        or fact.shape is None
        or 0 in fact.shape
        or name in facts.constants
        or fact.dtype in (TensorProto.UNDEFINED, TensorProto.STRING)
    ):
        return False
    return fact.array is None or (fact.dtype in FLOATS and bool(masks(name)))


def steps(facts: Facts) -> list[str]:
    """Return the outer values where floats become whole numbers or flags: quantisers, roundings, comparisons."""
    found = []
    for node in facts.graph.top:
        kinds = {facts.dtype(name) in FLOATS for name in node.inputs if name and name not in facts.constants}
        for name in node.outputs:
            fact = facts.first.get(name, UNKNOWN)
            computed = bool(name) and fact.shape is not None and fact.array is None and name not in facts.constants
            quantised = "QLinear" in node.op or node.op in STEPS
            if computed and (quantised or (True in kinds and fact.dtype not in FLOATS)):
                found.append(name)
    return found


def drawable(facts: Facts, name: str) -> bool:
    """Whether a value is a computed tensor of floats or flags whose content may be anything."""
    fact = facts.first.get(name, UNKNOWN)
    if name not in facts.graph.producer or name in facts.constants or fact.shape is None:
        return False
    return fact.dtype in FLOATS or (fact.dtype == 9 and fact.array is None)


class Reach(NamedTuple):
    """What lies upstream of a value: whether the cut does, and the first of the nodes of which nothing was seen."""

    cut: bool = False
    unseen: tuple[Node, ...] = ()


def reaches(graph: Graph, changed: Collection[Node], unseen: Collection[Node], most: int = 4) -> dict[str, Reach]:
    """Return the reach of every outer value, at most ``most`` unseen nodes each, in one pass over the graph."""
    changed, unseen = set(changed), set(unseen)
    found: dict[str, Reach] = {}
    for node in graph.top:
        before = [found[name] for name in sorted(node.reads()) if name in found]
        nodes = dict.fromkeys(n for reach in before for n in reach.unseen)
        if node in unseen:
            nodes[node] = None
        reach = Reach(node in changed or any(one.cut for one in before), tuple(nodes)[:most])
        if reach != Reach():
            found.update((name, reach) for name in node.outputs if name)
    return found
