"""Weights as they were earlier in training (``--rewind``): what they say of those that stay, and what the result starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.context import Context
from onnxprune.changes.units.choose import same_network
from onnxprune.changes.units.steps import jaccard
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.changes.zeros.patterns import Pattern
from onnxprune.changes.zeros.scores import SCORES
from onnxprune.coupling.streams.widening import without_identities
from onnxprune.errors import UsageError
from onnxprune.model.model import Model

Content = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class TravelScore:
    """``of``: (weights, earlier weights), both float64[groups, o, d] -> scores like them."""

    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    about: str


TRAVEL_SCORES: dict[str, TravelScore] = {
    "magnitude-increase": TravelScore(
        lambda now, then: np.abs(now) - np.abs(then),
        "how much larger it is than it was (Zhou et al. 2019, Deconstructing Lottery Tickets, section 3)",
    ),
    "movement": TravelScore(
        lambda now, then: now * (now - then),
        "how far it went away from zero: the sum of -w dL/dw of one long step (Sanh et al. 2020, Movement Pruning, equation 3)",
    ),
}


def earlier_model(context: Context) -> Model:
    """Return the model to rewind to, in the form that is analysed; raises UsageError where there is none, or of another network."""
    if context.rewind is None:
        raise UsageError(
            f"criterion {context.settings.criterion} compares weights with earlier ones; give these (--rewind EARLY.onnx)"
        )
    found = same_network(context.analysis, analyse_model(context.rewind, context.settings), context.rewind).facts.model
    return without_identities(found, found.widened)


def likeness(
    layers: Sequence[WeightLayer],
    masks: Mapping[str, np.ndarray],
    pattern: Pattern,
    shares: Mapping[str, float],
    contents: tuple[Content, Content],
) -> dict[str, dict[str, float]]:
    """Compare which weights are zero with which would be by the size of the earlier weights, and of the trained ones: ``contents`` of both.

    Jaccard index of the two sets of zeros, as many in every layer, and what it would be for random ones.
    """
    found = {}
    for name, content in zip(("with_rewind", "with_magnitude"), contents, strict=True):
        together = chance = total = 0.0
        for layer in layers:
            gone = ~masks[layer.name]
            other = ~pattern.kept(SCORES["l1"].of(layer.matrix(content(layer.name)), None), shares[layer.name])
            together += float((gone & other).sum())
            chance += float(gone.sum()) * float(other.sum()) / max(gone.size, 1)
            total += float(gone.sum() + other.sum())
        found[name] = {"jaccard": jaccard(together, total), "chance": jaccard(chance, total)}
    return found
