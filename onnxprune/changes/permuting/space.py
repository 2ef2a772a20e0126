"""Channels in another order as a kind of change, which computes the same: N of every M weights that are left keep more then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from onnxprune.allocate import Target
from onnxprune.changes.analysing import plain_facts
from onnxprune.changes.change import Change, Space, selected
from onnxprune.changes.context import Context
from onnxprune.changes.permuting.assigning import best_order, kept_sum
from onnxprune.changes.permuting.readers import GroupReader, immovable, readers_of, reason_of
from onnxprune.changes.permuting.weighing import channel_scores
from onnxprune.changes.zeros.layers import weight_layers
from onnxprune.changes.zeros.patterns import parse_pattern
from onnxprune.coupling.groups import Analysis, Group, analyse
from onnxprune.coupling.ordering import moved_tensors, moves, with_tensors
from onnxprune.errors import PlanError, SurgeryError
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck
from onnxprune.proof.prover import NothingRunError
from onnxprune.report.entries import Report


@dataclass(frozen=True)
class Reordered(Change[Group]):
    """Groups whose units stand in other ``orders`` afterwards: int64[width] by name, which unit comes to each place.

    ``kept``: what the pattern keeps of the scores before and after, as shares.
    """

    orders: Mapping[str, np.ndarray] = field(default_factory=dict)
    kept: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Permuting(Space[Group]):
    """The groups whose channels can change their order; norms over all of them do not mind."""

    kind, name, noun, verb, changed = "permute", "permuted", "group", "reorders", "reordered"
    aims: ClassVar[tuple[str, ...]] = ()
    loses: ClassVar[bool] = False
    passes: ClassVar[Mapping[str, float] | None] = {"evidence": 2.0}
    saves: ClassVar[bool] = False

    def __init__(self, context: Context):
        super().__init__(context)
        self.analysis: Analysis = context.once("permutable", self._analysed)
        layers, _ = weight_layers(self.analysis)
        chosen = selected({layer: (layer.node,) for layer in layers}, context, "layer with weights of its own")
        self.pattern = parse_pattern(context.settings.pattern)
        self.readers = readers_of(self.analysis, chosen, self.blocks[1])
        self.held = immovable(self.analysis)
        self.weights = sum(layer.size for layer in chosen)

    def _analysed(self) -> Analysis:
        context = self.context
        return analyse(plain_facts(context), context.settings.allowed | {"statistics"}, context.settings.prefer)

    @property
    def blocks(self) -> tuple[int, int]:
        """N and M."""
        assert self.pattern.of is not None
        return self.pattern.of

    def parts(self) -> Sequence[Group]:
        return [group for group in self.analysis.groups if not reason_of(group, self.readers, self.held)]

    def choose(self, aim: Target) -> Reordered:
        """Search an order for every group, by all layers that read it together."""
        groups = [group for group in self.open if group.width > self.blocks[1]]
        own = {group.index: self.readers[group.index] for group in groups}
        layers = list(dict.fromkeys(reader.layer for readers in own.values() for reader in readers))
        with self.context.stages("evidence"):
            scores = channel_scores(layers, self.analysis, self.pattern, self.context)
        orders, kept = {}, {}
        for group in groups:
            rows = _rows(group, own[group.index], scores)
            order = best_order(rows, *self.blocks, self.context.settings.seed)
            before, after = (kept_sum(part, *self.blocks) for part in (rows, rows[:, order]))
            if after > before:
                whole = float(rows.sum(dtype=np.float64))
                orders[group.name], kept[group.name] = order, (before / whole, after / whole)
        return self._reordered(orders, kept)

    def _reordered(
        self, orders: Mapping[str, np.ndarray], kept: Mapping[str, tuple[float, float]] | None = None
    ) -> Reordered:
        return Reordered(self, tuple(group for group in self.open if group.name in orders), orders, kept or {})

    # --- the change -------------------------------------------------------------------------------------------------

    def made(self, change: Change[Group]) -> Model:
        model, source = self.analysis.facts.model, self._sources(change)
        try:
            return with_tensors(model, moved_tensors(model, self._units, source))
        except ValueError as error:
            raise SurgeryError(str(error)) from error

    def _sources(self, change: Change[Group]) -> np.ndarray:
        """Return int64[units]: the unit that comes in place of each."""
        assert isinstance(change, Reordered)
        source = np.arange(int(self.analysis.starts[-1]))
        for group in change.parts:
            start = int(self.analysis.starts[group.index])
            source[start : start + group.width] = start + change.orders[group.name]
        return source

    def _units(self, name: str, axis: int) -> np.ndarray:
        """Return int64[size]: the unit at each position of a stored tensor's axis, -1 for none."""
        analysis, links = self.analysis, self.analysis.solution.links
        if (name, axis) not in links.axes:
            return np.full((analysis.facts.model.weights[name].shape)[axis], -1)
        return analysis.unit[links.axis(name, axis)]

    def placed(self, change: Change[Group], tensor: str) -> dict[int, np.ndarray]:
        if tensor not in self.analysis.facts.model.weights:
            return {}
        source = self._sources(change)
        rank = len(self.analysis.facts.model.weights[tensor].shape)
        found = {axis: moves(self._units(tensor, axis), source) for axis in range(rank)}
        return {axis: places for axis, places in found.items() if places is not None}

    def checked(self, change: Change[Group], small: Model) -> SurgeryCheck:
        """Nothing may change: what was not seen to be equal stays in its order."""
        try:
            check = self.context.prover.compare(self.analysis.facts.model, small, None)
        except NothingRunError as error:
            if self.context.settings.allow_unproven:
                raise
            if not change.parts:
                return SurgeryCheck(True, 0.0, 0.0, 0.0)  # nothing moves
            return SurgeryCheck(False, np.inf, np.inf, 0.0, problem=str(error))
        return replace(check, problem=check.problem or check.unproven, unproven="")

    # --- what is said of it -----------------------------------------------------------------------------------------

    def prunable(self) -> dict[str, float]:
        """Return what the zeros behind it may take."""
        return {"parameters": self.weights / max(self.totals()["parameters"], 1), "macs": 0.0}

    def record(self, change: Change[Group]) -> Mapping[str, Any]:
        assert isinstance(change, Reordered)
        return {self.name: {group.name: change.orders[group.name].tolist() for group in change.parts}}

    def read(self, record: Mapping[str, Any]) -> Reordered:
        """Return the orders that a plan records; raises PlanError where the model has no such group."""
        known, orders = {group.name: group for group in self.parts()}, {}
        for name, order in record.get(self.name, {}).items():
            if name not in known or sorted(order) != list(range(known[name].width)):
                raise PlanError(f"the plan reorders {len(order)} channels of {name!r}, which this model does not have")
            orders[name] = np.array(order, np.int64)
        return self._reordered(orders)

    def entries(self, change: Change[Group] | None = None) -> Report:
        """Describe every group: how wide it is, how many layers read it, and what the pattern keeps before and after."""
        rows = []
        for group in self.analysis.groups:
            reason = reason_of(group, self.readers, self.held)
            row = self.standing(group, change is not None and group in change.parts)
            before, after = change.kept.get(group.name, (None, None)) if isinstance(change, Reordered) else (None, None)
            rows.append(
                row
                | {"width": group.width, "readers": len(self.readers.get(group.index, ()))}
                | {"kept_before": before, "kept_after": after}
                | ({"reason": reason} if reason else {})
            )
        return {"permuted": rows}


def _rows(group: Group, readers: Sequence[GroupReader], scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return float32[rows, width]: the scores of all readers of a group."""
    parts = [scores[reader.layer.name][:, reader.first : reader.first + group.width] for reader in readers]
    return np.ascontiguousarray(np.concatenate(parts))
