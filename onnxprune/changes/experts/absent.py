"""What follows, node by node, from experts that no token goes to: values that are zero or have no rows, and nodes that pass an operand on.

It is what the masked original computes, read from the graph: scores of minus infinity give routing weights of zero and flags that
are false, these give empty lists of tokens, and what is added for no token is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush

from onnxprune.changes.experts.wiring import Wiring
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.routing import Routing
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node


class Absence(Enum):
    """What is known of a value: LOW and SPARSE of the positions of experts that go, ZERO and EMPTY of all of it."""

    LOW = "minus infinity at the experts that go"
    SPARSE = "zero at the experts that go"
    ZERO = "zero, or false"
    EMPTY = "of no tokens"


@dataclass
class Absent:
    """``states``: value -> what is known. ``instead``: value -> the one that it equals. ``left``: node -> operands that stay.

    ``parts``: outputs that hold the one position of an expert that goes, which nothing may need in the end.
    """

    facts: Facts
    kept: Kept
    routing: Routing
    states: dict[str, Absence] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    left: dict[Node, tuple[int, ...]] = field(default_factory=dict)
    parts: dict[str, Node] = field(default_factory=dict)

    def of(self, node: Node, index: int) -> Absence | None:
        return self.states.get(node.input(index))

    def cut_axes(self, value: str) -> Sequence[int]:
        return tuple(self.kept.masks(value))

    def zeros(self, value: str) -> bool:
        """Whether a value is known to hold nothing but zeros, in the original too."""
        array = self.facts.array(value)
        if array is not None:
            return array.dtype.kind in "fiub" and not array.any()
        maker = self.facts.graph.producer.get(value)
        if maker is None:
            return False
        if maker.op == "ConstantOfShape":
            filled = maker.attribute("value")
            return filled is None or not any(
                filled.float_data or filled.int64_data or filled.int32_data or filled.raw_data.strip(b"\0")
            )
        return maker.op in ("Cast", "Identity", "Expand", "Reshape") and self.zeros(maker.inputs[0])


def absent(wiring: Wiring, found: Absent, low: Sequence[str], begin: Iterable[Node]) -> Absent:
    """Follow what goes from experts through the main graph, node by node in order, as far as anything follows.

    ``low``: values with the scores of experts; ``begin``: nodes to look at besides those that read them.
    """
    found.states.update(dict.fromkeys(low, Absence.LOW))
    place = wiring.places
    todo = {place[node] for node in begin} | {place[node] for name in low for node in wiring.readers(name)}
    heap = sorted(todo)
    while heap:
        node = wiring.graph.top[heappop(heap)]
        _note_parts(found, node)
        if not any(name in found.states or name in found.instead for name in node.outputs):
            _apply(found, node)
        known = [name for name in node.outputs if name in found.states or name in found.instead]
        for reader in {place[node] for name in known for node in wiring.readers(name)} - todo:
            todo.add(reader)
            heappush(heap, reader)
    for name in [name for name in found.instead if wiring.captured(name)]:
        del found.instead[name]
    return found


def _apply(found: Absent, node: Node) -> None:
    """Let the first rule that says something of a node decide."""
    for rule in RULES.get(node.op, ()) + EVERYWHERE:
        state = rule(found, node)
        if state is not None:
            found.states.update((name, state) for name in node.outputs if name)
        if state is not None or node in found.left or any(name in found.instead for name in node.outputs):
            return


# --- parts ----------------------------------------------------------------------------------------------------------


def _note_parts(found: Absent, node: Node) -> None:
    """Note outputs that are the one position of an expert that goes; they are zero where that position is."""
    for name, source, axis, position in single_positions(found.facts, node):
        mask = found.kept.mask(source, axis)
        if mask is not None and not mask[position]:
            found.parts[name] = node
            if found.states.get(source) is Absence.SPARSE:
                found.states[name] = Absence.ZERO
    picker = _compared(found, node)
    if picker is not None:
        found.parts[node.outputs[0]] = node
        found.states[node.outputs[0]] = Absence.ZERO


def single_positions(facts: Facts, node: Node) -> Iterator[tuple[str, str, int, int]]:
    """Yield (output, input, axis, position) of what takes one known position of an axis."""
    source, shape = node.input(0), facts.shape(node.input(0)) or ()
    if node.op not in ("Gather", "Slice", "Split") or not shape:
        return
    if node.op == "Gather":
        array, axis = facts.array(node.inputs[1]), int(node.attribute("axis", 0)) % len(shape)
        if array is not None and array.size == 1:
            yield node.outputs[0], source, axis, int(array.reshape(-1)[0]) % shape[axis]
    elif node.op == "Slice" and len(node.inputs) > 3:
        starts, axes = facts.array(node.inputs[1]), facts.array(node.inputs[3])
        out = facts.shape(node.outputs[0]) or ()
        if starts is not None and axes is not None:
            for start, axis in zip(starts.tolist(), (axes % len(shape)).tolist(), strict=True):
                if out[axis] == 1 < shape[axis]:
                    yield node.outputs[0], source, axis, start % shape[axis]
    elif node.op == "Split":
        axis, start = int(node.attribute("axis", 0)) % len(shape), 0
        for name in node.outputs:
            width = (facts.shape(name) or (0,) * len(shape))[axis]
            if width == 1 < shape[axis]:
                yield name, source, axis, start
            start += width


def _compared(found: Absent, node: Node) -> bool | None:
    """Return True where numbers are compared with that of one expert that goes: they never equal it."""
    use = next((use for use in found.routing.others if use.node is node), None)
    if use is None or node.op != "Equal":
        return None
    array = found.facts.array(node.inputs[1 - use.place])
    mask = found.kept.mask(use.picker.value, use.picker.axis)
    if array is None or array.size == 0 or mask is None or (array != array.reshape(-1)[0]).any():
        return None
    number = int(array.reshape(-1)[0])
    return True if 0 <= number < len(mask) and not mask[number] else None


# --- rules ----------------------------------------------------------------------------------------------------------

Follows = Callable[[Absent, Node], Absence | None]


def _activated(found: Absent, node: Node) -> Absence | None:
    return Absence.SPARSE if found.of(node, 0) is Absence.LOW else None


def _one_hot(found: Absent, node: Node) -> Absence | None:
    values = found.facts.array(node.inputs[2])
    return Absence.SPARSE if values is not None and values[0] == 0 and found.cut_axes(node.outputs[0]) else None


def _one_hot_spelled_out(found: Absent, node: Node) -> Absence | None:
    return Absence.SPARSE if node in found.routing.lookups and found.cut_axes(node.outputs[0]) else None


def _placed(found: Absent, node: Node) -> Absence | None:
    if found.of(node, 1) is Absence.EMPTY or found.of(node, 2) is Absence.EMPTY:
        found.instead[node.outputs[0]] = node.inputs[0]
        return None
    return Absence.SPARSE if node in found.routing.lookups and _sparse(found, node.inputs[0]) else None


def _sparse(found: Absent, value: str) -> bool:
    return found.states.get(value) in (Absence.SPARSE, Absence.ZERO) or found.zeros(value)


def _low(found: Absent, node: Node) -> Absence | None:
    return Absence.LOW if found.of(node, 0) is Absence.LOW and found.cut_axes(node.outputs[0]) else None


def _low_either(found: Absent, node: Node) -> Absence | None:
    return (
        Absence.LOW if Absence.LOW in map(found.states.get, node.inputs) and found.cut_axes(node.outputs[0]) else None
    )


def _first(found: Absent, node: Node) -> Absence | None:
    """An operator that gives zero for zero, and moves positions at most."""
    state = found.of(node, 0)
    if state is Absence.SPARSE:
        return state if found.cut_axes(node.outputs[0]) else None
    return state if state is Absence.ZERO else None


def _exceeding(found: Absent, node: Node) -> Absence | None:
    """Zero exceeds nothing that is not negative."""
    array = found.facts.array(node.inputs[1])
    return _first(found, node) if array is not None and (array >= 0).all() else None


def _any(found: Absent, node: Node) -> Absence | None:
    """A product: zero where any factor is."""
    states = set(map(found.states.get, node.inputs))
    if Absence.ZERO in states:
        return Absence.ZERO
    return Absence.SPARSE if Absence.SPARSE in states and found.cut_axes(node.outputs[0]) else None


def _whole(found: Absent, node: Node) -> Absence | None:
    """A contraction: zero where one operand is nothing but zeros."""
    return Absence.ZERO if Absence.ZERO in (found.of(node, 0), found.of(node, 1)) else None


def _sum(found: Absent, node: Node) -> Absence | None:
    """Zeros that are added change nothing: what is left is passed on."""
    zero = [found.of(node, place) is Absence.ZERO for place in range(len(node.inputs))]
    if all(zero):
        return Absence.ZERO
    shape = found.facts.shape(node.outputs[0])
    rest = [place for place, is_zero in enumerate(zero) if not is_zero]
    wide = [place for place in rest if found.facts.shape(node.inputs[place]) == shape]
    if len(rest) == 1 and wide and len(zero) > 1:
        found.instead[node.outputs[0]] = node.inputs[rest[0]]
    elif node.op == "Sum" and wide and len(rest) < len(zero):
        found.left[node] = tuple(rest)
    elif all(is_zero or _sparse(found, name) for is_zero, name in zip(zero, node.inputs, strict=True)):
        return Absence.SPARSE
    return None


def _difference(found: Absent, node: Node) -> Absence | None:
    if found.of(node, 1) is Absence.ZERO and found.of(node, 0) is not Absence.ZERO:
        if found.facts.shape(node.inputs[0]) == found.facts.shape(node.outputs[0]):
            found.instead[node.outputs[0]] = node.inputs[0]
        return None
    return Absence.ZERO if found.of(node, 0) is found.of(node, 1) is Absence.ZERO else None


def _chosen(found: Absent, node: Node) -> Absence | None:
    if found.of(node, 0) is Absence.ZERO:
        if found.facts.shape(node.inputs[2]) == found.facts.shape(node.outputs[0]):
            found.instead[node.outputs[0]] = node.inputs[2]
        return None
    both = [found.states.get(name) in (Absence.SPARSE, Absence.ZERO) or found.zeros(name) for name in node.inputs[1:]]
    return Absence.SPARSE if all(both) and found.cut_axes(node.outputs[0]) else None


def _joined(found: Absent, node: Node) -> Absence | None:
    """Leave out what has no rows, and the one position of an expert that goes."""
    states = [found.states.get(name) for name in node.inputs]
    if all(state is Absence.EMPTY for state in states):
        return Absence.EMPTY
    axis = int(node.attribute("axis", 0)) % max(len(found.facts.shape(node.outputs[0]) or ()), 1)
    mask, start, rest = found.kept.mask(node.outputs[0], axis), 0, []
    for place, name in enumerate(node.inputs):
        width = (found.facts.shape(name) or (1,) * (axis + 1))[axis]
        goes = mask is not None and width == 1 and not mask[start]
        if not goes and states[place] is not Absence.EMPTY:
            rest.append(place)
        start += width
    if len(rest) < len(node.inputs):
        found.left[node] = tuple(rest)
    elif all(state is Absence.ZERO for state in states):
        return Absence.ZERO
    return None


def _listed(found: Absent, node: Node) -> Absence | None:
    return Absence.EMPTY if Absence.ZERO in (found.of(node, 0), found.of(node, 1)) else None


def _empty(found: Absent, node: Node) -> Absence | None:
    """What is computed row by row of no rows has no rows."""
    return Absence.EMPTY if node.op in BY_ROW and Absence.EMPTY in map(found.states.get, node.inputs) else None


def _table(*rows: tuple[str, Follows]) -> dict[str, tuple[Follows, ...]]:
    found: dict[str, tuple[Follows, ...]] = {}
    for names, rule in rows:
        for name in names.split():
            found[name] = (*found.get(name, ()), rule)
    return found


MOVED = "Cast Identity Transpose Reshape Unsqueeze Squeeze Flatten Expand Tile Slice Split Gather"
RULES: dict[str, tuple[Follows, ...]] = _table(
    ("Softmax Sigmoid Exp Softplus Relu", _activated),
    ("OneHot", _one_hot),
    ("Equal", _one_hot_spelled_out),
    ("Scatter ScatterElements ScatterND", _placed),
    (f"{MOVED} Div Sub", _low),
    ("Add Mul", _low_either),
    (f"{MOVED} Neg Abs Relu Sign Sqrt Tanh Erf ReduceSum ReduceMean ReduceMax ReduceL1 ReduceL2 Div Softsign", _first),
    ("Greater", _exceeding),
    ("Mul And", _any),
    ("MatMul Einsum", _whole),
    ("Add Sum Or", _sum),
    ("Sub", _difference),
    ("Where", _chosen),
    ("Concat", _joined),
    ("NonZero Compress", _listed),
)
"""Operator -> what may follow of its operands, the first that does."""
EVERYWHERE: tuple[Follows, ...] = (_empty,)
BY_ROW = frozenset(
    f"{MOVED} GatherND GatherElements MatMul Gemm Add Sub Mul Div Relu Gelu Erf Tanh Sigmoid Exp Pow Sqrt Neg Clip Max Min "
    "LayerNormalization com.microsoft::Gelu com.microsoft::QuickGelu com.microsoft::FastGelu com.microsoft::BiasGelu HardSwish "
    "Softplus LeakyRelu Where Not Mish Swish RMSNormalization SimplifiedLayerNormalization".split()
)
