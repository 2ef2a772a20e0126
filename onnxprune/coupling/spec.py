"""The signature of one node: which letter, or product of letters, each axis of each operand is made of.

A signature reads like an einops line, ``n (g c) *, (g o) c *, (g o) -> n (g o) *`` for Conv. Equal letters share their fate;
from where the letters stand follow the coupling, the role of each parameter axis, the surgery and the cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.model.facts import UNKNOWN, Fact, Facts, Shape
from onnxprune.model.graph import Node
from onnxprune.registry import Registry


class Term(NamedTuple):
    """One axis: position k belongs to position ``places[k]`` of the product of ``letters`` (row-major; None: identity; -1: to none).

    An axis without letters takes no part (a size-one axis that broadcasts).
    """

    letters: tuple[str, ...] = ()
    places: np.ndarray | None = None


Operand = tuple[Term, ...] | None  # None: the operand carries no positions (a shape, a flag, an absent input)


class Bar(NamedTuple):
    """Positions of a letter (all where ``positions`` is None) that may not be cut, and why."""

    letter: str
    reason: str
    positions: np.ndarray | None = None


@dataclass
class Spec:
    """What one node says about the axes of its operands.

    ``sizes``: letter -> width. ``cost``: the letters whose product is the node's MACs; ``further``: more such products, to
    be added. ``lossy``: letters over which the node takes statistics, so that cutting is not silencing (kind -> see LOSSY).
    ``statistics``: letters over which it takes such that the rewrite corrects for the positions that are missing.
    ``roles`` overrides the derived role of an input. ``extra``: values to mention once more or that belong to a body.
    ``consumes``: letters the node consumes although an output has them too. ``silent``: the inputs on which a consumed
    letter is silenced -> the input that holds their zero point (None: 0); by default one input of value zero, at best stored.
    ``squared``: inputs of which silent positions hold the square of a value of the graph -> that value, a mean taken away before.
    """

    inputs: list[Operand]
    outputs: list[Operand]
    sizes: dict[str, int] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    lossy: dict[str, str] = field(default_factory=dict)
    statistics: set[str] = field(default_factory=set)
    cost: tuple[str, ...] = ()
    roles: dict[int, str] = field(default_factory=dict)
    further: list[tuple[str, ...]] = field(default_factory=list)
    extra: list[tuple[str, Operand]] = field(default_factory=list)
    consumes: set[str] = field(default_factory=set)
    silent: dict[int, int | None] = field(default_factory=dict)
    squared: dict[int, str] = field(default_factory=dict)

    def bar(self, letters: Iterable[str], reason: str, positions: np.ndarray | None = None) -> Spec:
        self.bars.extend(Bar(letter, reason, positions) for letter in letters)
        return self

    def letters(self, operands: Iterable[Operand]) -> set[str]:
        return {letter for operand in operands if operand for term in operand for letter in term.letters}

    def sinks(self) -> set[str]:
        """Letters the node consumes: in an input and in no output, or named in ``consumes``."""
        return self.letters(self.inputs) - self.letters(self.outputs) | self.consumes

    def role(self, index: int, letter: str, data: Iterable[int]) -> str:
        """Role of an input's axis made of ``letter``, where the inputs in ``data`` carry data: reads, scales, writes, shifts."""
        if letter not in self.letters(self.outputs):
            return "reads"
        if index in self.roles:
            return self.roles[index]
        return "scales" if letter in self.letters(self.inputs[i] for i in data) else "writes"


LOSSY = {
    "statistics": "normalises, averages or picks over this axis: removing positions changes its statistics",
    "neighbours": "mixes neighbouring positions of this axis in a window: removing some changes what the others get",
}


class View:
    """One node together with the facts of its operands under one assignment of the free sizes: what a rule sees."""

    def __init__(self, node: Node, facts: Facts, second: bool = False):
        self.node = node
        self.facts = facts
        self._values = facts.second if second else facts.first

    def fact_of(self, name: str) -> Fact:
        return self._values.get(name, UNKNOWN)

    def fact(self, index: int) -> Fact:
        return self.fact_of(self.node.input(index))

    def shape(self, index: int) -> Shape:
        """Shape of an input (() for an absent one); rules are only called where all shapes are known."""
        return self.fact(index).shape or ()

    def rank(self, index: int = 0) -> int:
        return len(self.shape(index))

    def out_shape(self, index: int = 0) -> Shape:
        return self.fact_of(self.node.outputs[index]).shape or ()

    def shapes(self) -> list[Shape | None]:
        """Shapes of all inputs, None for absent ones."""
        return [self.shape(i) if name else None for i, name in enumerate(self.node.inputs)]

    def out_shapes(self) -> list[Shape | None]:
        """Shapes of all outputs, None for absent ones."""
        return [self.out_shape(i) if name else None for i, name in enumerate(self.node.outputs)]

    def array(self, index: int) -> np.ndarray | None:
        """Content of a small input under this assignment, None where unknown or absent."""
        return self.fact(index).array if self.node.input(index) else None

    def ints(self, index: int, attribute: str) -> list[int] | None:
        """Integers given as an input in newer opsets, as an attribute in older ones; None where absent or unknown."""
        array = self.array(index)
        if array is not None:
            return [int(n) for n in array.reshape(-1)]
        value = self.node.attribute(attribute)
        return None if value is None else [int(n) for n in np.atleast_1d(value)]

    def has(self, index: int) -> bool:
        return bool(self.node.input(index))

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attribute(name, default)

    def axis(self, default: int = 0, rank: int | None = None, name: str = "axis") -> int:
        """The normalised ``axis`` attribute."""
        rank = self.rank() if rank is None else rank
        axis = int(self.attribute(name, default))
        return axis + rank if axis < 0 else axis


