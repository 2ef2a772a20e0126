"""Residual streams: values that are added up along one axis, what writes them, the norms that read them, and what else does.

A stream is followed from a norm through everything that treats all positions of the axis alike (sums, layout, scales of whole
tokens), forwards and backwards. What it meets otherwise is a writer, a norm, a reader, or the reason why it stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.absorb import GAINS
from onnxprune.coupling.channels import written_letters
from onnxprune.coupling.links import Links
from onnxprune.coupling.readers import axes_with
from onnxprune.coupling.rules.microsoft import SUM
from onnxprune.coupling.spec import Operand, Spec
from onnxprune.coupling.statistics import is_square
from onnxprune.model.graph import Node
from onnxprune.model.read import FLOATS

ValueAxis = tuple[str, int]
"""A value and one of its axes."""
SKIPS = ("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
CENTRING = frozenset({"LayerNormalization", SKIPS[0]})
ROOT_MEAN_SQUARE = frozenset(GAINS)
ADDS = frozenset({"Add", "Sub", "Sum"})
SCALES = frozenset({"Mul", "Div"})
ALIKE = frozenset(
    {
        "Identity", "Cast", "Dropout", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat",
        "Expand", "Tile", "Gather", "ReduceMean", "ReduceSum", "Pad",
    }
)  # fmt: skip
"""Operators whose result is linear in what they read, and treats all positions of an axis that passes through alike."""
MEAN, LAYER, ROOT = "mean", "layer", "root"


class StreamNorm(NamedTuple):
    """A node that normalises a stream. ``kind``: a layer norm, an RMS norm (root), or a mean that is taken away next."""

    node: Node
    kind: str


class Gain(NamedTuple):
    """A product with a stored number for every channel, where a stream begins or ends. ``leaves``: whether it ends there."""

    node: Node
    number: int  # of the input that holds the gain
    leaves: bool

    @property
    def beyond(self) -> str:
        """The value on the other side."""
        return self.node.outputs[0] if self.leaves else self.node.input(1 - self.number)


@dataclass
class ResidualStream:
    """``places``: the values and axes that are it; ``writers``: stored tensor -> the axis that writes it; ``reason``: why it stays.

    ``readers``: (node, input) of what else reads it. ``gains``: where it is scaled channel by channel.
    """

    size: int
    places: set[ValueAxis] = field(default_factory=set)
    writers: dict[str, int] = field(default_factory=dict)
    norms: dict[str, StreamNorm] = field(default_factory=dict)
    readers: list[tuple[Node, int]] = field(default_factory=list)
    gains: dict[str, Gain] = field(default_factory=dict)
    reason: str = ""

    @property
    def not_centrable(self) -> str:
        """Why the stream's mean cannot be taken out of its writers ("": it can)."""
        if self.reason:
            return self.reason
        if self.gains:
            return f"{next(iter(self.gains.values())).node.label!r} scales its channels one by one"
        if self.readers:
            return f"{self.readers[0][0].label!r} reads it with its mean"
        roots = [norm.node.label for norm in self.norms.values() if norm.kind == ROOT]
        return f"{roots[0]!r} takes its mean for a part of it" if roots else ""


def streams(links: Links) -> list[ResidualStream]:
    """Return the streams that norms over one axis read, in the order of the nodes."""
    walker, found = Walker(links), list[ResidualStream]()
    for node, spec in links.specs:
        for place in walker.normalised(node, spec):
            if not any(place in stream.places for stream in found):
                found.append(walker.walk(place))
    return found


