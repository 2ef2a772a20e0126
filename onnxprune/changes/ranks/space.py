"""Directions of each layer's Kronecker-factored eigenbasis as a kind of change: layers become factors (``--granularity eigen``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from onnxprune.allocate import Costs, Target
from onnxprune.changes.change import Change, Space, Takes, Totals, selected
from onnxprune.changes.context import Context
from onnxprune.changes.ranks.basis import Basis, Cut
from onnxprune.changes.ranks.choose import Rules, choose_cuts
from onnxprune.changes.ranks.costs import factored_totals
from onnxprune.changes.ranks.eigen import Eigenbasis, cut_to, eigenbases
from onnxprune.changes.ranks.layers import Layer, Layers, find_layers
from onnxprune.changes.ranks.surgery import form_limits, projected, with_factors
from onnxprune.changes.repairing import repaired
from onnxprune.coupling.kept import Kept
from onnxprune.data import Dataset
from onnxprune.errors import DataError, PlanError, TargetError
from onnxprune.evidence import Cache
from onnxprune.evidence.sites import GRAM_LIMIT
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

    most_outputs: ClassVar[int] = GRAM_LIMIT
    """Outputs of a layer: of more the moments would not fit."""
    tables: ClassVar[bool] = False
    """Whether tables that are looked up can be written as factors too."""

    def __init__(self, context: Context):
        super().__init__(context)
        found = find_layers(context.analysis, self.most_outputs, self.tables)
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

    def bases(self) -> Sequence[Basis]:
        """Return the directions of every layer; raises DataError without calibration data."""
        if self.context.data.calibration is None:
            raise DataError(f"granularity {self.kind} takes directions from data; give calibration data (--calib)")
        if not self.layers.found:
            raise TargetError(
                f"no layer of this model can be written as factors; onnxprune inspect MODEL --granularity {self.kind} says why; "
                "prune widths instead"
            )
        bases, warnings = self.context.once(f"{self.kind} bases", lambda: self.observed(self._data))
        self.context.notes.warn(*warnings)
        return bases

    @property
    def _data(self) -> Dataset:
        assert self.context.data.calibration is not None
        return self.context.data.calibration

    def observed(self, data: Dataset) -> tuple[Sequence[Basis], tuple[str, ...]]:
        """Return the directions that the data gives, and warnings."""
        context, folder = self.context, self.context.data.cache
        cache = None if folder is None else Cache(folder)
        with context.stages("evidence"):
            return eigenbases(context.analysis, self.layers.found, data, context.means.quiet, cache, context.outputs)

    def weights(self, bases: Sequence[Basis]) -> list[float]:
        """Return by what each layer's damages count."""
        exponent = WEIGHINGS[self.context.settings.scope]
        return [1 / max(basis.whole, 1e-300) ** (1 - exponent) for basis in bases]

    @property
    def rules(self) -> Rules:
        return Rules(self.context.settings.options)

    def choose(self, aim: Target) -> Change[Cut]:
        """Return the layers to write as factors for the target; raises TargetError where none becomes cheaper."""
        bases = [b for b in self.bases() if b.layer not in self.barred]
        with self.context.stages("allocate"):
            weights = self.weights(bases)
            return Change(self, choose_cuts(bases, self.whole, self.context.per_run(aim), self.rules, weights))

    def probes(self) -> Iterator[tuple[str, int, dict[int, Change[Cut]]]]:
        """Yield every layer that becomes cheaper, with some shares of its directions gone."""
        for basis in self.bases():
            cuts = [basis.at_ratio(share, self.context.settings.options) for share in SHARES]
            if any(cuts):
                yield (
                    basis.layer.name,
                    basis.layer.outputs,
                    {self.left(c): Change(self, (c,)) for c in cuts if c is not None},
                )

    def left(self, cut: Cut) -> int:
        """Return how much of its outputs a layer has left."""
        return cut.rank

    def made(self, change: Change[Cut]) -> Model:
        return with_factors(projected(self.context.facts, change.parts), change.parts)

    def silent(self, change: Change[Cut]) -> Model:
        """The original in which the layers' weights are projected, node for node."""
        return projected(self.context.facts, change.parts)

    def repaired(self, change: Change[Cut], small: Model) -> Model:
        """Repair the layers inside the directions that stay, as they were, and write them as factors then."""
        context = self.context
        everything = Kept.whole(context.analysis)
        again = repaired(
            context, context.analysis, everything, self.silent(change), limits=form_limits(context.facts, change.parts)
        )
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
        return {self.name: {cut.layer.name: self.written(cut) for cut in change.parts}}

    def read(self, record: Mapping[str, Any]) -> Change[Cut]:
        """Return as many directions as the plan says, of the bases that the calibration data gives; raises PlanError."""
        bases, cuts = {basis.layer.name: basis for basis in self.bases()}, []
        for name, written in record.get(self.name, {}).items():
            cut = self.recorded(bases[name], written) if name in bases else None
            if cut is None:
                told = ", ".join(map(str, written)) if isinstance(written, list) else written
                raise PlanError(f"the plan keeps {told} directions of {name!r}, which this model does not have")
            cuts.append(cut)
        return Change(self, tuple(cut for cut in cuts if cut.layer not in self.barred))

    def written(self, cut: Cut) -> list[Any]:
        """Return what a plan says of a layer."""
        return [cut.inputs, cut.rank]

    def recorded(self, basis: Basis, written: Sequence[Any]) -> Cut | None:
        """Return what a plan says of a layer; None where the layer has not so many directions."""
        assert isinstance(basis, Eigenbasis)
        inputs, rank = written
        return cut_to(basis, inputs, rank) if inputs <= basis.layer.inputs and rank <= basis.layer.outputs else None

    def entries(self, change: Change[Cut] | None = None) -> Report:
        """Describe every layer: directions that it reads and makes, what stays of them, and what it costs."""
        chosen = {cut.layer: cut for cut in change.parts} if change else {}
        rows = [self._entry(layer, chosen.get(layer)) for layer in self.layers.found]
        kept: Sequence[Report] = [
            {"name": node.label, "node": node.label, "op": node.op, "status": "kept", "reason": reason}
            for node, reason in self.layers.kept
        ]
        return {self.name: [*rows, *kept]}

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
