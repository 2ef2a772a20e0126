"""Mixtures of experts in a model: which axes count experts, who picks from them, and what each expert owns."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.changes.experts.absent import Absent, absent, single_positions
from onnxprune.changes.experts.wiring import Wiring
from onnxprune.coupling.groups import Analysis, Group, analyse
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.links import FREE
from onnxprune.coupling.routing import FUSED_EXPERTS, INTEGERS, Picker, Routing, routing
from onnxprune.coupling.sharing import OWN_TYPES, unshared
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node

PositionsOf = Callable[[str], Mapping[int, np.ndarray]]
STATISTICAL = frozenset({"statistics"})
NORMALISED = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
OLDEST = 9  # opset from which on masks can be written
NEEDED = "what {node} takes of it is needed whatever the scores are"
UNKNOWN = "how many are picked for a token is not known"
IN_GROUPS = "experts are picked in groups of them, or the axis of their scores is cut otherwise"
FEW = "its {width} experts are as many as are picked for every token"


@dataclass(frozen=True, eq=False)
class ExpertLayer:
    """One axis of experts: a group of the analysis. ``scores``: (value, axis) that routers score experts with, before any is picked.

    ``pickers``: who picks, and by what; of mixtures that take all experts the nodes that normalise. ``fewest``: how many have to stay.
    """

    group: Group
    scores: tuple[tuple[str, int], ...]
    pickers: tuple[Picker, ...]
    fewest: int

    @property
    def name(self) -> str:
        return self.group.name

    @property
    def width(self) -> int:
        return self.group.width


@dataclass(frozen=True, eq=False)
class Expert:
    """Expert ``number`` of a layer as the file had it that a run began with (``unit`` of its group now). ``stored``: tensors that nothing reads without it."""

    layer: ExpertLayer
    unit: int
    number: int
    stored: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.layer.name}/{self.number}"


@dataclass(frozen=True)
class KeptLayer:
    """Experts that stay, the node that keeps them, and why."""

    node: Node
    experts: int
    reason: str


class Mixtures:
    """All mixtures of experts of a model, in an analysis of its own in which axes of experts can be cut.

    ``positions``: value -> axis -> the positions of the file that a run began with which are left, where some went before.
    """

    def __init__(self, facts: Facts, positions: PositionsOf = lambda value: {}):
        self.facts = unshared(facts, STATISTICAL, lambda every: routing(every).adapted, OWN_TYPES | INTEGERS)
        self.positions = positions
        self.routing: Routing = routing(self.facts)
        self.wiring = Wiring(self.facts.graph)
        self._analyse()
        self.routing.tied = self._taken_one_by_one()
        if self.routing.tied:
            self._analyse()
        self._note_kept()

    def _analyse(self) -> None:
        facts = self.facts
        self.analysis: Analysis = analyse(facts, STATISTICAL, adapted=self.routing.adapted)
        self._takers = self._find_takers()
        self.layers: list[ExpertLayer] = []
        self.experts: list[Expert] = []
        self.kept: list[KeptLayer] = []
        if facts.graph.versions.get("", 1) >= OLDEST:
            for layer in self._found():
                self._admit(layer)

    def keeping(self, gone: Sequence[Expert]) -> Kept:
        """Return the decision in which these experts go."""
        masks = [np.ones(group.width, bool) for group in self.analysis.groups]
        for expert in gone:
            masks[expert.layer.group.index][expert.unit] = False
        return Kept(self.analysis, masks)

    def without(self, gone: Sequence[Expert]) -> Absent:
        """Return what follows in the graph where these experts go."""
        layers = list(dict.fromkeys(expert.layer for expert in gone))
        low = [name for layer in layers for name, _ in layer.scores]
        begin = [node for layer in layers for node in self._takers[layer.group.index]]
        return absent(self.wiring, Absent(self.facts, self.keeping(gone), self.routing), low, begin)

    def gone(self, follows: Absent) -> set[str]:
        """Return the values and stored tensors that nothing needs any more."""
        return self.wiring.gone(follows.instead, follows.left)

    def _find_takers(self) -> Mapping[int, list[Node]]:
        """Group -> the nodes that take one known position of an axis of its, or look its positions up by number."""
        found: dict[int, list[Node]] = defaultdict(list)
        for node in self.facts.graph.top:
            places = {(source, axis) for _, source, axis, _ in single_positions(self.facts, node)}
            if node.op == "Concat":
                places = {
                    (node.outputs[0], int(node.attribute("axis", 0)) % len(self.facts.shape(node.outputs[0]) or (0,)))
                }
            for group in {self._group(*place) for place in places}:
                if group is not None:
                    found[group].append(node)
        uses = [(use.node, use.picker) for use in self.routing.others if use.node is not None]
        for node, picker in (*uses, *((node, picker) for node, (picker, _) in self.routing.lookups.items())):
            group = self._group(picker.value, picker.axis)
            if group is not None:
                found[group].append(node)
        return found

    def experts_of(self, layer: ExpertLayer) -> list[Expert]:
        return [expert for expert in self.experts if expert.layer is layer]

    def stored_along(self, layer: ExpertLayer) -> list[tuple[str, int, np.ndarray]]:
        """Return (stored tensor, axis, unit of each position) of what experts have along an axis, what scores them left out."""
        routers = {name for value, _ in layer.scores for name in self.facts.graph.producer[value].inputs}
        found = {(m.parameter, m.axis): m.units for m in layer.group.members if m.parameter not in routers}
        return [(name, axis, units) for (name, axis), units in found.items()]

    def parameters_of(self, expert: Expert) -> int:
        """Return how many numbers are stored for one expert, its scores included."""
        facts, found = self.facts, {(m.parameter, m.axis): m.units for m in expert.layer.group.members}
        shapes = {name: facts.shape(name) or () for name, _ in found}
        own = sum(
            math.prod(shapes[n]) // shapes[n][axis] * int((u == expert.unit).sum()) for (n, axis), u in found.items()
        )
        counted = self._counted
        return own + sum(math.prod(facts.shape(name) or ()) for name in expert.stored if name in counted)

    @cached_property
    def _counted(self) -> frozenset[str]:
        return frozenset(volume.name for volume in self.analysis.parameters)

    # --- finding ----------------------------------------------------------------------------------------------------

    def _found(self) -> Iterator[ExpertLayer]:
        by_group: dict[int, list[Picker]] = {}
        for picker in (*self.routing.pickers, *self._normalisers()):
            group = self._group(picker.value, picker.axis)
            if group is not None:
                by_group.setdefault(group, []).append(picker)
        for index, found in sorted(by_group.items()):
            picks = [p for p in found if p.node.op not in NORMALISED]
            fewest = max((p.count or 0 for p in picks), default=1)
            if any(p.count is None for p in picks):
                continue
            scores = self._scores([p.node for p in found], index)
            if scores:
                yield ExpertLayer(self.analysis.groups[index], scores, tuple(picks or found), max(fewest, 1))

    def _normalisers(self) -> Iterator[Picker]:
        for node in self.facts.graph.top:
            shape = self.facts.shape(node.inputs[0]) if node.op in NORMALISED else None
            if shape and node.version >= 13:
                yield Picker(node, node.inputs[0], int(node.attribute("axis", -1)) % len(shape), None)

    def _group(self, value: str, axis: int) -> int | None:
        """Return the one group that all positions of an axis belong to, as far as they can go."""
        links = self.analysis.solution.links
        if (value, axis) not in links.axes:
            return None
        units = self.analysis.unit[links.axis(value, axis)]
        groups = set((np.searchsorted(self.analysis.starts, units[units >= 0], "right") - 1).tolist())
        return groups.pop() if len(groups) == 1 else None

    def _axis_of(self, value: str, group: int) -> int | None:
        axes = range(len(self.facts.shape(value) or ()))
        return next((axis for axis in axes if self._group(value, axis) == group), None)

    def _scores(self, nodes: Sequence[Node], group: int) -> tuple[tuple[str, int], ...]:
        """Return the values upstream of nodes in which an axis of experts begins: what is made of data that has none."""
        facts, found, seen, todo = self.facts, dict[str, int](), set[str](), [_scored(node) for node in nodes]
        while todo:
            name = todo.pop()
            axis = self._axis_of(name, group) if name not in seen and name not in facts.constants else None
            seen.add(name)
            maker = facts.graph.producer.get(name)
            if axis is None or maker is None:
                continue
            before = [i for i in maker.inputs if i and i not in facts.constants and self._axis_of(i, group) is not None]
            todo += before
            if not before:
                found[name] = axis
        return tuple(sorted(found.items()))

    def _taken_one_by_one(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Return the axes of stored tensors of which each expert takes its own position, and the axes of scores that they go with."""
        found: dict[tuple[str, int], dict[int, set[ExpertLayer]]] = defaultdict(dict)
        takers = [(*taken, node) for node in self.facts.graph.top for taken in single_positions(self.facts, node)]
        stored = [(name, (source, axis), at) for name, source, axis, at, _ in takers if source in self.facts.constants]
        gone = {expert: self.gone(self.without([expert])) for expert in self.experts} if stored else {}
        for expert, names in gone.items():
            for name, place, at in stored:
                if name in names and at == int(self.numbers(expert.layer)[expert.unit]):
                    found[place].setdefault(at, set()).add(expert.layer)
        result = {}
        for (source, axis), by_position in found.items():
            owners = set.union(*by_position.values())
            if len(by_position) == (self.facts.shape(source) or ())[axis] and len(owners) == 1:
                result[source, axis] = owners.pop().scores[0]
        return result

    # --- what an expert owns ----------------------------------------------------------------------------------------

    def _admit(self, layer: ExpertLayer) -> None:
        """Add a layer of which experts can go, with those of its experts of which nothing is needed any more."""
        value, axis = layer.scores[0]
        numbers, left = self.numbers(layer), self.positions(value).get(axis)
        numbers = numbers if left is None else left[numbers]
        found, needed, worked = list[Expert](), None, False
        stacked = any(len(self.facts.shape(m.parameter) or ()) > 2 for m in layer.group.members)
        for unit in range(layer.width):
            expert = Expert(layer, unit, int(numbers[unit]), ())
            follows = self.without([expert])
            gone = self.gone(follows)
            needed = next((node for name, node in follows.parts.items() if name not in gone), None)
            if needed is None:
                stored = tuple(sorted(name for name in gone if name in self.facts.graph.tensors))
                found.append(Expert(layer, unit, expert.number, stored))
                worked = worked or not self._worked.isdisjoint(gone)
        fused = any(picker.node.op in FUSED_EXPERTS for picker in layer.pickers)
        picks = stacked or fused or worked
        reason = FEW.format(width=layer.width) if picks and layer.width <= layer.fewest else ""
        if not found and needed is not None and (picks or not self._looked_up.isdisjoint(layer.pickers)):
            reason = reason or NEEDED.format(node=f"{needed.op} {needed.label!r}")
        if reason:
            self.kept.append(KeptLayer(layer.pickers[0].node, layer.width, reason))
        elif picks and found:
            self.layers.append(layer)
            self.experts += found

    def numbers(self, layer: ExpertLayer) -> np.ndarray:
        """Return int64[width]: the position of each unit among all that are scored."""
        value, axis = layer.scores[0]
        units = self.analysis.unit[self.analysis.solution.links.axis(value, axis)]
        return np.flatnonzero(units >= 0)[np.argsort(units[units >= 0], kind="stable")]

    @cached_property
    def _worked(self) -> frozenset[str]:
        """What is computed with stored weights."""
        nodes = {volume.node for volume in self.analysis.macs if volume.node is not None}
        weighed = (n for n in nodes if any(name in self.facts.constants for name in n.inputs))
        return frozenset(name for node in weighed for name in node.outputs)

    # --- what stays -------------------------------------------------------------------------------------------------

    def _note_kept(self) -> None:
        """Note pickers whose scores are made with a stored tensor, of which no expert can go, with the reason."""
        known = {picker.node for layer in self.layers for picker in layer.pickers} | {row.node for row in self.kept}
        solution = self.analysis.solution
        for picker in self.routing.pickers:
            if picker.node in known or (picker.node.op not in FUSED_EXPERTS and picker not in self._looked_up):
                continue
            positions = solution.links.axis(picker.value, picker.axis)
            reasons = solution.reasons[solution.labels[positions]]
            barred = [int(number) for number in reasons if number != FREE]
            reason = (
                solution.links.barriers[min(barred)].reason
                if barred
                else UNKNOWN
                if picker.count is None
                else IN_GROUPS
            )
            self.kept.append(KeptLayer(picker.node, len(positions), reason))

    @cached_property
    def _looked_up(self) -> set[Picker]:
        """The pickers by whose numbers something stacked is looked up, or that is computed for each number."""
        lookups = [
            picker
            for node, (picker, _) in self.routing.lookups.items()
            if node.op in ("OneHot", "Equal", "Scatter", "ScatterElements")
            or any(i in self.facts.constants and len(self.facts.shape(i) or ()) > 2 for i in node.inputs[:1])
        ]
        return {
            *lookups,
            *(use.picker for use in self.routing.others if use.node is not None and use.node.op == "Equal"),
        }


def _scored(node: Node) -> str:
    return node.inputs[1 if node.op in FUSED_EXPERTS else 0]
