"""Residual streams in another orthonormal basis: the same network, whose directions of little energy can go as units do.

Between RMS norms a stream ``x`` may be turned by any orthonormal ``Q``: what writes it becomes ``W Q``, what reads it ``Q^T W``, and
the norm, of which the gain has moved into what reads behind it, stays as it is (Ashkboos et al. 2024, SliceGPT, section 3.2). With
one basis for a whole stream nothing is added to the network.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import hadamard

from onnxprune.coupling.absorb import GAINS
from onnxprune.coupling.links import Links
from onnxprune.coupling.readers import axes_with
from onnxprune.coupling.streams.residual import (
    ROOT,
    SCALES,
    Gain,
    ResidualStream,
    ValueAxis,
    Walker,
    streams,
)
from onnxprune.coupling.streams.shifts import Shifts
from onnxprune.model.graph import Node
from onnxprune.model.model import Model
from onnxprune.model.read import FLOATS


@dataclass(eq=False)
class Turnable:
    """A stream between RMS norms: its own tensors, and those of the spaces that its gains lead to and come from."""

    stream: ResidualStream
    beyond: list[tuple[np.ndarray, bool, ResidualStream]] = field(
        default_factory=list
    )  # gain, whether it leaves the stream, what is there
    gains: list[str] = field(default_factory=list)
    normalised: list[tuple[ValueAxis, np.ndarray | None]] = field(
        default_factory=list
    )  # (place, the gain that it holds)
    reason: str = ""

    @property
    def name(self) -> str:
        return next(iter(self.stream.norms.values())).node.label


def turnable_streams(links: Links) -> list[Turnable]:
    """Return the streams of RMS norms, each with the reason why it cannot be turned ("": it can)."""
    finder = _Finder(links)
    return [finder.look_at(stream) for stream in streams(links) if all(n.kind == ROOT for n in stream.norms.values())]


def with_shifts_behind(links: Links) -> Model:
    """Return the model in which the shifts of norms of streams that can be turned are added behind what reads the norms."""
    shifts = Shifts(links, _Finder(links).weight_of)
    for one in turnable_streams(links):
        for _, leaves, other in one.beyond:
            if leaves and not one.reason:
                shifts.move(other)
    return shifts.made(links.facts.model)


class _Finder:
    def __init__(self, links: Links):
        self.links, self.facts, self.walker = links, links.facts, Walker(links)
        self.specs = dict(links.specs)

    def look_at(self, stream: ResidualStream) -> Turnable:
        found = Turnable(stream, reason=stream.reason)
        for gain in self._gains(stream):
            node = gain.node
            values = self.facts.content(node.input(gain.number)).reshape(-1).astype(np.float64)
            if len(values) != stream.size or len(self.facts.graph.consumers[node.input(gain.number)]) != 1:
                found.reason = found.reason or f"the gain of {node.label!r} is not its own"
                continue
            axis = self._axis(gain)
            other = self.walker.walk((gain.beyond, axis), node)
            found.gains.append(node.input(gain.number))
            found.beyond.append((values, gain.leaves, other))
            inside = other.norms or other.gains or (not gain.leaves and other.readers)
            trouble = "a sum with what is normalised already" if inside else other.reason
            found.reason = found.reason or (trouble and f"behind {node.label!r}: {trouble}")
            if gain.leaves and node.op in GAINS:
                found.normalised.append(((gain.beyond, axis), values))
        found.normalised += [(place, None) for place in sorted(stream.places) if self._is_quotient(place)]
        for reader in [*stream.readers, *(r for _, _, other in found.beyond for r in other.readers)]:
            if self.weight_of(*reader) is None:
                node, _ = reader
                found.reason = (
                    found.reason or f"{node.label!r} ({node.op}) reads it, which is not linear in stored weights"
                )
        if not found.normalised:
            found.reason = found.reason or "nothing divides it by its root mean square"
        return found

    def _gains(self, stream: ResidualStream) -> list[Gain]:
        """Return the products with gains, and the fused norms, which have one inside."""
        fused = [Gain(norm.node, GAINS[norm.node.op], True) for norm in stream.norms.values() if norm.node.op in GAINS]
        return [*stream.gains.values(), *fused]

    def _axis(self, gain: Gain) -> int:
        """Return the axis of what is beyond a gain: the gain's own, counted from the last."""
        operand = self.specs[gain.node].inputs[gain.number] or ()
        own = next(axis for axis, term in enumerate(operand) if term.letters)
        return len(self.facts.shape(gain.beyond) or ()) - len(operand) + own

    def _is_quotient(self, place: ValueAxis) -> bool:
        node = self.facts.graph.producer.get(place[0])
        return node is not None and node.op in SCALES

    def weight_of(self, node: Node, number: int) -> tuple[str, int] | None:
        """Return (stored weight, axis) by which a contraction reads a stream, None where it does otherwise."""
        spec = self.specs[node]
        operand = spec.inputs[number] or ()
        letters = {letter for term in operand for letter in term.letters} & spec.sinks()
        if not spec.cost or number != 0 or len(node.inputs) < 2:
            return None
        weight = node.input(1)
        stored = weight in self.facts.graph.tensors and self.facts.dtype(weight) in FLOATS
        axes = [axis for letter in letters for axis in axes_with(spec.inputs[1], letter)]
        whole = [axis for axis in axes if (self.facts.shape(weight) or ())[axis] > 1]
        return (weight, whole[0]) if stored and len(self.facts.graph.consumers[weight]) == 1 and whole else None