class Walker:
    """Follows streams through a model."""

    def __init__(self, links: Links):
        self.links, self.facts = links, links.facts
        self.specs = dict(links.specs)
        self.top = set(self.facts.graph.top)
        self.border: Node | None = None

    def normalised(self, node: Node, spec: Spec) -> Iterator[ValueAxis]:
        """Yield the stream that a norm reads."""
        last = len(spec.inputs[0] or ()) - 1 if spec.inputs else -1
        if last >= 0 and node in self.top and any(self._is_squared(node, axis) for axis in range(last + 1)):
            yield node.input(0), next(axis for axis in range(last + 1) if self._is_squared(node, axis))
            return
        kind = self._norm(node, 0, spec) if node in self.top else ""
        if kind and spec.inputs[0]:
            yield node.input(0), len(spec.inputs[0]) - 1 if kind != MEAN else self._reduced(spec)[0]

    def walk(self, start: ValueAxis, border: Node | None = None) -> ResidualStream:
        """Follow a stream wherever it goes, but not across ``border``, where another one begins."""
        self.border = border
        size = (self.facts.shape(start[0]) or ())[start[1]]
        stream, todo = ResidualStream(size), [start]
        while todo:
            place = todo.pop()
            if place in stream.places:
                continue
            stream.places.add(place)
            todo += [*self._made(stream, place), *self._read(stream, place)]
        self._require_own_writers(stream)
        return stream

    # --- where it comes from ----------------------------------------------------------------------------------------

    def _made(self, stream: ResidualStream, place: ValueAxis) -> list[ValueAxis]:
        value, axis = place
        graph = self.facts.graph
        if value in graph.tensors:
            if self.facts.dtype(value) not in FLOATS:
                self._refuse(stream, f"{value!r} is not stored as floats")
            stream.writers[value] = axis
            return []
        node = graph.producer.get(value)
        if node is None:
            self._refuse(stream, f"it begins at the model's input {value!r}")
            return []
        if node is self.border:
            return []
        if node not in self.top:
            self._refuse(stream, f"{node.label!r} makes it inside a body")
            return []
        spec = self.specs[node]
        letter = _letter(spec, spec.outputs[node.outputs.index(value)], axis)
        if letter is None:
            self._refuse(stream, f"{node.label!r} ({node.op}) lays it out anew")
            return []
        written = [number for number, own in written_letters(node, spec, self.facts.constants) if own == letter]
        if written:
            return self._written(stream, node, spec, letter, written)
        if node.op in SKIPS and node.outputs.index(value) == SUM:
            return self._through(stream, node, _summed(spec), letter, [0, 1, *BIASES[node.op]])
        if node.op in ADDS | ALIKE | SCALES:
            return self._through(stream, node, spec, letter)
        self._refuse(stream, f"{node.label!r} ({node.op}) writes it, which is not linear in stored weights")
        return []

    def _written(
        self, stream: ResidualStream, node: Node, spec: Spec, letter: str, weights: list[int]
    ) -> list[ValueAxis]:
        """Note the weight that writes; the bias beside it is a part of the stream."""
        found = []
        for number, operand in enumerate(spec.inputs):
            for axis in axes_with(operand, letter):
                name = node.input(number)
                if number in weights and name in self.facts.graph.tensors and _letter(spec, operand, axis):
                    stream.writers[name] = axis
                elif number in weights:
                    self._refuse(stream, f"the weights of {node.label!r} are computed, or in groups")
                else:
                    found.append((name, axis))
        return found

    def _through(
        self, stream: ResidualStream, node: Node, spec: Spec, letter: str, carrying: list[int] | None = None
    ) -> list[ValueAxis]:
        """Return what else is a part of the stream where a node carries it on."""
        found, other = [], list[int]()
        for number, name in enumerate(node.inputs):
            operand = spec.inputs[number] if number < len(spec.inputs) else None
            axes = [axis for axis in axes_with(operand, letter) if _letter(spec, operand, axis)]
            if name and axes and (carrying is None or number in carrying):
                found.append((name, axes[0]))
            elif name and operand is not None:
                other.append(number)
        operands = [operand for operand in (*spec.inputs, *spec.outputs) if operand]
        if any(_letter(spec, operand, axis) is None for operand in operands for axis in axes_with(operand, letter)):
            self._refuse(stream, f"{node.label!r} ({node.op}) lays it out anew")
        if not self._is_linear(node, [name for name, _ in found]):
            self._refuse(stream, f"{node.label!r} ({node.op}) is not linear in it")
        if node.op in SCALES and len(found) != 1:
            self._scaled(stream, node)
            return []
        if node.op in ADDS and any(not self._is_zero(node.input(number)) for number in other):
            self._refuse(stream, f"{node.label!r} adds the same to all its channels")
        for number, name in enumerate(node.outputs):
            operand = spec.outputs[number] if name and number < len(spec.outputs) else None
            found += [(name, axis) for axis in axes_with(operand, letter) if _letter(spec, operand, axis)]
        return found

    def _is_linear(self, node: Node, carrying: list[str]) -> bool:
        """Whether an operator of those that treat channels alike is linear as it stands: not a division by them, for instance."""
        if node.op == "Div":
            return node.input(1) not in carrying
        if node.op == "Cast":
            return node.attribute("to") in FLOATS
        if node.op == "Pad":
            value = self.facts.array(node.input(2)) if node.input(2) else np.zeros(1)
            plain = node.attribute("mode", "constant") != "constant" or (value is not None and not value.any())
            return plain and not node.attribute("value", 0.0)
        return True

    def _scaled(self, stream: ResidualStream, node: Node) -> None:
        """Note where a stream is multiplied by a stored vector."""
        stored = [number for number in (0, 1) if node.input(number) in self.facts.graph.tensors]
        if node.op != "Mul" or len(stored) != 1:
            self._refuse(stream, f"{node.label!r} scales its channels one by one")
            return
        data = node.input(1 - stored[0])
        stream.gains[node.outputs[0]] = Gain(node, stored[0], any(value == data for value, _ in stream.places))

    def _is_zero(self, value: str) -> bool:
        array = self.facts.array(value)
        return array is not None and not array.any()

    # --- where it goes ----------------------------------------------------------------------------------------------

    def _read(self, stream: ResidualStream, place: ValueAxis) -> list[ValueAxis]:
        value, axis = place
        if value in self.facts.graph.outputs:
            self._refuse(stream, f"it is the model's output {value!r}")
        found = list[ValueAxis]()
        for node, number in self.facts.graph.consumers.get(value, ()):
            if node not in self.top:
                self._refuse(stream, f"{node.label!r} reads it inside a body")
                continue
            found += self._read_by(stream, node, number, axis)
        return found

    def _read_by(self, stream: ResidualStream, node: Node, number: int, axis: int) -> list[ValueAxis]:
        spec = self.specs[node]
        operand = spec.inputs[number] if number < len(spec.inputs) else None
        letter = _letter(spec, operand, axis)
        if operand is None:
            return []  # asked for its shape
        if node is self.border:
            return []
        if self._is_squared(node, axis):
            stream.norms[node.outputs[0]] = StreamNorm(node, ROOT)
            return []
        kind = self._norm(node, number, spec)
        if kind and (kind != MEAN or axis in self._reduced(spec)):
            stream.norms[node.outputs[0]] = StreamNorm(node, kind)
            return (
                self._through(stream, node, _summed(spec), letter, [0, 1, *BIASES[node.op]])
                if node.op in SKIPS and letter
                else []
            )
        if self._takes_mean_away(node, number):
            return []
        if letter is None:
            self._refuse(stream, f"{node.label!r} ({node.op}) lays it out anew")
            return []
        if any(own == letter for _, own in written_letters(node, spec, self.facts.constants)):
            return []  # a bias
        if node.op in ADDS | ALIKE | SCALES and letter in spec.letters(spec.outputs):
            return self._through(stream, node, spec, letter)
        stream.readers.append((node, number))
        return []

    def _norm(self, node: Node, number: int, spec: Spec) -> str:
        """Return what kind of norm a node is for one of its inputs, over that input's last axis alone."""
        if node.op in CENTRING | ROOT_MEAN_SQUARE:
            added = (0, 1, *BIASES[node.op]) if node.op in SKIPS else (0,)
            whole = spec.inputs[0] or ()
            last = node.op in SKIPS or int(node.attribute("axis", -1)) in (-1, len(whole) - 1)
            if number not in added or not last or spec.lossy:
                return ""
            return LAYER if node.op in CENTRING else ROOT
        if node.op == "ReduceMean" and number == 0 and len(self._reduced(spec)) == 1:
            users = self.facts.graph.consumers.get(node.outputs[0], ())
            if users and all(self._takes_mean_away(user, 0) and place == 1 for user, place in users):
                return MEAN
        return ""

    def _reduced(self, spec: Spec) -> list[int]:
        """Return the axes that a reduction takes away."""
        gone = spec.sinks()
        return [
            axis for axis, term in enumerate(spec.inputs[0] or ()) if gone.issuperset(term.letters) and term.letters
        ]

    def _is_squared(self, node: Node, axis: int) -> bool:
        """Whether a node squares what it reads, and only sums over the axis are taken of that: the same in any orthonormal basis."""
        if not is_square(node, self.facts):
            return False
        users = self.facts.graph.consumers.get(node.outputs[0], ())
        return bool(users) and all(
            user.op in ("ReduceMean", "ReduceSum") and user in self.top and self._reduced(self.specs[user]) == [axis]
            for user, _ in users
        )

    def _takes_mean_away(self, node: Node, number: int) -> bool:
        """Whether a node subtracts from a value, its first input, that value's own mean."""
        if node.op != "Sub" or number != 0:
            return False
        mean = self.facts.graph.producer.get(node.input(1))
        return mean is not None and mean.op == "ReduceMean" and mean.input(0) == node.input(0)

    # --- what speaks against it -------------------------------------------------------------------------------------

    def _require_own_writers(self, stream: ResidualStream) -> None:
        """Refuse where a stored tensor writes the stream and does something else beside."""
        for name, axis in stream.writers.items():
            for node, number in self.facts.graph.consumers[name]:
                spec = self.specs.get(node)
                letter = (
                    None if spec is None or number >= len(spec.inputs) else _letter(spec, spec.inputs[number], axis)
                )
                writes = spec is not None and any(
                    (own, what) == (number, letter) for own, what in written_letters(node, spec, self.facts.constants)
                )
                if not writes and (name, axis) not in stream.places:
                    self._refuse(stream, f"{name!r} writes it, and {node.label!r} reads that for something else")

    def _refuse(self, stream: ResidualStream, reason: str) -> None:
        stream.reason = stream.reason or reason


BIASES = {SKIPS[0]: (4,), SKIPS[1]: (3,)}
"""Norm with a skip -> the number of what is added to the sum of both."""


def _summed(spec: Spec) -> Spec:
    """Return a signature that tells of the sum alone, which is the fourth output."""
    return Spec(spec.inputs, [None, None, None, *spec.outputs[3:4]], spec.sizes)


def _letter(spec: Spec, operand: Operand, axis: int) -> str | None:
    """Return the letter that an axis is, None where it is a product or holds other positions than the letter's."""
    term = operand[axis] if operand else None
    letters = [] if term is None or term.places is not None else [n for n in term.letters if spec.sizes[n] > 1]
    return letters[0] if len(letters) == 1 else None


def mean_free(array: np.ndarray, axis: int) -> np.ndarray:
    """Return a writer whose results have mean zero along ``axis``: ``W - mean(W)`` (Ashkboos et al. 2024, SliceGPT, section 3.1)."""
    wide = array.astype(np.float64)
    return (wide - wide.mean(axis=axis, keepdims=True)).astype(array.dtype)
