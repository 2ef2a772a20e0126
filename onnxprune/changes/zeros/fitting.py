"""Weights refitted to data beside zeros: a walk through the network, layer by layer, and a judgement on rows held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.changes.zeros.scores import DAMPING
from onnxprune.changes.zeros.seen import moments_read
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, held_out, in_batches
from onnxprune.measure.divergence import Reference
from onnxprune.model.model import Model
from onnxprune.repair import Effort, Sequential
from onnxprune.repair.support import Support, sparse_form
from onnxprune.repair.teacher import batch_of, positions_of

HELD_OUT, MOST_HELD = 1 / 16, 64  # of the calibration rows, and samples at most: what the result is judged by
DENSER = (
    4  # times as many positions of each sample as other repairs look at: there is a choice to make for every weight
)
MOST_ROWS = 1024  # that decide which weights go, and refit the others


class ZeroFit:
    """The calibration rows of a run, parted into those that decide and refit and those that judge."""

    def __init__(self, analysis: Analysis, calibration: Dataset, context: Context):
        self.analysis, self.context = analysis, context
        self.rows, self.judge = held_out(calibration, HELD_OUT, MOST_HELD, context.settings.seed)

    def together(self, start: Model, layers: Sequence[WeightLayer], supports: Mapping[str, Support]) -> Model:
        """Return the model in which weights that several nodes share are fitted to what all of these read and give in the original."""
        shared = [layer for layer in layers if layer.shared and layer.name in supports]
        found = dict[str, np.ndarray]()
        with self.context.stages("repair"):
            for layer, gram in moments_read(shared, self.analysis, self.context):
                self.context.means.progress(f"fitting {layer.name}", len(found), len(shared))
                stored = self.analysis.facts.content(layer.name)
                fresh, _ = sparse_form(layer.matrix(stored), gram, supports[layer.name], DAMPING)
                found[layer.name] = layer.block.write(fresh, stored)
        return start.replaced(found)

    def walked(self, start: Model, supports: Mapping[str, Support]) -> Model:
        """Return the model in which every linear layer is refitted in order, those of ``supports`` within them."""
        means, rows = self.context.means, self.rows.take(MOST_ROWS, self.context.settings.seed)
        walk = Sequential(
            self.analysis, Kept.whole(self.analysis), Batches(rows, batch_of(self.analysis, rows, means)),
            limits=supports, effort=Effort(DENSER * positions_of(len(rows))), means=means,
        )  # fmt: skip
        with self.context.stages("repair"):
            fitted = walk.run(start)
        self.context.notes.warn(*walk.warnings)
        return fitted

    def better(self, fitted: Model, plain: Model) -> bool:
        """Whether refitted weights are nearer to the original than the same zeros with the others as they were; the report says."""
        context, original = self.context, self.analysis.facts.model
        batches = in_batches(self.judge, self.analysis.facts, context.means)
        reference = Reference(original, batches, context.means.quiet, outputs=context.outputs)
        found = {"least-squares": reference.divergence(fitted), "none": reference.divergence(plain)}
        best = "none" if context.settings.repair == "none" else min(found, key=lambda name: found[name])
        held = self.judge is not self.rows
        context.notes.entries["repair"] = {"method": best, "divergence": found, "held_out": held, "refitted": False}
        return best != "none"
