"""Criteria that ask how well a group's consumers can do without a unit.

Several consumers add up, each normalised by its output energy. Where no stored weight reads the units, the value itself
is what has to be reconstructed.
"""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.consumers import problems, problems_one_by_one, unseen
from onnxprune.criteria.curvature import Problem, costs_alone, joint_order, order_alone, too_many
from onnxprune.criteria.spec import Scoring, criterion
from onnxprune.evidence.sites import sites

LASSO_STEPS = 20  # penalties, each 0.6 of the one before
LASSO_FACTOR = 0.6
LASSO_TOLERANCE = 1e-4  # change of a coefficient, of which all are one without a penalty
LASSO_SWEEPS = 10


def _needed(group: Group, context: Scoring, centred: bool) -> list[Problem]:
    return problems(group, context, context.evidence["gram"], centred)


@criterion("reconstruction", needs=("gram",), normaliser="none")
def reconstruction(group: Group, context: Scoring) -> np.ndarray:
    """Output energy a unit's fluctuation carries, tr(W_u S_uu W_u^T) / tr(W S W^T), S the covariance of the inputs."""
    found = _needed(group, context, centred=True)
    return contributions(found).diagonal()[None] if found else unseen(group, context)


@criterion("obs", needs=("gram",), normaliser="none")
def obs(group: Group, context: Scoring) -> np.ndarray:
    """Output error once a unit and all that go before it are gone and the rest is refitted: layer-wise group OBS.

    Hassibi & Stork 1993, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", eq. 5, for blocks of
    inputs, with the consumer's input covariance as Hessian; one at a time as in Kurtic et al. 2023, "ZipLM", section 3. Of
    consumers that memory does not hold at once: what a unit costs if it alone goes.
    """
    read = sites(context.analysis)[group.index]
    if len(read) > 1 and too_many(site.inputs for site in read):
        return order_alone(costs_alone(problems_one_by_one(group, context, context.evidence["gram"]))).scores[None]
    found = _needed(group, context, centred=True)
    if not found:
        return unseen(group, context)
    return joint_order(found).scores[None]


@criterion("thinet", needs=("gram",), normaliser="none")
def thinet(group: Group, context: Scoring) -> np.ndarray:
    """Turn at which the greedy subset with the smallest summed output takes a unit in.

    Luo et al. 2017, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", eq. 6, over all
    outputs and positions at once: |sum_{u in T} W_u h_u|^2 is a sum of entries of the units' Gram matrix.
    """
    found = _needed(group, context, centred=False)
    return _ranked(smallest_subsets(contributions(found))) if found else unseen(group, context)


@criterion("lasso", needs=("gram",), normaliser="none")
def lasso(group: Group, context: Scoring) -> np.ndarray:
    """Order in which a growing L1 penalty drops units from the output (He et al. 2017, "Channel Pruning", eq. 2).

    min_beta |sum_u (1 - beta_u) W_u h_u|^2 / 2 + lambda |beta|_1, by coordinate descent on the units' Gram matrix.
    """
    found = _needed(group, context, centred=False)
    return _ranked(dropped_order(contributions(found))) if found else unseen(group, context)


def contributions(found: list[Problem]) -> np.ndarray:
    """Return float64[units, units]: E <W_u h_u, W_v h_v>, summed over consumers by their scale."""
    total = np.zeros((len(found[0].blocks),) * 2)
    for gram, weight, blocks, scale in found:
        inputs = blocks.reshape(-1)
        columns = weight[:, inputs]
        products = (columns.T @ columns) * gram[np.ix_(inputs, inputs)]
        total += scale * products.reshape(len(blocks), blocks.shape[1], len(blocks), -1).sum(axis=(1, 3))
    return total


def _ranked(order: np.ndarray) -> np.ndarray:
    """Return float64[1, units] in (0, 1]: the place in the order, first to go lowest."""
    scores = np.empty(len(order))
    scores[order] = np.arange(1, len(order) + 1) / len(order)
    return scores[None]


def smallest_subsets(gram: np.ndarray) -> np.ndarray:
    """Return the greedy order in which units join the set T with the smallest sum of ``gram`` over T x T."""
    increase = gram.diagonal().copy()
    order: list[int] = []
    for _ in range(len(gram)):
        unit = int(np.argmin(increase))
        order.append(unit)
        increase += 2 * gram[unit]
        increase[unit] = np.inf
    return np.array(order, np.int64)


def dropped_order(gram: np.ndarray) -> np.ndarray:
    """Return units by the penalty up to which they hold, smallest first; ties by |beta| at the smallest penalty."""
    target = gram.sum(axis=1)
    largest = float(np.abs(target).max())
    holds = np.zeros(len(gram))
    beta = np.zeros(len(gram))
    for penalty in largest * LASSO_FACTOR ** np.arange(1, LASSO_STEPS + 1):
        beta = lasso_solution(gram, target, penalty, beta)
        holds = np.where((beta != 0) & (holds == 0), penalty, holds)
    return np.lexsort((np.abs(beta), holds))


def lasso_solution(gram: np.ndarray, target: np.ndarray, penalty: float, start: np.ndarray) -> np.ndarray:
    """Return argmin_b b^T gram b / 2 - target^T b + penalty |b|_1 by coordinate descent."""
    beta, power = start.copy(), gram.diagonal()
    gradient = gram @ beta - target
    active = np.flatnonzero(power > 0)
    for _ in range(LASSO_SWEEPS):
        largest = 0.0
        for unit in active:
            pull = power[unit] * beta[unit] - gradient[unit]
            new = np.sign(pull) * max(abs(pull) - penalty, 0.0) / power[unit]
            if new != beta[unit]:
                gradient += gram[unit] * (new - beta[unit])
                largest = max(largest, abs(new - beta[unit]))
                beta[unit] = new
        if largest < LASSO_TOLERANCE:
            break
    return beta
