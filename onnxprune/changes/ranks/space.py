"""Directions of each layer's Kronecker-factored eigenbasis as a kind of change: layers become factors (``--granularity eigen``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from onnxprune.allocate import Costs, Target
from onnxprune.changes.change import Change, Space, Takes, Totals, selected
from onnxprune.changes.context import Context
from onnxprune.changes.ranks.basis import Basis, eigenbases
from onnxprune.changes.ranks.choose import Cut, by_ratio, choose_cuts, cut_to
from onnxprune.changes.ranks.costs import factored_totals
from onnxprune.changes.ranks.layers import Layer, Layers, find_layers
from onnxprune.changes.ranks.surgery import projected, subspaces, with_factors
from onnxprune.changes.repairing import repaired
from onnxprune.coupling.kept import Kept
from onnxprune.errors import DataError, PlanError
from onnxprune.evidence import Cache
from onnxprune.model.model import Model
from onnxprune.report.entries import Report
from onnxprune.search.curves import SHARES

EXCLUDED = "left alone by --include or --exclude"
WEIGHINGS = {"auto": 0.5, "global": 1.0, "layer": 0.0}
"""Scope -> exponent of a layer's own damage in the weight of its share: damages as they are (as in the paper), shares, or between."""


class Directions(Space[Cut]):
    """The layers that may become factors, all others with the reason, and what the whole model costs."""

    kind, name, noun, changed = "eigen", "directions", "layer", "pruned"
    takes: ClassVar[Takes] = {
        "criterion": ("auto", "eigendamage"), "scope": tuple(WEIGHINGS),
        "repair": ("auto", "none", "least-squares", "batchnorm", "bias"), "search": (0.0,), "layer_ratio": ((),),
    }  # fmt: skip

    def __init__(self, context: Context):
        super().__init__(context)
        found = find_layers(context.analysis)
        what = "layer that can be written as factors"
        chosen = selected({layer: (layer.node,) for layer in found.found}, context, what)
        rest = [(layer.node, EXCLUDED) for layer in found.found if layer not in chosen]
        self.layers = Layers(tuple(chosen), (*found.kept, *rest))
        whole = Costs(context.analysis).totals(context.analysis.widths)
        self.whole = {kind: int(value) for kind, value in whole.items()}

    def owner(self, part: Cut) -> Layer:
        return part.layer

    def parts(self) -> Sequence[Layer]:
        return self.layers.found

    def bases(self) -> list[Basis]:
        """Return the eigenbasis of every layer; raises DataError without calibration data."""
        if self.context.data.calibration is None:
            raise DataError("granularity eigen takes directions from data; give calibration data (--calib)")
        bases, warnings = self.context.once("bases", self._observed)
        self.context.notes.warn(*warnings)
        return bases

    def _observed(self) -> tuple[list[Basis], tuple[str, ...]]:
        context, data = self.context, self.context.data
        assert data.calibration is not None
        cache = None if data.cache is None else Cache(data.cache)
        with context.stages("evidence"):
            return eigenbases(
                context.analysis, self.layers.found, data.calibration, context.means.quiet, cache, context.outputs
            )

    def choose(self, aim: Target) -> Change[Cut]:
        """Return the layers to write as factors for the target; raises TargetError where none becomes cheaper."""
        settings, bases = self.context.settings, [b for b in self.bases() if b.layer not in self.barred]
        with self.context.stages("allocate"):
            exponent = WEIGHINGS[settings.scope]
            return Change(self, choose_cuts(bases, self.whole, self.context.per_run(aim), settings.options, exponent))

    def probes(self) -> Iterator[tuple[str, int, dict[int, Change[Cut]]]]:
        """Yield every layer that becomes cheaper, with some shares of its directions gone."""
        for basis in self.bases():
            cuts = [by_ratio(basis, share, self.context.settings.options) for share in SHARES]
            if any(cuts):
                yield basis.layer.name, basis.layer.outputs, {c.rank: Change(self, (c,)) for c in cuts if c is not None}

    def made(self, change: Change[Cut]) -> Model:
        return with_factors(projected(self.context.facts, change.parts), change.parts)

    def silent(self, change: Change[Cut]) -> Model:
        """The original in which the layers' weights are projected, node for node."""
        return projected(self.context.facts, change.parts)

    def repaired(self, change: Change[Cut], small: Model) -> Model:
        """Repair the layers inside the directions that stay, as they were, and write them as factors then."""
        context = self.context
        everything = Kept.whole(context.analysis)
        again = repaired(context, context.analysis, everything, self.silent(change), limits=subspaces(change.parts))
        with context.stages("cut"):
            return with_factors(again, change.parts)

    def totals(self, change: Change[Cut] | None = None, small: Model | None = None) -> Totals:
        return self.context.per_sample(
            factored_totals(self.whole, [cut.entry for cut in change.parts] if change else ())
        )

    def prunable(self) -> dict[str, float]:
        """Return the shares of parameters and MACs in layers that can be written as factors."""
        return {
            kind: sum(getattr(layer, kind) for layer in self.open) / max(self.whole[kind], 1)
            for kind in ("parameters", "macs")
        }

    def record(self, change: Change[Cut]) -> Report:
        return {"directions": {cut.layer.name: [cut.inputs, cut.rank] for cut in change.parts}}

    def read(self, record: Mapping[str, Any]) -> Change[Cut]:
        """Return as many directions as the plan says, of the bases that the calibration data gives; raises PlanError."""
        bases, found = {basis.layer.name: basis for basis in self.bases()}, record.get("directions", {})
        for name, counts in found.items():
            basis = bases.get(name)
            if basis is None or not (counts[0] <= basis.layer.inputs and counts[1] <= basis.layer.outputs):
                raise PlanError(
                    f"the plan keeps {tuple(counts)} directions of {name!r}, which this model does not have"
                )
        cuts = [cut_to(bases[name], *counts) for name, counts in found.items()]
        return Change(self, tuple(cut for cut in cuts if cut.layer not in self.barred))

    def entries(self, change: Change[Cut] | None = None) -> Report:
        """Describe every layer: directions that it reads and makes, what stays of them, and what it costs."""
        chosen = {cut.layer: cut for cut in change.parts} if change else {}
        rows = [self._entry(layer, chosen.get(layer)) for layer in self.layers.found]
        kept: Sequence[Report] = [
            {"name": node.label, "node": node.label, "op": node.op, "status": "kept", "reason": reason}
            for node, reason in self.layers.kept
        ]
        return {"directions": [*rows, *kept]}

    def _entry(self, layer: Layer, cut: Cut | None) -> Report:
        before = self.totals()
        after = before if cut is None else self.totals(Change(self, (cut,)))
        macs = self.context.per_sample({"macs": layer.macs})["macs"]
        return self.standing(layer, cut is not None) | {
            "node": layer.node.label,
            "op": layer.node.op,
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "inputs_after": layer.inputs if cut is None else cut.reads,
            "outputs_after": layer.outputs if cut is None else cut.makes,
            "parameters": layer.parameters,
            "macs": macs,
            "parameters_after": layer.parameters - before["parameters"] + after["parameters"],
            "macs_after": macs - before["macs"] + after["macs"],
        }
