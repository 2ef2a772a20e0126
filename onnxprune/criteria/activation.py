"""Criteria that look at what consumers read: activations after their non-linearity, alone or times the reading weights.

A group's consumers are the places where a node uses its units up (a convolution's or product's inputs). Several
consumers give one row each. Where no stored weight reads the units (queries times keys), it counts as the identity.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.consumers import Consumer, by_unit, consumers, mean_by_unit, unseen
from onnxprune.criteria.spec import Scoring, criterion
from onnxprune.evidence.sites import sites
from onnxprune.evidence.stats import Moments


def _statistics(group: Group, context: Scoring, kind: str, channel: Callable[..., np.ndarray]) -> np.ndarray:
    """Return float64[sites, width]: a per-channel number, averaged over each unit's channels."""
    there = sites(context.analysis)[group.index]
    evidence = context.evidence[kind]
    rows = [mean_by_unit(channel(evidence[site.need(kind)]), site, group.width) for site in there]
    return np.array(rows) if rows else unseen(group, context)


@criterion("activation-mean", needs=("moments",))
def activation_mean(group: Group, context: Scoring) -> np.ndarray:
    """Absolute mean of the activation, |E a|.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", section 2.2.
    """
    return _statistics(group, context, "moments", lambda moments: np.abs(moments.mean))


@criterion("activation-rms", needs=("moments",))
def activation_rms(group: Group, context: Scoring) -> np.ndarray:
    """Root mean square of the activation, sqrt(E a^2)."""
    return _statistics(group, context, "moments", lambda moments: np.sqrt(moments.power))


@criterion("activation-variance", needs=("moments",))
def activation_variance(group: Group, context: Scoring) -> np.ndarray:
    """Variance of the activation, E (a - E a)^2: what folding the mean into a bias leaves."""
    return _statistics(group, context, "moments", lambda moments: moments.variance)


@criterion("apoz", needs=("range",))
def apoz(group: Group, context: Scoring) -> np.ndarray:
    """Share of activations that are not zero, 1 - APoZ (Hu et al. 2016, "Network Trimming", eq. 1)."""
    return _statistics(group, context, "range", lambda found: 1.0 - found.zero_share)


@criterion("entropy", needs=("histogram",))
def entropy(group: Group, context: Scoring) -> np.ndarray:
    """Entropy of each sample's mean activation in 100 bins, -sum p log p.

    Luo & Wu 2017, "An Entropy-based Pruning Method for CNN Compression".
    """
    return _statistics(group, context, "histogram", lambda found: found.entropy)


@criterion("hrank", needs=("ranks",))
def hrank(group: Group, context: Scoring) -> np.ndarray:
    """Mean rank of the feature maps; of vectors the share that is not zero.

    Lin et al. 2020, "HRank: Filter Pruning using High-Rank Feature Map".
    """
    return _statistics(group, context, "ranks", lambda found: found.mean)


def _weighed(group: Group, context: Scoring, score: Callable[[Moments, Consumer], np.ndarray]) -> np.ndarray:
    """Return float64[consumers, width]: ``score`` per channel, summed; rows share a scale where there are several."""
    evidence = context.evidence["moments"]
    found = consumers(group, context)
    rows = [by_unit(score(evidence[c.site.need("moments")], c), c.site, group.width) for c in found]
    if not rows:
        return unseen(group, context)
    scale = [row.mean() if len(rows) > 1 and row.any() else 1.0 for row in rows]
    return np.array(rows) / np.array(scale)[:, None]


@criterion("wanda", needs=("moments",))
def wanda(group: Group, context: Scoring) -> np.ndarray:
    """Weights times input norms, sum_i |W_ij| rms(x_j), summed over the unit (Sun et al. 2024, "Wanda", eq. 1).

    The norm over all tokens is the root mean square up to a factor common to the group.
    """
    return _weighed(group, context, lambda moments, consumer: np.sqrt(moments.power) * consumer.gain)


@criterion("flap", needs=("moments",))
def flap(group: Group, context: Scoring) -> np.ndarray:
    """Fluctuation, Var(x_j) |W_:j|^2, summed over the unit: what a bias cannot replace.

    An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", eq. 5.
    """
    return _weighed(group, context, lambda moments, consumer: moments.variance * consumer.energy)
