"""Criteria that compare weights with those of the same network earlier in training (``--rewind``)."""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.spec import Scoring, criterion
from onnxprune.criteria.tensors import WeightReader

EARLIER = "earlier"
"""The kind of evidence: the analysis of the network as it was."""


@criterion("magnitude-increase", needs=(EARLIER,), normaliser="euclidean")
def magnitude_increase(group: Group, context: Scoring) -> np.ndarray:
    """How much larger a unit's weights are than they were, sum_i |w_i| - |w_i'| over the weights of each member.

    Zhou et al. 2019, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", section 3, there of single weights.
    """
    then = WeightReader(context.evidence[EARLIER])
    rows = [
        reader.norms(m.parameter, m.axis, m.units, group.width, 1)
        for m in context.members(group)
        for reader in (context.weights, then)
    ]
    return np.array(rows[::2]) - np.array(rows[1::2])


@criterion("movement", needs=(EARLIER,), normaliser="euclidean")
def movement(group: Group, context: Scoring) -> np.ndarray:
    """How far a unit's weights went away from zero, sum_i w_i (w_i - w_i') over the weights of each member, one long step of training.

    Sanh et al. 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", equation 3, there of single weights along all steps.
    """
    rows = []
    for member in context.members(group):
        now, then = (
            one.facts.content(member.parameter).astype(np.float64)
            for one in (context.analysis, context.evidence[EARLIER])
        )
        others = tuple(axis for axis in range(now.ndim) if axis != member.axis)
        went = (now * (now - then)).sum(axis=others)
        inside = member.units >= 0
        rows.append(np.bincount(member.units[inside], weights=went[inside], minlength=group.width))
    return np.array(rows)
