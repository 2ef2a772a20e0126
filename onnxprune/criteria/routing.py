"""Criteria of experts: what routers give them."""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.spec import Scoring, criterion


@criterion("routing-mass", needs=("routing",), normaliser="mean")
def routing_mass_of(group: Group, context: Scoring) -> np.ndarray:
    """Share of the routing weights that tokens give to an expert (--granularity experts).

    How often an expert is picked times the weight that it then has: the router's part of the saliency of Lasby et al. 2025, "REAP the
    Experts: Why Pruning Prevails for One-Shot MoE Compression", which multiplies it with the norm of what the expert gives.
    """
    return np.asarray(context.evidence["routing"][group.index], np.float64)[None]
