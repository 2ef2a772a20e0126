"""Criteria by exact ablation: each unit silenced in the whole model in turn. Slow; the reference for the others."""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.spec import Scoring, criterion


@criterion("kl", needs=("kl",), normaliser="none")
def kl(group: Group, context: Scoring) -> np.ndarray:
    """Mean KL(model || model with the unit silenced) of the outputs; of those that are no logits the relative error.

    Luo & Wu 2020, "Neural Network Pruning with Residual-Connections and Limited-Data".
    """
    return context.evidence["kl"][group.index][None]


@criterion("loss", needs=("loss",), normaliser="none")
def loss(group: Group, context: Scoring) -> np.ndarray:
    """Absolute change of the mean cross-entropy with the labels once the unit is silenced, |L - L_u|.

    Molchanov et al. 2017, "Pruning CNNs for Resource Efficient Inference", eq. 2 (the oracle).
    """
    return np.abs(context.evidence["loss"][group.index])[None]
