"""A copy of a model in which everybody reads a unit times its gate, one gate for all who read it.

With a gate at zero the copy is the original with that unit silenced, which is what a cut equals.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.coupling.groups import Analysis
from onnxprune.evidence.gradients.taps import can_be_tapped, put_before
from onnxprune.evidence.sites import Site, sites
from onnxprune.model.graph import Names
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS

Through = dict[tuple[int, str], list[NodeProto]]


@dataclass(frozen=True)
class GatedUnits:
    """``analysis``: of the original; ``model``: the copy, its gates stored as ones; ``gates``: group -> name of its tensor [width], of those that are read somewhere."""

    analysis: Analysis
    model: Model
    gates: dict[int, str]

    def precise(self, name: str) -> type:
        """Return in which type a gate is fed: 16-bit floats are computed in 32 bits."""
        return np.float64 if self.model.weights[name].read().dtype == np.float64 else np.float32


def gated(analysis: Analysis) -> GatedUnits:
    """Return the model with a gate for every unit that a node of the main graph reads as a float."""
    facts = analysis.facts
    proto = facts.model.draft()
    place = {node: index for index, node in enumerate(facts.graph.top)}
    building = _Building(analysis, Names(proto.graph))
    through: Through = defaultdict(list)
    gates: dict[int, str] = {}
    for group, there in zip(analysis.groups, sites(analysis), strict=True):
        read = [s for s in there if s.node in place and facts.dtype(s.value) in FLOATS and can_be_tapped(s, place)]
        if read:
            gates[group.index] = building.stored("gate", np.ones(group.width), facts.dtype(read[0].value))
        for site in {(s.node, s.value, s.axis): s for s in read}.values():
            assert site.node is not None
            before = through[place[site.node], site.value]
            value = before[-1].output[0] if before else site.value
            before += building.factor(site, value, gates[group.index], group.width)
    put_before(proto, through)
    proto.graph.initializer.extend(building.tensors)
    return GatedUnits(analysis, facts.model.derived(proto), gates)


@dataclass
class _Building:
    """What the copy has beside the original: ``tensors`` and nodes with fresh names."""

    analysis: Analysis
    names: Names
    tensors: list[TensorProto] = field(default_factory=list)

    def stored(self, base: str, content: np.ndarray, dtype: int | None = None) -> str:
        name = self.names.fresh(base)
        array = content if dtype is None else content.astype(helper.tensor_dtype_to_np_dtype(dtype))
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def factor(self, site: Site, value: str, gate: str, width: int) -> list[NodeProto]:
        """Return the nodes that multiply a value by the gates of its units; positions that belong to none are multiplied by one."""
        nodes: list[NodeProto] = []
        dtype = self.analysis.facts.dtype(site.value)

        def node(op: str, *inputs: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(op, list(inputs), [self.names.fresh(f"{site.value}:gated")], **attributes))
            return nodes[-1].output[0]

        own = next(tensor for tensor in self.tensors if tensor.name == gate).data_type
        spread = gate if own == dtype else node("Cast", gate, to=dtype)
        if not np.array_equal(site.units, np.arange(width)):
            wide = node("Concat", spread, self.stored("open", np.ones(1), dtype), axis=0)
            spread = node("Gather", wide, self.stored("units", np.where(site.units < 0, width, site.units)), axis=0)
        rank = len(self.analysis.facts.shape(site.value) or ())
        shape = [-1 if axis == site.axis % rank else 1 for axis in range(rank)]
        node("Mul", value, node("Reshape", spread, self.stored("shape", np.array(shape, np.int64))))
        return nodes
