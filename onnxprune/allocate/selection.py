"""Which units of given widths stay where groups choose one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.allocate.policies import keep_best
from onnxprune.coupling.groups import Analysis
from onnxprune.criteria import Criterion, score_group
from onnxprune.means import Means
from onnxprune.registry import Registry

Select = Callable[[Analysis, Criterion, Sequence[np.ndarray], Means], list[np.ndarray]]

SELECTIONS: Registry[Select] = Registry("selection")
"""(analysis, criterion, decision by independent scores, means) -> bool[width] per group, as many units staying."""


@SELECTIONS.register("independent")
def independent(analysis: Analysis, criterion: Criterion, kept: Sequence[np.ndarray], means: Means) -> list[np.ndarray]:
    """Every group is judged on the whole model."""
    return list(kept)


@SELECTIONS.register("greedy")
def greedy(analysis: Analysis, criterion: Criterion, kept: Sequence[np.ndarray], means: Means) -> list[np.ndarray]:
    """Groups are judged in the model's order, without the weights that meet units which are gone already.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.3, where the other way is called independent.
    """
    found = [np.ones(group.width, bool) for group in analysis.groups]
    for group, mask in zip(analysis.groups, kept, strict=True):
        if not mask.all():
            scores = score_group(analysis, criterion, group, [~m for m in found], means)
            found[group.index] = keep_best(scores, int(mask.sum()))
    return found
