"""Criteria from gradients: what the loss says about a unit to first order, or to second order by squared gradients.

Gates stand where consumers read a unit: a_s = sum over positions of h * dL/dh at site s, for one sample's loss L. To first order
silencing the unit changes L by -sum_s a_s. Without labels L is drawn from the model's own outputs.
"""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.consumers import unseen
from onnxprune.criteria.spec import Scoring, criterion
from onnxprune.evidence.gradients.statistics import Gates, Products


def _gates(group: Group, context: Scoring) -> Gates | None:
    return context.evidence["task-gates"][group.index]


def _products(group: Group, context: Scoring, kind: str) -> list[Products]:
    """Return one entry per member that counts and has a gradient."""
    found = context.evidence[kind][group.index]
    return [found[m.parameter, m.axis] for m in context.members(group) if (m.parameter, m.axis) in found]


def _summed(group: Group, context: Scoring, kind: str, part: str, scale: float = 1.0) -> np.ndarray:
    """Return float64[1, width]: a part of the products, summed over the members as a sum over weights is."""
    rows = [getattr(product, part) for product in _products(group, context, kind)]
    return scale * np.sum(rows, axis=0)[None] if rows else unseen(group, context)


@criterion("taylor", needs=("task-weights",), normaliser="none")
def taylor(group: Group, context: Scoring) -> np.ndarray:
    """Squared first-order effect of zeroing each weight, sum_i (w_i dL/dw_i)^2, averaged over batches.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", section 3.
    """
    return _summed(group, context, "task-weights", "square")


@criterion("taylor-activation", needs=("task-gates",), normaliser="euclidean")
def taylor_activation(group: Group, context: Scoring) -> np.ndarray:
    """First-order effect of the activation on a sample's loss, E |sum h dL/dh| / elements; one row per site.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", section 2.2.
    """
    gates = _gates(group, context)
    return unseen(group, context) if gates is None else gates.absolute / gates.sizes[:, None]


@criterion("snip", needs=("task-weights",), normaliser="none")
def snip(group: Group, context: Scoring) -> np.ndarray:
    """Connection sensitivity, sum_i |w_i dL/dw_i|, averaged over batches.

    Lee et al. 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", section 4.
    """
    return _summed(group, context, "task-weights", "absolute")


@criterion("grasp", needs=("task-hessian",), normaliser="none")
def grasp(group: Group, context: Scoring) -> np.ndarray:
    """Gradient norm that goes with the unit, sum_i w_i (H g)_i, by differentiating |g|^2 / 2; may be negative.

    Wang et al. 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow", section 4: they remove the
    weights with the largest -w (H g).
    """
    return _summed(group, context, "task-hessian", "signed")


@criterion("fisher", needs=("task-gates",), normaliser="none")
def fisher(group: Group, context: Scoring) -> np.ndarray:
    """Second-order effect by the Fisher matrix of each site's gate, sum_s E a_s^2 / 2.

    Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning". Labels give the empirical Fisher
    matrix, labels drawn from the model's outputs the true one.
    """
    gates = _gates(group, context)
    return unseen(group, context) if gates is None else gates.square.sum(axis=0)[None] / 2


@criterion("group-fisher", needs=("task-gates",), normaliser="none")
def group_fisher(group: Group, context: Scoring) -> np.ndarray:
    """Second-order effect of one gate for all sites of a unit, E (sum_s a_s)^2 / 2, per element of memory it frees.

    Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression", section 3.
    """
    gates = _gates(group, context)
    return unseen(group, context) if gates is None else gates.joint[None] / 2 / gates.sizes.sum()


@criterion("obd", needs=("fisher-weights",), normaliser="none")
def obd(group: Group, context: Scoring) -> np.ndarray:
    """Saliency by the diagonal Hessian, sum_i H_ii w_i^2 / 2, H the Fisher matrix of the model's own outputs.

    LeCun et al. 1990, "Optimal Brain Damage", whose Levenberg-Marquardt approximation of the Hessian H replaces. At each
    batch labels are drawn anew, so that the squared gradient of the batch's summed loss has H_ii as its mean.
    """
    return _summed(group, context, "fisher-weights", "spread", 0.5)
