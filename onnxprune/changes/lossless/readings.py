"""Every place where a unit is used up: what reads it, by which stored weight, and whether that can take over for the unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.spec import Operand, Spec
from onnxprune.evidence.probe import observable
from onnxprune.evidence.sites import unit_of
from onnxprune.model.graph import Graph, Node
from onnxprune.model.read import NATIVE_FLOATS, Model
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.targets import Stored


@dataclass(frozen=True, eq=False)
class Reading:
    """A node that uses up a group's units on ``axis`` of ``value`` ("": a value inside a body), ``units`` int64[axis size].

    ``weight``, ``weight_axis``, ``weight_units``: the stored operand that reads them ("": none). ``linear``: that node where
    its weight may take over for a unit that goes.
    """

    node: Node
    value: str
    axis: int
    units: np.ndarray
    weight: str
    weight_axis: int
    weight_units: np.ndarray
    linear: Linear | None

    @property
    def padded(self) -> bool:
        """Whether a constant comes out of it different at the borders."""
        window = self.linear.window if self.linear else None
        return window is not None and any(map(any, window.pads))


def stored_tensors(model: Model, graph: Graph) -> Stored:
    """Return the float tensors of a model, whose graph this is, by name."""
    tensors = {name: tensor for name, tensor in graph.tensors.items() if tensor.data_type in NATIVE_FLOATS}
    return Stored(graph, {name: model.array(tensor) for name, tensor in tensors.items()})


def readings(analysis: Analysis, stored: Stored) -> list[list[Reading]]:
    """Return all readings of each group."""
    links = analysis.solution.links
    found: list[list[Reading]] = [[] for _ in analysis.groups]
    seen = observable(analysis.facts)
    for index, (node, spec) in enumerate(links.specs):
        for letter in sorted(spec.sinks()):
            units = analysis.unit[links.letter(index, letter)]
            for group in np.unique(np.searchsorted(analysis.starts, units[units >= 0], "right") - 1).tolist():
                found[group].append(_reading(analysis, stored, node, spec, letter, group, seen))
    return found


def _reading(
    analysis: Analysis, stored: Stored, node: Node, spec: Spec, letter: str, group: int, seen: set[str]
) -> Reading:
    facts = analysis.facts
    mentions = [*zip(node.inputs, spec.inputs, strict=False), *spec.extra]
    placed = [(name, axis) for name, operand in mentions if name for axis in _axes(operand, letter)]
    none = ("", 0)
    data = next((place for place in placed if place[0] not in facts.constants and place[0] in seen), none)
    weight = next((place for place in placed if facts.is_parameter(place[0])), none)
    units = [unit_of(analysis, *place, group) if place[0] else np.empty(0, np.int64) for place in (data, weight)]
    linear = (
        _linear(facts.shape(node.outputs[0]), facts.shape(data[0]), node, stored) if data[0] and weight[0] else None
    )
    alone = linear is not None and linear.source == data[0] and linear.weight == weight[0]
    return Reading(node, *data, units[0], *weight, units[1], linear if alone else None)


def _linear(output: tuple | None, source: tuple | None, node: Node, stored: Stored) -> Linear | None:
    return None if output is None or source is None else as_linear(node, stored, len(output), source[2:])


def _axes(operand: Operand, letter: str) -> Iterator[int]:
    return (axis for axis, term in enumerate(operand or ()) if letter in term.letters)
