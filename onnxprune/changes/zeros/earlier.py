"""Weights as they were earlier in training (``--rewind``): what they say of those that stay, and what the result starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.context import Context
from onnxprune.changes.units.steps import same_network
from onnxprune.coupling.streams.widening import without_identities
from onnxprune.errors import UsageError
from onnxprune.model.model import Model


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
