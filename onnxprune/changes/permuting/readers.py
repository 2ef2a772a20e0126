"""Which layers count the channels of a group in a pattern of N of every M, and which groups can change their order at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.coupling.groups import Analysis, Group, groups_on

HELD_INSIDE = "a body or a Constant holds numbers of its channels"
NOBODY = "no layer counts its channels in this pattern"


@dataclass(frozen=True, eq=False)
class GroupReader:
    """A layer that reads the units of a group side by side, from input ``first`` of every tap on."""

    layer: WeightLayer
    first: int


def readers_of(analysis: Analysis, layers: Sequence[WeightLayer], m: int) -> Mapping[int, list[GroupReader]]:
    """Return group -> the layers that read its units in their order, one input each, in whole blocks of ``m``."""
    found: dict[int, list[GroupReader]] = {}
    for layer in layers:
        axis = layer.block.along
        if axis is None or layer.inputs % m:
            continue
        units = analysis.unit[analysis.solution.links.axis(layer.name, axis)]
        for index in groups_on(units, analysis.starts):
            start, width = int(analysis.starts[index]), analysis.groups[index].width
            places = np.flatnonzero((units >= start) & (units < start + width))
            first = int(places[0])
            aligned = len(places) == width and not (first % m or width % m)
            if aligned and np.array_equal(units[first : first + width], np.arange(start, start + width)):
                found.setdefault(index, []).append(GroupReader(layer, first))
    return found


def immovable(analysis: Analysis) -> set[int]:
    """Return the groups that lie on tensors of which no others can be stored: inside bodies, or as attributes."""
    facts, links = analysis.facts, analysis.solution.links
    inner = [name for name in facts.graph.tensors if name not in facts.model.weights]
    axes = [(n, a) for n in inner for a in range(len(facts.shape(n) or ())) if (n, a) in links.axes]
    return {group for place in axes for group in groups_on(analysis.unit[links.axis(*place)], analysis.starts)}


def reason_of(group: Group, readers: Mapping[int, list[GroupReader]], held: set[int]) -> str:
    """Return why a group keeps its order ("": it need not)."""
    return HELD_INSIDE if group.index in held else "" if group.index in readers else NOBODY
