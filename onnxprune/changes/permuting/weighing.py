"""What the weights of the readers of a group say, channel by channel: what a pattern of zeros had better keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.earlier import TRAVEL_SCORES
from onnxprune.changes.zeros.gradients import GRADIENT_SCORES
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.changes.zeros.learned import LEARNED_SCORES
from onnxprune.changes.zeros.patterns import Pattern
from onnxprune.changes.zeros.scores import DAMPING, SCORES
from onnxprune.changes.zeros.seen import moments_read
from onnxprune.coupling.groups import Analysis
from onnxprune.repair.support import Support, sparse_form

MOST_OUTPUTS = 128  # of a layer that tell how its channels go together


def channel_scores(
    layers: Sequence[WeightLayer], analysis: Analysis, pattern: Pattern, context: Context
) -> Mapping[str, np.ndarray]:
    """Return weight -> float32[rows, inputs] that sum up to one: what is lost with each weight, tap by tap.

    With data: what is left of the weights where as many of them are zero in any places, found by ADMM; a criterion by name: its own
    scores. Layers whose inputs cannot be seen are judged by their weights alone.
    """
    name = context.settings.criterion
    scored = SCORES.get("l1" if name in {*GRADIENT_SCORES, *TRAVEL_SCORES, *LEARNED_SCORES} else name)
    seen = context.data.calibration is not None and (scored is None or scored.data)
    moments = moments_read(layers, analysis, context, centred=True) if seen else iter(())
    free = Pattern(pattern.share)

    def of(layer: WeightLayer, gram: np.ndarray | None) -> np.ndarray:
        weight = layer.matrix(analysis.facts.content(layer.name))
        weight = weight[:, np.unique(np.linspace(0, weight.shape[1] - 1, MOST_OUTPUTS).round().astype(np.int64))]
        if gram is not None and scored is None:
            return sparse_form(weight, gram, Support(free.kept), DAMPING)[1]
        own = scored if scored is not None and (gram is not None or not scored.data) else SCORES["l1"]
        return own.of(weight, gram)

    found = {layer.name: of(layer, read) for layer, read in moments}
    found |= {layer.name: of(layer, None) for layer in layers if layer.name not in found}
    return {layer.name: _shares(found[layer.name], layer.inputs) for layer in layers}


def _shares(scores: np.ndarray, inputs: int) -> np.ndarray:
    rows = np.nan_to_num(scores.reshape(-1, inputs), posinf=0.0)
    return (rows / max(float(rows.sum(dtype=np.float64)), np.finfo(np.float64).tiny)).astype(np.float32)