@dataclass(frozen=True)
class Rule:
    """One row of the operator table."""

    name: str
    family: str
    spec: Callable[[View], Spec]
    rewrite: Callable[[View, KeptPositions], Edits] | None = None


RULES: Registry[Rule] = Registry("operator rule")


def rule(*names: str, family: str, rewrite: Callable[[View, KeptPositions], Edits] | None = None) -> Callable:
    """Register a function View -> Spec for the named operators."""

    def decorate(function: Callable[[View], Spec]) -> Callable[[View], Spec]:
        for name in names:
            RULES.add(name, Rule(name, family, function, rewrite))
        return function

    return decorate


def parse(
    signature: str,
    inputs: Sequence[Shape | None],
    outputs: Sequence[Shape | None],
    sizes: Mapping[str, int] | None = None,
) -> Spec:
    """Bind a signature to concrete shapes; ``sizes`` fixes letters inside products that no plain axis settles.

    ``*`` stands for all remaining axes, a fresh letter each, which may not be cut. ``1`` is an axis that takes no part.
    An absent input (shape None) is skipped. Raises ValueError where shapes and signature disagree.
    """
    left, _, right = signature.partition("->")
    spec = Spec([], [], dict(sizes or {}))
    texts = [text.split(",") for text in (left, right)]
    starred: list[str] = []
    for side, shapes, operands in zip(texts, (inputs, outputs), (spec.inputs, spec.outputs), strict=True):
        tag = "x" if operands is spec.inputs else "y"
        for number, (text, shape) in enumerate(zip(side, shapes, strict=False)):
            operands.append(None if shape is None else _bind(text, shape, spec.sizes, f"{tag}{number}_", starred))
    return spec.bar(starred, "a window slides over this axis")


def _bind(text: str, shape: Shape, sizes: dict[str, int], prefix: str, starred: list[str]) -> Operand:
    tokens = re.findall(r"\([^)]*\)|\S+", text)
    if "*" in tokens:
        at = tokens.index("*")
        extra = [f"{prefix}{i}" for i in range(len(shape) - len(tokens) + 1)]
        starred.extend(extra)
        tokens[at : at + 1] = extra
    if len(tokens) != len(shape):
        raise ValueError(f"{text!r} does not fit shape {shape}")
    return tuple(_term(token, size, sizes) for token, size in zip(tokens, shape, strict=True))


def _term(token: str, size: int, sizes: dict[str, int]) -> Term:
    if token == "1":
        return Term()
    letters = tuple(token.strip("()").split())
    unknown = [letter for letter in letters if letter not in sizes]
    known = int(np.prod([sizes[letter] for letter in letters if letter in sizes], dtype=np.int64))
    if len(unknown) == 1 and known and size % known == 0:
        sizes[unknown[0]] = size // known
    elif unknown or known != size:
        raise ValueError(f"axis {token!r} does not fit size {size}")
    return Term(letters)


def axes_of(prefix: str, shape: Shape, sizes: dict[str, int]) -> list[Term]:
    """Return one fresh letter per axis of ``shape``, entered into ``sizes``."""
    letters = [f"{prefix}{axis}" for axis in range(len(shape))]
    sizes.update(zip(letters, shape, strict=True))
    return [Term((letter,)) for letter in letters]


def frozen(view: View, reason: str) -> Spec:
    """Bar every axis of every operand: what becomes of operators without a rule and of shapes nobody knows."""
    spec = Spec([], [])
    for names, operands, tag in ((view.node.inputs, spec.inputs, "x"), (view.node.outputs, spec.outputs, "y")):
        for number, name in enumerate(names):
            shape = view.fact_of(name).shape if name else None
            operands.append(None if shape is None else tuple(axes_of(f"{tag}{number}_", shape, spec.sizes)))
    for number, name in enumerate(name for body in view.node.bodies for name in (*body.inputs, *body.outputs)):
        shape = view.fact_of(name).shape
        if shape is not None:
            spec.extra.append((name, tuple(axes_of(f"z{number}_", shape, spec.sizes))))
    return spec.bar(list(spec.sizes), reason)
