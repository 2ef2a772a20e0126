"""How zeros are shared out by what the outputs lose: every layer alone, in its best form with the share of zeros that all have.

The error of a layer grows like a power of the odds of its zeros (on the layers of a sentence encoder: 1.6 everywhere but in one), so
that the loss per weight is the same everywhere where the odds go with a power of what was lost per weight. Errors of several layers
do not add up as they would alone, for each layer is fitted to make up for those before it; the power that serves is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.changes.zeros.patterns import Pattern
from onnxprune.changes.zeros.scores import DAMPING
from onnxprune.changes.zeros.seen import moments_read
from onnxprune.coupling.groups import Analysis
from onnxprune.data.repeated import in_batches
from onnxprune.errors import DataError
from onnxprune.measure.divergence import Reference
from onnxprune.repair.support import Support, sparse_form

POWER = 0.3
"""Of the loss per weight, with which the odds of zeros fall: errors that add up would have 1 / 1.6."""
WEIGHED_ROWS = 32  # of the calibration data: how far the outputs move with one layer at a time
STEPS = 60  # of a bisection for the odds that all layers share
MOST_ODDS = 60.0  # of the logarithm


def shares_by_error(
    layers: Sequence[WeightLayer], pattern: Pattern, analysis: Analysis, context: Context
) -> dict[str, float]:
    """Return the share of zeros of each layer, ``pattern.share`` of all weights together; layers that cannot be judged alone have that.

    Raises DataError without calibration data.
    """
    if context.data.calibration is None:
        raise DataError("scope error asks what the outputs lose; give calibration data (--calib), or leave scope out")
    lost = _lost_alone(layers, pattern, analysis, context)
    judged = [layer for layer in layers if layer.name in lost]
    own = shares_by_loss({layer.name: layer.size for layer in judged}, lost, pattern.share)
    return {layer.name: own.get(layer.name, pattern.share) for layer in layers}


def _lost_alone(
    layers: Sequence[WeightLayer], pattern: Pattern, analysis: Analysis, context: Context
) -> dict[str, float]:
    """Return how far the outputs move with one layer in its best form with zeros, for those whose inputs are seen."""
    model, means, calibration = analysis.facts.model, context.means, context.data.calibration
    assert calibration is not None
    batches = in_batches(calibration.take(WEIGHED_ROWS, context.settings.seed), analysis.facts, means)
    reference = Reference(model, batches, means.quiet, outputs=context.outputs)
    found = {}
    for number, (layer, read) in enumerate(moments_read(layers, analysis, context)):
        means.progress(f"weighing {layer.name}", number, len(layers))
        stored = analysis.facts.content(layer.name)
        fresh, _ = sparse_form(layer.matrix(stored), read, Support(pattern.kept), DAMPING)
        moved = reference.judged(model.replaced({layer.name: layer.block.write(fresh, stored)})).cost
        found[layer.name] = moved if np.isfinite(moved) else float(np.finfo(np.float32).max)
    return found


def shares_by_loss(sizes: Mapping[str, int], lost: Mapping[str, float], share: float) -> dict[str, float]:
    """Return shares whose odds fall with ``POWER`` of the loss per weight, ``share`` of all weights together."""
    names, weights = list(sizes), np.array([sizes[name] for name in sizes], np.float64)
    least = max((lost[name] for name in names), default=0.0) * np.finfo(np.float32).eps + np.finfo(np.float64).tiny
    slope = np.array([-POWER * np.log(max(lost[name], least) / sizes[name]) for name in names])

    def at(level: float) -> np.ndarray:
        return 1 / (1 + np.exp(-np.clip(level + slope - slope.mean(), -MOST_ODDS, MOST_ODDS)))

    low, high = -MOST_ODDS, MOST_ODDS
    for _ in range(STEPS if names else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) @ weights < share * weights.sum() else (low, middle)
    return dict(zip(names, map(float, at(high)), strict=True)) if names else {}
