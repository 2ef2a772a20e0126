"""Low rank as a kind of change (``--low-rank``): layers become factors by regression on data, where the outputs mind it least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from onnxprune.allocate import Target
from onnxprune.changes.change import Change, Takes
from onnxprune.changes.latency import time_before, within_latency
from onnxprune.changes.ranks.basis import Basis, Cut
from onnxprune.changes.ranks.choose import Rules, choose_cuts
from onnxprune.changes.ranks.costs import cost, forms, most_ranks
from onnxprune.changes.ranks.layers import Layer
from onnxprune.changes.ranks.regression import Regression, metrics_of, regressions, share_that_pays
from onnxprune.changes.ranks.space import Directions
from onnxprune.changes.ranks.tables import table_regressions
from onnxprune.changes.ranks.times import FactorTimes
from onnxprune.data import Dataset
from onnxprune.data.repeated import in_batches
from onnxprune.errors import DataError, ModelError
from onnxprune.measure.divergence import TEMPERATURE, Reference
from onnxprune.model.model import Model
from onnxprune.report.entries import Report
from onnxprune.settings import AUTO

WEIGHED_ROWS = 64  # of the calibration data: how far the outputs move with one layer at a time
WEIGHED_LOSS = (
    0.1  # of what a layer makes, as nearly as its sizes allow: enough to be seen, and little enough to add up
)

PARTS = 3  # of the evidence: what errors are worth, products, tables
UNWEIGHED = "ranks are those of each layer's own outputs, all errors alike, for no gradient tells which matter: {}"


class LowRank(Directions):
    """The layers that may become factors, each by the directions in which its outputs on the data are best kept."""

    kind, name = "rank", "ranks"
    takes: ClassVar[Takes] = {
        "criterion": (AUTO,), "scope": (AUTO, "global", "layer"),
        "repair": (AUTO, "none", "least-squares", "batchnorm", "bias"), "search": (0.0,), "layer_ratio": ((),),
    }  # fmt: skip

    tables: ClassVar[bool] = True
    most_outputs: ClassVar[int] = 1 << 18  # heads over a vocabulary: only what a layer reads has whole moments
    aims: ClassVar[tuple[str, ...]] = ("ratio", "macs", "params", "size", "latency")
    passes: ClassVar[Mapping[str, float] | None] = {"evidence": 8.0, "repair": 5.0}

    def observed(self, data: Dataset) -> tuple[Sequence[Basis], tuple[str, ...]]:
        context, layers, told = self.context, self.layers.found, ""
        means = [context.means.part(number, PARTS) for number in range(PARTS)]
        with context.stages("evidence"):
            try:
                soft = context.outputs and context.outputs.softened(TEMPERATURE)
                metrics = metrics_of(context.analysis, layers, data, means[0], soft)
            except (ModelError, DataError) as error:
                metrics, told = {}, UNWEIGHED.format(error)
            options = context.settings.options
            products = [layer for layer in layers if not layer.looked_up]
            found, warnings = regressions(context.analysis, products, data, options, means[1], metrics)
            tables = [layer for layer in layers if layer.looked_up]
            found += table_regressions(context.analysis, tables, data, options, means[2], metrics, soft or None)
        return found, (*warnings, *([told] if told else []))

    def weights(self, bases: Sequence[Basis]) -> list[float]:
        """Return by what each layer's losses count: gradients have told already; without, the outputs tell, one layer at a time.

        A divergence grows with the square of a small error, so that one size of each layer tells what the others cost.
        """
        if self.context.settings.scope != AUTO:
            return super().weights(bases)
        if all(isinstance(basis, Regression) and basis.metric.scales is not None for basis in bases):
            return [1.0] * len(bases)
        rows = self._data.take(WEIGHED_ROWS, self.context.settings.seed)
        facts, means = self.context.facts, self.context.means
        reference = Reference(facts.model, in_batches(rows, facts, means), means.quiet, outputs=self.context.outputs)
        found = []
        for number, basis in enumerate(bases):
            means.progress(f"weighing {basis.layer.name}", number, len(bases))
            found.append(self._weight(basis, reference))
        return found

    def _weight(self, basis: Basis, reference: Reference) -> float:
        """Return the divergence per what is lost of one layer."""
        sizes = [
            (
                abs(float(way.lost[a, b]) - WEIGHED_LOSS * basis.whole),
                float(way.lost[a, b]),
                Cut(basis, way.form, int(q), int(p)),
            )
            for way in basis.ways(self.context.settings.options)
            for a, p in enumerate(way.ranks)
            for b, q in enumerate(way.inputs)
            if way.lost[a, b] > 0
        ]
        if not sizes:
            return 0.0
        _, lost, cut = min(sizes, key=lambda entry: entry[:2])
        moved = reference.judged(self.silent(Change(self, (cut,)))).cost
        return (moved if np.isfinite(moved) else float(np.finfo(np.float32).max)) / lost

    @property
    def rules(self) -> Rules:
        return Rules(self.context.settings.options, most=share_that_pays)

    def choose(self, aim: Target) -> Change[Cut]:
        """Return the layers to write as factors; for a target of time by what each form takes on this machine."""
        if aim.kind != "latency":
            return super().choose(aim)
        context, able = self.context, [b for b in self.bases() if b.layer not in self.barred]
        bases = [basis for basis in able if not basis.layer.looked_up]  # a product behind a lookup takes time
        options, (whole_us, share) = context.settings.options, time_before(context)
        with context.stages("timing"):
            times = FactorTimes.measured(context.analysis, bases, options, whole_us, context.means)
        with context.stages("allocate"):
            weights = self.weights(bases)

        def proposed(budget: Target) -> tuple[Change[Cut], Model]:
            rules = Rules(options, times.price)
            change = Change(self, choose_cuts(bases, {"latency": whole_us}, budget, rules, weights))
            return change, self.made(change)

        return within_latency(context, aim, share, proposed)

    def left(self, cut: Cut) -> int:
        """Return how many outputs a thinner layer of the same MACs had: ranks of several forms do not compare."""
        if cut.layer.looked_up:
            return cut.rank
        return max(1, round(cut.layer.outputs * int(cost(*cut.entry, "macs")) / cut.layer.macs))

    def written(self, cut: Cut) -> list[Any]:
        return [cut.form, cut.inputs, cut.rank]

    def recorded(self, basis: Basis, written: Sequence[Any]) -> Cut | None:
        assert isinstance(basis, Regression)
        form, *sizes = written
        if form not in forms(basis.layer) or len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
            return None
        inputs, rank = sizes
        fits = 1 <= inputs <= basis.layer.inputs and 1 <= rank <= most_ranks(basis.layer, form)
        return Cut(basis, form, inputs, rank) if fits else None

    def _entry(self, layer: Layer, cut: Cut | None) -> Report:
        found = super()._entry(layer, cut)
        return found | {"form": None if cut is None else cut.form, "rank": None if cut is None else cut.rank}
