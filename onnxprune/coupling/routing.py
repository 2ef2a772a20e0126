"""Routing: axes of which nodes pick positions by score, the values that hold the numbers of what was picked, and who uses them.

By the rules of the operators alone such an axis stays, as its positions are numbered in other values. Where all who use the numbers
are known, signatures can be adapted so that the axis is one that can be cut: whoever looks up by number then has the
numbers of the positions that stay, and everyone else is given the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from onnxprune.coupling.links import Adapt
from onnxprune.coupling.rules.experts import EXPERTS
from onnxprune.coupling.spec import Operand, Spec, Term
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node

FUSED_EXPERTS = frozenset({"com.microsoft::MoE", "com.microsoft::QMoE"})
NUMBERS = {"TopK": 1, "ArgMax": 0}
"""Operators that pick -> the output with the numbers of what they picked."""
INTEGERS = frozenset({6, 7})  # int32, int64
PASSED = frozenset(
    {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice", "Expand", "Tile", "Split"}
)
"""Operators whose first input's numbers are the outputs'; Gather and Concat have rules of their own."""
LOOKS_UP = {"OneHot": 0, "GatherElements": 1, "Scatter": 1, "ScatterElements": 1, "Gather": 1, "GatherND": 1}
"""Operators that look up by number -> the input with the numbers."""
PLACED = frozenset({"Scatter", "ScatterElements"})
"""Those of them whose output has all positions of what they look up in."""


@dataclass(frozen=True, eq=False)
class Picker:
    """A node that picks positions along ``axis`` of ``value``, ``count`` of them (None: not known)."""

    node: Node
    value: str
    axis: int
    count: int | None


@dataclass(frozen=True)
class NumberUse:
    """Input ``place`` of a node (None: an output of the model, by ``value``) that holds numbers of what a picker picked."""

    picker: Picker
    value: str
    node: Node | None = None
    place: int = -1


@dataclass
class Routing:
    """``numbers``: value -> the picker that it holds numbers of. ``lookups``: node -> by which it looks up, and the letter.

    ``others``: everyone else who reads numbers. ``hidden``: pickers whose numbers are read where nobody follows them. ``tied``: axis of a stored tensor whose positions are
    taken one by one -> the axis whose fate they share.
    """

    facts: Facts
    pickers: list[Picker] = field(default_factory=list)
    numbers: dict[str, Picker] = field(default_factory=dict)
    lookups: dict[Node, tuple[Picker, str]] = field(default_factory=dict)
    others: list[NumberUse] = field(default_factory=list)
    hidden: set[Picker] = field(default_factory=set)
    tied: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)

    @property
    def adapted(self) -> Adapt:
        """What becomes of signatures so that axes that are picked from can be cut."""
        return partial(_adapted, self)


def routing(facts: Facts) -> Routing:
    """Return who picks by score in the main graph, and where the numbers go."""
    found = Routing(facts)
    captured = {name for node in facts.graph.top if node.bodies for name in node.reads()}
    for node in facts.graph.top:
        if node.op in FUSED_EXPERTS:
            found.pickers.append(Picker(node, node.inputs[1], 1, int(node.attribute("k", 1))))
        elif node.op in NUMBERS and _takes_largest(node) and facts.shape(node.inputs[0]):
            picker = _picker(facts, node)
            found.pickers.append(picker)
            found.numbers.update((name, picker) for name in node.outputs[NUMBERS[node.op] :][:1] if name)
        else:
            _follow(found, node)
    for name, picker in found.numbers.items():
        if name in facts.graph.outputs:
            found.others.append(NumberUse(picker, name))
        if name in captured:
            found.hidden.add(picker)
    return found


def _takes_largest(node: Node) -> bool:
    return bool(node.attribute("largest", 1)) and not node.attribute("select_last_index", 0)


def _picker(facts: Facts, node: Node) -> Picker:
    shape = facts.shape(node.inputs[0]) or ()
    axis = int(node.attribute("axis", -1 if node.op == "TopK" else 0)) % len(shape)
    count: int | None = 1
    if node.op == "TopK":
        held = facts.array(node.inputs[1]) if len(node.inputs) > 1 else np.array(node.attribute("k", 0))
        count = None if held is None else int(held.reshape(-1)[0])
    return Picker(node, node.inputs[0], axis, count)


def _follow(found: Routing, node: Node) -> None:
    """Note what a node does with numbers: pass them on, look up by them, or something else."""
    places = [place for place, name in enumerate(node.inputs) if name in found.numbers]
    if not places:
        return
    owners = {found.numbers[node.inputs[place]] for place in places}
    whole = node.op == "Concat" and len(places) == len(node.inputs) and len(owners) == 1
    first = places == [0] and (node.op in PASSED or node.op == "Gather")
    if (whole or first) and all(found.facts.dtype(name) in INTEGERS for name in node.outputs if name):
        found.numbers.update((name, next(iter(owners))) for name in node.outputs if name)
        return
    if places == [LOOKS_UP.get(node.op)]:
        picker = found.numbers[node.inputs[places[0]]]
        letter = _looked_up(found.facts, node, (found.facts.shape(picker.value) or ())[picker.axis])
        if letter:
            found.lookups[node] = picker, letter
            return
    constant = _counted(found.facts, node, places)
    if constant is not None:
        found.lookups[node] = found.numbers[node.inputs[places[0]]], constant
    found.others += [NumberUse(found.numbers[node.inputs[place]], node.inputs[place], node, place) for place in places]


def _looked_up(facts: Facts, node: Node, size: int) -> str:
    """Return the letter of the axis that a node looks up in by number; "" where that has not ``size`` positions."""
    if node.op == "OneHot":
        return "depth" if (facts.shape(node.outputs[0]) or (0,))[int(node.attribute("axis", -1))] == size else ""
    shape, axis = facts.shape(node.inputs[0]) or (), int(node.attribute("axis", 0))
    if node.op == "GatherND":
        axis = int(node.attribute("batch_dims", 0))
        if (facts.shape(node.inputs[1]) or (0,))[-1] != 1:
            return ""
    return f"m{axis % len(shape)}" if shape and shape[axis] == size else ""


def _counted(facts: Facts, node: Node, places: Sequence[int]) -> str | None:
    """Return the letter along which numbers are compared with 0, 1, 2, ..., one for each position (a one-hot spelled out)."""
    if node.op != "Equal" or len(places) != 1:
        return None
    array = facts.array(node.inputs[1 - places[0]])
    picked = facts.shape(node.inputs[places[0]])
    if array is None or array.size < 2 or picked is None:
        return None
    axis = int(np.argmax(array.shape)) - array.ndim
    if array.size != array.shape[axis] or not np.array_equal(array.reshape(-1), np.arange(array.size)):
        return None
    alone = len(picked) < -axis or picked[axis] == 1
    return f"p{len(facts.shape(node.outputs[0]) or ()) + axis}" if alone else None


# --- signatures -----------------------------------------------------------------------------------------------------

PARTED = frozenset({"Concat", "Split", "Slice", "Gather"})
"""Operators that join and part positions: a part of one position takes no part, as whoever has it goes or stays with it."""


def _adapted(found: Routing, node: Node, spec: Spec) -> Spec:
    picker = next((p for p in found.pickers if p.node is node), None)
    if picker is not None and picker not in found.hidden:
        letters = {EXPERTS} if node.op in FUSED_EXPERTS else _letters(spec.inputs[0], picker.axis)
        _lift(spec, letters)
    if node in found.lookups and found.lookups[node][0] not in found.hidden:
        owner, letter = found.lookups[node]
        _lift(spec, {letter})
        if node.op in PLACED and spec.inputs[0] and spec.outputs[0]:
            axis = next(a for a, term in enumerate(spec.inputs[0]) if term.letters == (letter,))
            spec.outputs[0] = (*spec.outputs[0][:axis], spec.inputs[0][axis], *spec.outputs[0][axis + 1 :])
        _tie(found.facts, spec, owner.value, owner.axis, letter)
    if node.op in PARTED:
        _loosen(found.facts, node, spec)
        for axis, term in enumerate(spec.inputs[0] or () if spec.inputs else ()):
            other = found.tied.get((node.inputs[0], axis))
            if other is not None and len(term.letters) == 1:
                _tie(found.facts, spec, *other, term.letters[0])
    return spec


def _letters(operand: Operand, axis: int) -> set[str]:
    return set(operand[axis].letters) if operand else set()


def _lift(spec: Spec, letters: set[str]) -> None:
    spec.bars = [bar for bar in spec.bars if bar.letter not in letters]


def _tie(facts: Facts, spec: Spec, value: str, along: int, letter: str) -> None:
    """Let what is numbered share the fate of the axis ``along`` of ``value``, from which was picked."""
    shape = facts.shape(value) or ()
    if spec.sizes.get(letter) != shape[along]:
        return
    terms = []
    for axis, size in enumerate(shape):
        own = letter if axis == along else f"picked{axis}"
        spec.sizes.setdefault(own, size)
        terms.append(Term((own,)))
    spec.extra.append((value, tuple(terms)))


def _loosen(facts: Facts, node: Node, spec: Spec) -> None:
    """Untie parts of one position, and what is picked by one number that is known."""
    if node.op == "Gather" and spec.inputs and spec.inputs[0] is not None:
        axis = int(node.attribute("axis", 0)) % len(spec.inputs[0])
        array = facts.array(node.inputs[1])
        if array is not None and array.size == 1:
            _lift(spec, _letters(spec.inputs[0], axis))
    for index, (operand, name) in enumerate(_parts(node, spec)):
        fresh = tuple(Term() if t.places is not None and len(t.places) == 1 else t for t in operand or ())
        if operand is not None and fresh != operand and facts.shape(name) is not None:
            side = spec.inputs if node.op == "Concat" else spec.outputs
            side[index] = fresh


def _parts(node: Node, spec: Spec) -> Iterator[tuple[Operand, str]]:
    sides = (spec.inputs, node.inputs) if node.op == "Concat" else (spec.outputs, node.outputs)
    yield from zip(*sides, strict=False)
