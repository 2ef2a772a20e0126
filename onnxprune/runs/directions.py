"""Whole runs that remove directions of the Kronecker-factored eigenbasis instead of units: ``--granularity eigen``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.allocate import Costs, matcher
from onnxprune.allocate.account import batch_size
from onnxprune.changes.plan import Plan, check_digest
from onnxprune.changes.ranks import (
    Basis,
    Cut,
    Layer,
    Layers,
    check_factors,
    choose_cuts,
    cut_to,
    eigenbases,
    find_layers,
    projected,
    subspaces,
    totals,
    with_factors,
)
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.links import Barrier
from onnxprune.errors import DataError, PlanError, UsageError
from onnxprune.evidence import Cache
from onnxprune.measure.outputs import Outputs
from onnxprune.model.graph import Node
from onnxprune.proof.check import SurgeryCheck
from onnxprune.report.entries import Report
from onnxprune.runs.pipeline import Data, Result, Run
from onnxprune.runs.proving import Refuted, first_rows, proven
from onnxprune.runs.stages import per_run, signed
from onnxprune.settings import AUTO, Settings

EXCLUDED = "left alone by --include or --exclude"
WEIGHINGS = {AUTO: 0.5, "global": 1.0, "layer": 0.0}
"""Scope -> exponent of a layer's own damage in the weight of its share: damages as they are (as in the paper), shares, or between."""


