"""Every channel that a stored tensor writes or reads, followed through the nodes that are linear in it.

Where values are added up, their channels have to be turned alike; where a product is summed over them, by inverse matrices. What each
node does beside that (multiplies by something else for every head, takes a part) says which channels can share a matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.heads.labels import NONE, Lettered, by_letters, letter_by_letter, onto
from onnxprune.coupling.links import Links
from onnxprune.coupling.readers import axes_with
from onnxprune.coupling.spec import RULES, Operand, Spec
from onnxprune.model.graph import Node
from onnxprune.model.read import FLOATS

KEYS, VALUES = "queries and keys", "values and outputs"


class ChannelSource(NamedTuple):
    """The axes of a stored tensor that channels stand on."""

    name: str
    axes: tuple[int, ...]


class ChannelUse(NamedTuple):
    """What a node does with channels: those with the same ``keys`` in the same number it treats alike.

    ``between``: of products of two computed values, what they are products of.
    """

    node: Node
    channels: np.ndarray
    keys: np.ndarray
    between: str = ""


class ChannelPair(NamedTuple):
    """Channels that are turned alike, or ``inverse`` to each other."""

    left: np.ndarray
    right: np.ndarray
    inverse: bool


class HiddenValue(NamedTuple):
    """What an operator computes inside: of ``data``, times these columns of a stored ``weight`` ("": as it is), plus those of a ``bias``.

    ``labels``: int64[columns], the channels of its last axis.
    """

    data: str
    weight: str
    bias: str
    columns: slice
    labels: np.ndarray


@dataclass(eq=False)
class Trace:
    """What is known of the channels of one model; ``labels``: value -> its channels, a set for every factor that it is a product of."""

    links: Links
    labels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    sources: dict[ChannelSource, np.ndarray] = field(default_factory=dict)
    pairs: list[ChannelPair] = field(default_factory=list)
    uses: list[ChannelUse] = field(default_factory=list)
    barred: list[tuple[np.ndarray, str]] = field(default_factory=list)
    understood: set[tuple[Node, int]] = field(default_factory=set)
    hidden: list[HiddenValue] = field(default_factory=list)
    count: int = 0

    # --- what operators ask -----------------------------------------------------------------------------------------

    def carried(self, node: Node, spec: Spec, number: int, operand: Operand) -> list[Lettered]:
        """Return the channels of an operand by letters."""
        found = []
        for labels in self.labels.get(node.input(number), ()):
            own = None if operand is None else by_letters(labels, operand, spec.sizes)
            if own is None:
                self.bar(labels, f"{node.label!r} ({node.op}) lays it out anew")
            else:
                found.append(own)
        self.understood.add((node, number))
        return found

    def origin(self, name: str) -> str:
        """Return the tensor that a value is another name of, as exporters write weights that layers share."""
        graph = self.links.facts.graph
        while name in graph.producer and graph.producer[name].op == "Identity" and name in self.links.facts.constants:
            name = graph.producer[name].inputs[0]
        return name

    def is_stored(self, name: str) -> bool:
        facts = self.links.facts
        return self.origin(name) in facts.graph.tensors and facts.dtype(name) in FLOATS

    def stored(
        self, node: Node, spec: Spec, number: int, operand: Operand, letters: Collection[str]
    ) -> Lettered | None:
        """Return the channels that a stored operand has along these letters; None where it has none there."""
        name, shape = node.input(number), self.links.facts.shape(node.input(number)) or ()
        axes = tuple(axis for axis in axes_with(operand, *letters) if shape[axis] > 1)
        if not axes or not self.is_stored(name):
            return None
        source = ChannelSource(self.origin(name), axes)
        if source not in self.sources:
            dims = [size if axis in axes else 1 for axis, size in enumerate(shape)]
            self.sources[source] = self.count + np.arange(int(np.prod(dims))).reshape(dims)
            self.count += int(np.prod(dims))
        self.understood.add((node, number))
        return by_letters(self.sources[source], operand, spec.sizes)

    def is_zero(self, name: str) -> bool:
        array = self.links.facts.array(name)
        return array is not None and not array.any()

    def lost_at(self, value: str) -> str:
        """Return at which node the channels were lost that a value might have ("": it never had any)."""
        facts = self.links.facts
        node = facts.graph.producer.get(value)
        while node is not None and not any(name in self.labels for name in node.inputs):
            computed = [name for name in node.inputs if name and name not in facts.constants]
            node = facts.graph.producer.get(computed[0]) if computed else None
        return "" if node is None else _not_linear(node)

    # --- what operators say -----------------------------------------------------------------------------------------

    def give(self, value: str, own: Lettered, operand: Operand, spec: Spec) -> None:
        """Let a result have channels; what its axes are not made of cannot be followed."""
        if operand is None or own.varying - spec.letters([operand]):
            self.bar(own.array, f"the shape of {value!r} is not followed")
        elif value:
            self.labels.setdefault(value, []).append(onto(own, operand, spec.sizes))

    def use(self, node: Node, own: Lettered, apart: Collection[str] = (), between: str = "") -> None:
        """Note what a node does with channels: those apart along these letters get different things."""
        there = own.array >= 0
        self.uses.append(ChannelUse(node, own.array[there], own.numbers(apart)[there], between))

    def link(self, one: Lettered, two: Lettered, inverse: bool = False) -> None:
        left, right, _ = letter_by_letter(one, two)
        there = (left >= 0) & (right >= 0)
        self.pairs.append(ChannelPair(left[there], right[there], inverse))

    def bar(self, labels: np.ndarray, reason: str) -> None:
        self.barred.append((np.unique(labels[labels >= 0]), reason))

    # --- what nobody understood -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Bar what leaves the model, or is read where nobody knows what becomes of it."""
        graph = self.links.facts.graph
        captured = {name for node in graph.top if node.bodies for name in node.reads()}
        for value, labels in self.labels.items():
            reason = self._escape(value, captured)
            for one in labels if reason else ():
                self.bar(one, reason)
        places: dict[str, set[int]] = {}
        for source, own in self.sources.items():
            seen = places.setdefault(source.name, set())
            again = not seen.isdisjoint(source.axes)
            seen.update(source.axes)
            reason = f"{source.name!r} is read in several ways" if again else self._escape(source.name, captured)
            if reason:
                for same in [labels for other, labels in self.sources.items() if other.name == source.name]:
                    self.bar(same, reason)
            first = graph.consumers[source.name][0][0]
            self.uses.append(ChannelUse(first, own.reshape(-1), np.zeros(own.size, np.int64)))

    def _escape(self, value: str, captured: Collection[str]) -> str:
        graph = self.links.facts.graph
        if value in graph.outputs:
            return f"it is the model's output {value!r}"
        if value in captured:
            return f"{value!r} is read inside a body"
        for node, number in graph.consumers.get(value, ()):
            if node.op == "Identity" and value in self.links.facts.constants:
                reason = self._escape(node.outputs[0], captured)
                if reason:
                    return reason
                continue
            rule = RULES.get(node.op)
            if (node, number) not in self.understood and (rule is None or rule.family != "facts"):
                return _not_linear(node)
        return ""


def _not_linear(node: Node) -> str:
    return f"{node.label!r} ({node.op}) is not linear in it"


def in_one_place(parts: Iterable[Lettered]) -> Lettered:
    """Return the channels of a sum of values, of which all that stand in one place go together."""
    first, *others = parts
    for own in others:
        left, right, letters = letter_by_letter(first, own)
        first = Lettered(letters, np.where(left == NONE, right, left))
    return first
