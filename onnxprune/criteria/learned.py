"""Criteria that are trained: how open each unit's gate is once all gates together keep to a budget.

The gates are trained where the criterion is asked for; here they are scores like any other. What is left under the budget is what all
of them agreed on, so that they are compared over all groups where nothing else is said.
"""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.consumers import unseen
from onnxprune.criteria.spec import LEARNED, Scoring, criterion


def _opened(group: Group, context: Scoring, kind: str) -> np.ndarray:
    found = context.evidence[LEARNED + kind][group.index]
    return unseen(group, context) if found is None else found[None]


@criterion("gates", needs=("gates-l1",), normaliser="none", scope="global")
def gates(group: Group, context: Scoring) -> np.ndarray:
    """Gates trained towards the original's outputs under an L1 penalty as high as the budget asks for, by proximal steps; the same as gates:l1.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", eq. 1.
    """
    return _opened(group, context, "l1")


criterion("gates:l1", needs=("gates-l1",), normaliser="none", scope="global")(gates)


@criterion("gates:reweighted", needs=("gates-reweighted",), normaliser="none", scope="global")
def gates_reweighted(group: Group, context: Scoring) -> np.ndarray:
    """Gates as gates:l1, under a penalty by the logarithm of their size, which leaves few of them half shut.

    Candes, Wakin and Boyd 2008, "Enhancing Sparsity by Reweighted l1 Minimization", eq. 11.
    """
    return _opened(group, context, "reweighted")


@criterion("gates:l0", needs=("gates-l0",), normaliser="none", scope="global")
def gates_l0(group: Group, context: Scoring) -> np.ndarray:
    """Hard-concrete gates trained under a budget by an augmented Lagrangian.

    Louizos, Welling and Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization"; the budget of Wang, Wohlwend and
    Lei 2020, "Structured Pruning of Large Language Models", section 3.3.
    """
    return _opened(group, context, "l0")


@criterion("gates:bayes", needs=("gates-bayes",), normaliser="none", scope="global")
def gates_bayes(group: Group, context: Scoring) -> np.ndarray:
    """Gates of drawn probability, each with a sparse Beta prior, under a budget as gates:l0.

    Lee et al. 2018, "Adaptive Network Sparsification with Dependent Variational Beta-Bernoulli Dropout", the masks of adversarial
    neural pruning (Madaan et al. 2020).
    """
    return _opened(group, context, "bayes")


@criterion("gates:density", needs=("gates-density",), normaliser="none", scope="global")
def gates_density(group: Group, context: Scoring) -> np.ndarray:
    """Gates whose mean is drawn to the share that may stay, whatever a unit costs; the budget is met by a threshold: for weights as drawn.

    Wang et al. 2019, "Pruning from Scratch".
    """
    return _opened(group, context, "density")
