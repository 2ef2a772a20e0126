"""What single weights count by gradients: the criteria of units of the same names, for units of one weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.errors import DataError
from onnxprune.evidence.gradients.weights import weight_products
from onnxprune.model.facts import Facts
from onnxprune.model.read import FLOATS


@dataclass(frozen=True)
class GradientScore:
    """``part``: of the products of weights and gradients (see ``weight_products``); ``order``: 2 differentiates twice.

    ``sampled``: the loss is drawn from the model's own outputs whatever labels there are.
    """

    part: str
    about: str
    order: int = 1
    sampled: bool = False


GRADIENT_SCORES: dict[str, GradientScore] = {
    "taylor": GradientScore("square", "squared first-order effect, (w dL/dw)^2 (Molchanov et al. 2019)"),
    "snip": GradientScore("absolute", "connection sensitivity, |w dL/dw| (Lee et al. 2019)"),
    "grasp": GradientScore("signed", "gradient norm that goes with it, w (H g) (Wang et al. 2020)", 2),
    "fisher": GradientScore(
        "spread",
        "second-order effect by the diagonal of the Fisher matrix of the outputs (Theis et al. 2018)",
        sampled=True,
    ),
}


def gradient_scores(layers: Sequence[WeightLayer], facts: Facts, context: Context) -> Mapping[str, np.ndarray]:
    """Return weight -> float64[groups, o, d], for weights that are stored as floats.

    The loss is that of the labels, but for ``sampled`` ones, or is drawn from the model's own outputs. Raises DataError without data, ModelError for an
    operator on the way without a gradient rule.
    """
    name, data = context.settings.criterion, context.data.calibration
    if data is None:
        raise DataError(f"criterion {name!r} looks at data; give calibration data (--calib)")
    scored, known = GRADIENT_SCORES[name], [layer for layer in layers if facts.dtype(layer.name) in FLOATS]
    with context.stages("evidence"):
        found, remark = weight_products(
            facts,
            [layer.name for layer in known],
            (scored.part, scored.order, scored.sampled),
            data,
            context.means.quiet,
            context.outputs,
        )
    others = [layer.name for layer in layers if layer not in known]
    context.notes.warn(
        remark,
        f"weights stored as integers have no gradients and are scored by their size: {', '.join(others[:3])}"
        if others
        else "",
    )
    return {layer.name: layer.arranged(found[layer.name]) for layer in known}
