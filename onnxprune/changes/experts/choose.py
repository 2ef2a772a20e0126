"""From scores and a target to the experts that go; of every layer as many stay as are picked for a token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice

import numpy as np

from onnxprune.allocate import Options, Target
from onnxprune.allocate.target import KINDS
from onnxprune.changes.experts.find import Expert, ExpertLayer
from onnxprune.errors import TargetError

Left = Callable[[Sequence[Expert]], float]
"""What is left of a cost without some experts."""


def places_to_go(layers: Sequence[ExpertLayer], able: Sequence[Expert], options: Options) -> dict[ExpertLayer, int]:
    """Return how many experts of each layer may go."""
    counts = Counter(expert.layer for expert in able)
    found = {}
    for layer in layers:
        most = math.floor(options.max_layer_ratio * layer.width + 1e-9)
        found[layer] = max(0, min(counts[layer], most, layer.width - max(layer.fewest, options.minimum)))
    return found


def in_order(able: Sequence[Expert], scores: np.ndarray, spaces: dict[ExpertLayer, int], evenly: bool) -> list[Expert]:
    """Return the experts that may go, the first to go first: the least of all, or (``evenly``) of every layer in turn.

    ``scores``: float64[able]. Ties go by place.
    """
    by_layer: dict[ExpertLayer, list[int]] = {layer: [] for layer in spaces}
    for number in np.argsort(scores, kind="stable").tolist():
        by_layer[able[number].layer].append(number)
    allowed = [(n, rank, layer) for layer, own in by_layer.items() for rank, n in enumerate(own[: spaces[layer]])]
    if evenly:
        allowed.sort(key=lambda entry: ((entry[1] + 1) / entry[2].width, scores[entry[0]], entry[0]))
    else:
        allowed.sort(key=lambda entry: (scores[entry[0]], entry[0]))
    return [able[number] for number, _, _ in allowed]


class ExpertOrder(Iterable[Expert]):
    """Experts one after the other, worked out as far as anyone has looked."""

    def __init__(self, source: Iterable[Expert]):
        self._known, self._source = list[Expert](), iter(source)

    def __iter__(self) -> Iterator[Expert]:
        for place in count():
            if place == len(self._known):
                self._known += islice(self._source, 1)
            if place == len(self._known):
                return
            yield self._known[place]


def least_share(order: Iterable[Expert], layers: Sequence[ExpertLayer], ratio: float, evenly: bool) -> list[Expert]:
    """Return the share ``ratio`` of all experts, or of those of each layer, as far as they may go."""
    if not evenly:
        return list(islice(order, max(1, math.floor(ratio * sum(layer.width for layer in layers) + 0.5))))
    quota = {layer: math.floor(ratio * layer.width + 0.5) for layer in layers}
    found, ranked = [], list(order)
    for expert in ranked:
        if quota[expert.layer] > 0:
            quota[expert.layer] -= 1
            found.append(expert)
    return found or ranked[:1]


def by_budget(order: Iterable[Expert], target: Target, left: Left) -> list[Expert]:
    """Return the fewest of the first experts without which the budget holds; raises TargetError where that takes more."""
    whole, taken, source = left(()), list[Expert](), iter(order)
    limit = target.budget(whole)
    while not taken or left(taken) > limit:
        more = list(islice(source, max(1, len(taken))))
        if not more:
            share = left(taken) / max(whole, 1)
            raise TargetError(
                f"--target {target} is out of reach: without every expert that can go {share:.1%} of the {KINDS[target.kind]} are left; "
                "ask for less, or mix in another granularity",
                left(taken),
            )
        taken += more
    low, high = 1, len(taken)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if left(taken[:middle]) <= limit else (middle + 1, high)
    return taken[:low]
