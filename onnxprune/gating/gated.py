"""A copy of a model in which everybody reads a unit times its gate, one gate for all who read it.

With a gate at zero the copy is the original with that unit silenced, which is what a cut equals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.coupling.groups import Analysis
from onnxprune.evidence.gradients.taps import can_be_tapped, put_before
from onnxprune.evidence.sites import Site, sites
from onnxprune.evidence.store import Evidence
from onnxprune.gating.mended import Mending, can_be_mended
from onnxprune.model.graph import Names
from onnxprune.model.model import Model
from onnxprune.model.runtime import Arrays
from onnxprune.model.tensors import FLOATS

Through = dict[tuple[int, str], list[NodeProto]]
Read = dict[tuple[int, str, int], dict[int, Site]]
"""(place of a node, value, axis) -> group -> the site there."""


@dataclass(frozen=True)
class GatedUnits:
    """``analysis``: of the original; ``model``: the copy, its gates stored as ones; ``gates``: group -> name of its gates [width], of those that are read somewhere.

    ``factors``: those of the gates that are tensors of the copy; ``mendings``: where readers see more of a unit than its gate times it.
    """

    analysis: Analysis
    model: Model
    gates: dict[int, str]
    factors: frozenset[str]
    mendings: tuple[Mending, ...] = ()

    def precise(self, name: str) -> type:
        """Return in which type a tensor of the copy is fed: 16-bit floats are computed in 32 bits."""
        return np.float64 if self.model.weights[name].read().dtype == np.float64 else np.float32

    def go_by(self, evidence: Evidence, begun: Mapping[str, np.ndarray] | None = None) -> None:
        """Take the second moments that mended readers ask for; ``begun``: see ``Mending``."""
        for mending in self.mendings:
            mending.go_by(evidence[mending.need], begun)

    def silent(self, gates: Mapping[str, np.ndarray]) -> Model:
        """Return the copy in which units whose gates are shut say nothing, and nobody makes up for them."""
        found = {name: gate for name, gate in gates.items() if name in self.factors}
        for mending in self.mendings:
            found |= mending.silenced(gates)
        return self.model.replaced({n: a.astype(self.model.weights[n].read().dtype) for n, a in found.items()})

    def fed(self, gates: Mapping[str, np.ndarray]) -> Arrays:
        """Return what the copy is fed at these gates, float64[width] by name."""
        return {name: array.astype(self.precise(name)) for name, array in self.exact(gates).items()}

    def exact(self, gates: Mapping[str, np.ndarray]) -> Arrays:
        """Return the same in float64."""
        found = {name: gate for name, gate in gates.items() if name in self.factors}
        for mending in self.mendings:
            found |= mending.fed(gates)
        return found

    def pulled(self, gates: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> Arrays:
        """Return the gradients of the gates, float64[width] by name, given those of all that was fed."""
        found = {
            name: np.asarray(gradients[name], np.float64) if name in self.factors else np.zeros(len(gate))
            for name, gate in gates.items()
        }
        for mending in self.mendings:
            for name, pull in mending.pulled(gates, gradients).items():
                found[name] = found[name] + pull
        return found


def gated(
    analysis: Analysis, mends: bool = False, movable: Collection[int] | None = None, model: Model | None = None
) -> GatedUnits:
    """Return the model with a gate for every unit, of the ``movable`` groups (None: all), that a node of the main graph reads as a float.

    Where it ``mends``, readers see what least squares would make of the units that are open. ``model``: one of the same structure, with
    other weights (None: that of the analysis).
    """
    facts = analysis.facts
    model = model or facts.model
    proto = model.draft()
    names = Names(proto.graph)
    read = _read(analysis, range(len(analysis.groups)) if movable is None else movable)
    gates = {g: names.fresh("gate") for g in sorted({group for there in read.values() for group in there})}
    building = _Building(analysis, names, gates, mends)
    through: Through = defaultdict(list)
    for (place, value, _), there in read.items():
        before = through[place, value]
        before += building.seen(before[-1].output[0] if before else value, there)
    put_before(proto, through)
    proto.graph.initializer.extend(building.tensors.values())
    factors = frozenset(gates.values()) & building.tensors.keys()
    return GatedUnits(analysis, model.derived(proto), gates, factors, tuple(building.mendings.values()))


def _read(analysis: Analysis, movable: Collection[int]) -> Read:
    """Return where nodes of the main graph read units of some groups as floats."""
    facts, found = analysis.facts, Read()
    place = {node: index for index, node in enumerate(facts.graph.top)}
    for group, there in zip(analysis.groups, sites(analysis), strict=True):
        for site in there if group.index in movable else ():
            if site.node in place and facts.dtype(site.value) in FLOATS and can_be_tapped(site, place):
                assert site.node is not None
                found.setdefault((place[site.node], site.value, site.axis), {}).setdefault(group.index, site)
    return found


@dataclass
class _Building:
    """What the copy has beside the original: ``tensors`` by name, and nodes with fresh names."""

    analysis: Analysis
    names: Names
    gates: dict[int, str]
    mends: bool
    tensors: dict[str, TensorProto] = field(default_factory=dict)
    mendings: dict[tuple[str, int, tuple[int, ...]], Mending] = field(default_factory=dict)

    def seen(self, value: str, there: Mapping[int, Site]) -> list[NodeProto]:
        """Return the nodes that make of a value what a reader sees of the groups at its sites."""
        site = next(iter(there.values()))
        if self.mends and can_be_mended(site):
            return self.mended(value, there)
        nodes: list[NodeProto] = []
        for group, own in there.items():
            nodes += self.factor(own, nodes[-1].output[0] if nodes else value, group)
        return nodes

    def mended(self, value: str, there: Mapping[int, Site]) -> list[NodeProto]:
        site = next(iter(there.values()))
        dtype, width = self.analysis.facts.dtype(site.value), len(site.units)
        key = (site.value, site.axis, tuple(there))
        if key not in self.mendings:
            names = self.stored("matrix", np.eye(width), dtype), self.stored("shift", np.zeros(width), dtype)
            units = tuple((self.gates[group], own.units) for group, own in there.items())
            self.mendings[key] = Mending(site.value, site.axis, *names, units)
        mending, nodes = self.mendings[key], _Nodes(self.names, site.value)
        rank = len(self.analysis.facts.shape(site.value) or ())
        if site.axis % rank == 1 and rank > 2:
            kernel = self.stored("shape", np.array([width, width] + [1] * (rank - 2), np.int64))
            nodes.put("Conv", value, nodes.put("Reshape", mending.matrix, kernel), mending.shift)
            return nodes.made
        order = [*(axis for axis in range(rank) if axis != site.axis % rank), site.axis % rank]
        last = nodes.put("Transpose", value, perm=order)
        last = nodes.put("MatMul", last, nodes.put("Transpose", mending.matrix, perm=[1, 0]))
        nodes.put("Transpose", nodes.put("Add", last, mending.shift), perm=np.argsort(order).tolist())
        return nodes.made

    def stored(self, base: str, content: np.ndarray, dtype: int | None = None, name: str = "") -> str:
        name = name or self.names.fresh(base)
        array = content if dtype is None else content.astype(helper.tensor_dtype_to_np_dtype(dtype))
        self.tensors[name] = numpy_helper.from_array(array, name)
        return name

    def factor(self, site: Site, value: str, group: int) -> list[NodeProto]:
        """Return the nodes that multiply a value by the gates of its units; positions that belong to none are multiplied by one."""
        nodes, gate, width = _Nodes(self.names, site.value), self.gates[group], self.analysis.groups[group].width
        dtype = self.analysis.facts.dtype(site.value)
        if gate not in self.tensors:
            self.stored("gate", np.ones(width), dtype, gate)
        own = self.tensors[gate].data_type
        spread = gate if own == dtype else nodes.put("Cast", gate, to=dtype)
        if not np.array_equal(site.units, np.arange(width)):
            wide = nodes.put("Concat", spread, self.stored("open", np.ones(1), dtype), axis=0)
            units = self.stored("units", np.where(site.units < 0, width, site.units))
            spread = nodes.put("Gather", wide, units, axis=0)
        rank = len(self.analysis.facts.shape(site.value) or ())
        shape = [-1 if axis == site.axis % rank else 1 for axis in range(rank)]
        nodes.put("Mul", value, nodes.put("Reshape", spread, self.stored("shape", np.array(shape, np.int64))))
        return nodes.made


@dataclass
class _Nodes:
    """Nodes of fresh names behind a ``value``."""

    names: Names
    value: str
    made: list[NodeProto] = field(default_factory=list)

    def put(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.made.append(helper.make_node(op, list(inputs), [self.names.fresh(f"{self.value}:gated")], **attributes))
        return self.made[-1].output[0]
