"""Experts in the order in which they go when each is judged given those that went before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from onnxprune.changes.experts.find import Expert, ExpertLayer, Mixtures
from onnxprune.changes.experts.surgery import masked
from onnxprune.data import Dataset
from onnxprune.evidence.ablation import SwitchedVariants
from onnxprune.means import Means
from onnxprune.measure.divergence import opened
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.outputs import Outputs

Lost = Callable[[Sequence[Sequence[Expert]]], np.ndarray]
"""What is lost without several experts, for each of several such sets."""


def losses(mixtures: Mixtures, kind: str, dataset: Dataset, means: Means, outputs: Outputs | None) -> Lost:
    """Return what the outputs lose where no token is sent to experts: a run of the model over ``dataset`` for each set of them."""
    model = mixtures.facts.model
    original = opened(model, outputs, means)
    how = outputs or outputs_like([original.run(next(dataset.batches(means.batch)))])
    switched = SwitchedVariants(model, masked(mixtures, (), everywhere=True), original, (kind,), how, means)
    return lambda sets: switched.effects((masked(mixtures, gone, everywhere=True) for gone in sets), dataset)[0]


def one_after_the_other(
    able: Sequence[Expert], alone: np.ndarray, spaces: Mapping[ExpertLayer, int], lost: Lost
) -> Iterator[Expert]:
    """Yield experts, the one without which least is lost next, as far as their layers have room (``spaces``).

    ``alone``: float64[able], what is lost without each alone. The first in the queue is judged again given those that went, until it
    stays the first (lazy greedy, Minoux 1978). Ties go by place.
    """
    gone, counts, before = list[Expert](), Counter[ExpertLayer](), 0.0
    queue = [(float(score), number, 0) for number, score in enumerate(alone)]
    heapify(queue)
    while queue:
        score, number, judged = heappop(queue)
        expert = able[number]
        if counts[expert.layer] >= spaces[expert.layer]:
            continue
        if judged < len(gone):
            together = float(lost([[*gone, expert]])[0])
            heappush(queue, (together - before, number, len(gone)))
            continue
        before += score
        gone.append(expert)
        counts[expert.layer] += 1
        yield expert
