"""Which single weights stay once their masks are trained: scores like any others, and what is left is refitted like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.errors import DataError
from onnxprune.gating.single import trained_scores
from onnxprune.model.model import Model
from onnxprune.recover import taught
from onnxprune.recover.lessons import WholeModel

LEARNED_SCORES: dict[str, str] = {
    "straight-through": "scores trained through the threshold, weights frozen (Ramanujan et al. 2020; Mallya et al. 2018)",
    "proximal": "size after training under a reweighted L1 penalty by proximal steps (Guo et al. 2019)",
}
OF_TRAINING = ("gate_training", "learning_rate", "recover_loss", "batch")
"""Settings that a training of masks depends on, which a plan holds since it is decided anew."""
Decided = Callable[[Mapping[str, np.ndarray], float], Mapping[str, np.ndarray]]
"""(weight -> scores float64[groups, o, d], part of the zeros, 0 to 1) -> weight -> bool of that shape, what stays."""


def learned_scores(
    layers: Sequence[WeightLayer], model: Model, decided: Decided, context: Context
) -> Mapping[str, np.ndarray]:
    """Return weight -> float64[groups, o, d], for weights that gradients reach.

    Raises DataError without data, ModelError for an operator on the way without a gradient rule.
    """
    settings, data = context.settings, context.data.calibration
    if data is None:
        raise DataError(f"criterion {settings.criterion!r} looks at data; give calibration data (--calib)")
    known = {layer.name: layer for layer in layers}

    def left(scores: Mapping[str, np.ndarray], way: float) -> Mapping[str, np.ndarray]:
        found = decided({name: known[name].arranged(array) for name, array in scores.items()}, way)
        return {name: known[name].left(mask, scores[name]) for name, mask in found.items()}

    teaching = taught(context.original, data, settings.seed, judge=context.data.judge, outputs=context.outputs)
    recipe, means = settings.gate_recipe, context.means
    with context.stages("gates"):
        lessons = WholeModel(teaching, recipe, means)
        found = trained_scores(settings.criterion, model, known.keys(), left, lessons, recipe, means)
    others = [name for name in known if name not in found]
    context.notes.warn(
        f"weights that cannot be trained are scored by their size: {', '.join(others[:3])}" if others else ""
    )
    return {name: known[name].arranged(array) for name, array in found.items()}
