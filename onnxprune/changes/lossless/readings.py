"""Every place where a unit is used up: what reads it, by which stored weight, and whether that can take over for the unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.readers import UnitReader, unit_of, unit_readers
from onnxprune.evidence.probe import observable
from onnxprune.model.graph import Graph, Node
from onnxprune.model.read import NATIVE_FLOATS, Model
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.stored import Contents, Stored


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
    return Stored(graph, Contents(tensors, model.array))


def readings(analysis: Analysis, stored: Stored) -> list[list[Reading]]:
    """Return all readings of each group."""
    seen = observable(analysis.facts)
    return [
        [_reading(analysis, stored, reader, seen) for reader in there if reader.consumes]
        for there in unit_readers(analysis)
    ]


def _reading(analysis: Analysis, stored: Stored, reader: UnitReader, seen: set[str]) -> Reading:
    facts, node, none = analysis.facts, reader.node, ("", 0)
    data = next((place for place in reader.places if place[0] not in facts.constants and place[0] in seen), none)
    weight = next((place for place in reader.places if facts.is_parameter(place[0])), none)
    units = [unit_of(analysis, *p, reader.group) if p[0] else np.empty(0, np.int64) for p in (data, weight)]
    linear = as_linear(node, stored, facts) if data[0] and weight[0] else None
    alone = linear is not None and linear.source == data[0] and linear.weight == weight[0]
    return Reading(node, *data, units[0], *weight, units[1], linear if alone else None)