@dataclass(frozen=True)
class Directions:
    """The layers that may become factors, all others with the reason, and what the whole model costs.

    ``barred``: layers that stay after all, since the proof has refused their factors.
    """

    analysis: Analysis
    layers: Layers
    whole: dict[str, int]
    barred: Mapping[Layer, Barrier] = field(default_factory=dict)

    @property
    def open(self) -> tuple[Layer, ...]:
        """The layers that may still become factors."""
        return tuple(layer for layer in self.layers.found if layer not in self.barred)

    def bases(
        self, data: Data, settings: Settings, outputs: Outputs | None = None
    ) -> tuple[list[Basis], tuple[str, ...]]:
        """Return the eigenbasis of every layer, and warnings; raises DataError without calibration data."""
        if data.calibration is None:
            raise DataError("granularity eigen takes directions from data; give calibration data (--calib)")
        means = settings.means.masked(data.calibration.schema.padding_mask)
        cache = None if data.cache is None else Cache(data.cache)
        return eigenbases(self.analysis, self.layers.found, data.calibration, means, cache, outputs)

    def totals(self, cuts: Sequence[Cut] = ()) -> dict[str, int]:
        """Return parameters, MACs of one sample and bytes."""
        found = totals(self.whole, [cut.entry for cut in cuts])
        return found | {"macs": found["macs"] // batch_size(self.analysis.facts)}

    def prunable(self) -> dict[str, float]:
        """Return the shares of parameters and MACs in layers that can be written as factors."""
        return {
            kind: sum(getattr(layer, kind) for layer in self.open) / max(self.whole[kind], 1)
            for kind in ("parameters", "macs")
        }

    def entries(self, cuts: Sequence[Cut] = ()) -> list[Report]:
        """Describe every layer: directions that it reads and makes, what stays of them, and what it costs."""
        chosen = {cut.layer: cut for cut in cuts}
        rows = [self._entry(layer, chosen.get(layer), self.barred.get(layer)) for layer in self.layers.found]
        return rows + [
            {"name": node.label, "node": node.label, "op": node.op, "status": "kept", "reason": reason}
            for node, reason in self.layers.kept
        ]

    def _entry(self, layer: Layer, cut: Cut | None, barrier: Barrier | None) -> Report:
        batch = batch_size(self.analysis.facts)
        after = self.totals() if cut is None else self.totals([cut])
        saved = {kind: self.totals()[kind] - after[kind] for kind in ("parameters", "macs")}
        return {
            "name": layer.name,
            "node": layer.node.label,
            "op": layer.node.op,
            "status": "frozen" if barrier else "kept" if cut is None else "pruned",
            "reason": barrier.reason if barrier else None,
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "inputs_after": layer.inputs if cut is None else cut.reads,
            "outputs_after": layer.outputs if cut is None else cut.makes,
            "parameters": layer.parameters,
            "macs": layer.macs // batch,
            "parameters_after": layer.parameters - saved["parameters"],
            "macs_after": layer.macs // batch - saved["macs"],
        }


def find_directions(analysis: Analysis, settings: Settings) -> Directions:
    """Find the layers that ``include`` and ``exclude`` leave; raises UsageError where a pattern matches none."""
    found = find_layers(analysis)
    included = [_matching(found.found, pattern, "--include") for pattern in settings.include] or [set(found.found)]
    excluded = [_matching(found.found, pattern, "--exclude") for pattern in settings.exclude]
    chosen = set().union(*included).difference(*excluded)
    rest: list[tuple[Node, str]] = [(layer.node, EXCLUDED) for layer in found.found if layer not in chosen]
    layers = Layers(tuple(layer for layer in found.found if layer in chosen), (*found.kept, *rest))
    costs = Costs(analysis).totals(analysis.widths)
    return Directions(analysis, layers, {kind: int(value) for kind, value in costs.items()})


def _matching(layers: Sequence[Layer], pattern: str, option: str) -> set[Layer]:
    known = {name for e in layers for name in (e.node.label, *e.node.inputs, *e.node.outputs)}
    by_node, by_name = matcher(pattern, known)
    found = {e for e in layers if by_node(e.node) or any(map(by_name, (*e.node.inputs, *e.node.outputs)))}
    if not found:
        raise UsageError(f"{option} {pattern!r} matches no layer that can be written as factors")
    return found


@dataclass
class EigenRun(Run):
    """One run that removes directions: the stages of ``Run`` with another kind of decision."""

    directions: Directions = field(init=False)
    _known: list[Basis] | None = field(default=None, init=False)

    def analyse(self) -> Analysis:
        analysis = super().analyse()
        self.directions = find_directions(analysis, self.settings)
        return analysis

    def choose(self, analysis: Analysis) -> Sequence[Cut]:  # type: ignore[override]
        bases = [basis for basis in self._bases() if basis.layer not in self.directions.barred]
        with self.stages("allocate"):
            return choose_directions(self.directions, bases, self.settings)

    def _bases(self) -> list[Basis]:
        if self._known is not None:
            return self._known
        with self.stages("evidence"):
            bases, warnings = self.directions.bases(self.data, self.settings, self.outputs)
        self.warnings += warnings
        self._known = bases
        return bases

    def replay(self, plan: Plan, analysis: Analysis) -> Sequence[Cut]:  # type: ignore[override]
        """Return as many directions as the plan says, of the bases that the calibration data gives; raises PlanError."""
        check_digest(plan, analysis.facts.model.source_sha256, force=self.force)
        bases = {basis.layer.name: basis for basis in self._bases()}
        for name, counts in plan.directions.items():
            basis = bases.get(name)
            if basis is None or not (counts[0] <= basis.layer.inputs and counts[1] <= basis.layer.outputs):
                raise PlanError(f"the plan keeps {counts} directions of {name!r}, which this model does not have")
        return tuple(cut_to(bases[name], *counts) for name, counts in plan.directions.items())

    def without(self, analysis: Analysis, refuted: Refuted) -> Analysis:
        """Leave the layers whose factors the proof refused; raises TargetError where no others are left."""
        barred = {cut.layer: barrier for cut, barrier in refuted.parts.items()}
        self.directions = replace(self.directions, barred={**self.directions.barred, **barred})
        if not self.directions.open:
            raise refuted.nothing_left("layer")
        return analysis

    def factor_exactly(self, cuts: Sequence[Cut]) -> SurgeryCheck:
        """Prove that factors can be written exactly; raises Refuted."""
        facts = self.directions.analysis.facts
        options: dict[str, Any] = {"seed": self.settings.seed, "threads": self.settings.threads}
        options["rows"] = first_rows(self.data.measured)
        made = proven(
            cuts,
            lambda some: with_factors(projected(facts, some), some),
            lambda some, small: check_factors(facts, some, small, **options),
            self.settings,
            self.stages,
        )
        return replace(made.check, frozen_by_check=tuple(layer.name for layer in self.directions.barred))

    def finish(self, analysis: Analysis, kept: Sequence[Cut], settings: Mapping[str, Any]) -> Result:  # type: ignore[override]
        facts = analysis.facts
        cuts = [cut for cut in kept if cut.layer not in self.directions.barred]
        check = self.factor_exactly(cuts)
        everything = [np.ones(width, bool) for width in analysis.widths]
        self.subspaces = subspaces(cuts)
        repaired = self._repaired(analysis, everything, projected(facts, cuts))
        with self.stages("cut"):
            small = with_factors(repaired, cuts)
        small = self._recovered(small)
        plan = Plan(
            facts.model.source_sha256, (), {}, settings, directions={c.layer.name: (c.inputs, c.rank) for c in cuts}
        )
        small = signed(small, plan)
        before, after = self.directions.totals(), self.directions.totals(cuts)
        found = self.summary(before, after, self.directions.prunable(), small, check, settings)
        found["directions"] = self.directions.entries(cuts)
        return self.conclude(analysis, small, plan, found)


def choose_directions(found: Directions, bases: Sequence[Basis], settings: Settings) -> tuple[Cut, ...]:
    """Return the layers to write as factors for the target; raises TargetError where none becomes cheaper."""
    aim = per_run(settings.aim, found.analysis)
    return choose_cuts(bases, found.whole, aim, settings.options, WEIGHINGS[settings.scope])