def turned(links: Links, chosen: list[tuple[Turnable, np.ndarray]]) -> Model:
    """Return the model with each stream in its basis: float64[width, width], orthonormal, the new directions in columns."""
    finder, facts = _Finder(links), links.facts
    products: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)

    def turn(stream: ResidualStream, there: np.ndarray, back: np.ndarray) -> None:
        for name, axis in stream.writers.items():
            products[name].append((axis, there))
        for reader in stream.readers:
            place = finder.weight_of(*reader)
            assert place is not None
            products[place[0]].append((place[1], back.T))

    for one, basis in chosen:
        turn(one.stream, basis, basis.T)
        for gain, leaves, other in one.beyond:
            there = basis / gain[:, None] if leaves and other.writers else gain[:, None] * basis
            turn(other, there, basis.T * gain)
    arrays = {name: _product(facts.content(name), own) for name, own in products.items()}
    ones = {name: np.ones_like(facts.content(name)) for one, _ in chosen for name in one.gains}
    return facts.model.replaced(arrays | ones)


def _product(array: np.ndarray, factors: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Return an array of which position k of an axis is the sum over i of ``matrix[i, k]`` times the old position i."""
    result = array.astype(np.float64)
    for axis, matrix in factors:
        result = np.moveaxis(np.tensordot(result, matrix, axes=(axis, 0)), -1, axis)
    return result.astype(array.dtype)


# --- bases ------------------------------------------------------------------------------------------------------------


def principal(moment: np.ndarray) -> np.ndarray:
    """Return float64[width, width]: the eigenvectors of a second moment in columns, that of the largest eigenvalue first."""
    _, vectors = np.linalg.eigh((moment + moment.T) / 2)
    vectors = vectors[:, ::-1]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])
    return vectors * signs


def random_basis(width: int, seed: int) -> np.ndarray:
    """Return float64[width, width]: a Hadamard matrix with random signs, times a random rotation of the odd factor of the width."""
    draw = np.random.default_rng(seed)
    even = width & -width
    odd, _ = np.linalg.qr(draw.standard_normal((width // even, width // even)))
    return np.kron(odd, hadamard(even) / np.sqrt(even)) * draw.choice([-1.0, 1.0], width)[:, None]


__all__ = [
    "Turnable",
    "principal",
    "random_basis",
    "turnable_streams",
    "turned",
    "with_shifts_behind",
]
