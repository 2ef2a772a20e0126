"""Criteria that look at the weights alone."""

from __future__ import annotations

import numpy as np

from onnxprune.coupling.groups import Group, Member
from onnxprune.coupling.spec import RULES
from onnxprune.criteria.spec import Scoring, criterion
from onnxprune.criteria.tensors import WeightReader, unit_positions

ROWS = 1 << 22  # distances held at a time


def _norms(group: Group, context: Scoring, order: float) -> np.ndarray:
    """Return float64[members, width]."""
    return np.array(
        [context.weights.norms(m.parameter, m.axis, m.units, group.width, order) for m in context.members(group)]
    )


@criterion("l1")
def l1(group: Group, context: Scoring) -> np.ndarray:
    """Sum of absolute weights, sum_i |w_i| (Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1)."""
    return _norms(group, context, 1)


@criterion("l2")
def l2(group: Group, context: Scoring) -> np.ndarray:
    """Euclidean norm of the weights, sqrt(sum_i w_i^2) (He et al. 2018, "Soft Filter Pruning", section 3.2, p = 2)."""
    return _norms(group, context, 2)


@criterion("linf")
def linf(group: Group, context: Scoring) -> np.ndarray:
    """Largest absolute weight, max_i |w_i|: the p -> inf limit of l1 and l2."""
    return _norms(group, context, np.inf)


@criterion("lamp", normaliser="none")
def lamp(group: Group, context: Scoring) -> np.ndarray:
    """Energy over the energy of all units at least as strong, e_u / sum_{e_v >= e_u} e_v, comparable between groups.

    Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", eq. 1, with a unit's energy
    e_u = sum_i w_i^2 over all its members in place of one squared weight; of equals the lower unit counts as stronger.
    """
    energy = np.square(_norms(group, context, 2)).sum(axis=0)
    finite = np.where(np.isfinite(energy), energy, 0.0)
    return np.where(np.isfinite(energy), share_of_stronger(finite), np.inf)[None]


def share_of_stronger(energy: np.ndarray) -> np.ndarray:
    """Return float64[n]: each energy over the sum of all that are at least as large; of equals the first counts as larger."""
    order = np.argsort(-energy, kind="stable")
    above = np.empty_like(energy)
    above[order] = np.cumsum(energy[order])
    return np.divide(energy, above, out=np.zeros_like(energy), where=above > 0)


@criterion("fpgm")
def fpgm(group: Group, context: Scoring) -> np.ndarray:
    """Sum of distances to all other units, sum_v ||w_u - w_v||: small near the geometric median: redundant.

    He et al. 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration".
    """
    return np.array([_distances(group, member, context.weights) for member in context.members(group)])


def _distances(group: Group, member: Member, weights: WeightReader) -> np.ndarray:
    """Return float64[width]: summed distances from each unit's weights to the others', inf where not finite."""
    where = unit_positions(group, member.units)
    finite = np.isfinite(weights.norms(member.parameter, member.axis, member.units, group.width, 1))
    result = np.full(group.width, np.inf)
    step = max(1, ROWS // group.width)
    for start in range(0, group.width, step):
        rows = np.arange(start, min(start + step, group.width))
        square = np.zeros((len(rows), group.width))
        for block in weights.blocks(member.parameter, whole=member.axis):
            slices = np.moveaxis(block.content, member.axis, 0).reshape(len(member.units), -1)
            for place in where.T:
                units = np.where(finite[:, None], slices[place], 0.0)
                energy = np.einsum("ij,ij->i", units, units)
                square += energy[rows, None] + energy - 2 * (units[rows] @ units.T)
        square[np.arange(len(rows)), rows] = 0.0
        distance = np.sqrt(np.maximum(square, 0.0))[:, finite].sum(axis=1)
        result[rows] = np.where(finite[rows], distance, np.inf)
    return result


@criterion("bn-scale")
def bn_scale(group: Group, context: Scoring) -> np.ndarray:
    """Absolute scale of the normalisation that follows, |gamma|; groups without one are scored by l2, with a warning.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", eq. 1.
    """
    scales = [member for member in context.in_roles(group, ("scales",)) if _is_normalisation_scale(member)]
    if not scales:
        context.note("no normalisation scale (folded away?), scored by l2 instead of bn-scale", group)
        return l2(group, context)
    return np.array([context.weights.norms(m.parameter, m.axis, m.units, group.width, 1) for m in scales])


def _is_normalisation_scale(member: Member) -> bool:
    rule = RULES.get(member.node.op)
    normalises = rule is not None and rule.family in ("per-channel", "normalisation")
    return normalises and member.node.input(1) == member.parameter


@criterion("random", normaliser="none")
def random(group: Group, context: Scoring) -> np.ndarray:
    """Uniform numbers in [0, 1) from the seed and the group's number: the baseline every criterion has to beat."""
    return np.random.default_rng([context.seed, group.index]).random((1, group.width))
