"""Criteria on the Kronecker-factored Fisher matrix of each consumer: second moments of inputs times those of output gradients.

The Fisher block of a consumer y = W h is taken for T (A x G), A = E h h^T, G = E g g^T, g = dL/dy, over T positions (Martens &
Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature"; for convolutions Grosse & Martens 2016).
A unit goes with the columns of W that read it. Consumers add up, in units of the loss.
"""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.consumers import Consumer, consumers, problems_of, unseen
from onnxprune.criteria.curvature import Problem, joint_order
from onnxprune.criteria.reconstruction import contributions
from onnxprune.criteria.spec import Scoring, criterion
from onnxprune.evidence.gradients.statistics import Curvature

NEEDS = ("gram", "fisher-outputs")


def _problems(group: Group, context: Scoring, centred: bool) -> list[Problem]:
    """Return the consumers with G^(1/2) W for a weight, scaled by T / 2: squared errors are changes of the loss."""
    curvatures = context.evidence["fisher-outputs"][group.index]
    found = []
    for consumer in consumers(group, context):
        if (curvature := curvatures.get(consumer.site)) is not None:
            own = problems_of(_measured(consumer, curvature), group, context.evidence["gram"], centred)
            found += [problem._replace(scale=curvature.positions / 2) for problem in own]
    return found


def _measured(consumer: Consumer, curvature: Curvature) -> Consumer:
    """Return the consumer with G^(1/2) W; where no weight's output was looked at, W is the identity on the site itself."""
    weight = consumer.weight if curvature.weighted else None
    if curvature.moment.ndim == 2:  # diagonals
        root = np.sqrt(curvature.moment)[:, :, None, None]
        return Consumer(consumer.site, root.swapaxes(1, 2) if weight is None else root * weight)
    values, vectors = np.linalg.eigh(curvature.moment)
    root = np.sqrt(np.maximum(values, 0.0))[:, :, None] * vectors.swapaxes(1, 2)
    return Consumer(consumer.site, root[..., None] if weight is None else np.einsum("gpo,goct->gpct", root, weight))


@criterion("kron-obd", needs=NEEDS, normaliser="none")
def kron_obd(group: Group, context: Scoring) -> np.ndarray:
    """Change of the loss when a unit's columns go and nothing makes up for them, T tr(G W_u A_uu W_u^T) / 2.

    Kron-OBD of Wang et al. 2019, "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis", section 4, with
    inputs in the place of outputs.
    """
    found = _problems(group, context, centred=False)
    return contributions(found).diagonal()[None] if found else unseen(group, context)


@criterion("kron-obs", needs=NEEDS, normaliser="none")
def kron_obs(group: Group, context: Scoring) -> np.ndarray:
    """Change of the loss once a unit and all before it are gone and the rest is refitted, T tr(G W_u ([A^-1]_uu)^-1 W_u^T) / 2.

    Kron-OBS of Wang et al. 2019 (see kron-obd), one unit at a time as in ``obs``; A is the covariance, since the bias is
    refitted too.
    """
    found = _problems(group, context, centred=True)
    if not found:
        return unseen(group, context)
    return joint_order(found).scores[None]


@criterion("eigendamage", needs=NEEDS, normaliser="none")
def eigendamage(group: Group, context: Scoring) -> np.ndarray:
    """Damage of each direction of the inputs' eigenbasis, shared out to the units by their part in it (see --granularity eigen).

    Wang et al. 2019 (see kron-obd): with A = Q L Q^T direction j costs T L_j |G^(1/2) W q_j|^2 / 2; unit u gets the share
    sum of Q_cj^2 over its columns c. They remove directions, which turns a layer into three (``--granularity eigen``).
    """
    found = _problems(group, context, centred=False)
    return sum(map(_shared, found), np.zeros(group.width))[None] if found else unseen(group, context)


def _shared(problem: Problem) -> np.ndarray:
    """Return float64[units]."""
    values, vectors = np.linalg.eigh((problem.gram + problem.gram.T) / 2)
    damage = np.maximum(values, 0.0) * np.square(problem.weight @ vectors).sum(axis=0)
    return problem.scale * (np.square(vectors) @ damage)[problem.blocks].sum(axis=1)
