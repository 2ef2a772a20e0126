"""What a layer costs in each form that its factors can take, and a model with some of its layers so written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.changes.ranks.layers import Layer

Count = int | np.ndarray


class Form(NamedTuple):
    """Which factors stand beside the layer; ``weights``: (layer, input directions, rank) -> (elements, positions) of each."""

    before: bool
    after: bool
    weights: Callable[[Layer, Count, Count], tuple[tuple[Count, int], ...]]


FORMS: dict[str, Form] = {
    "in": Form(True, False, lambda e, q, p: ((e.inputs * q, e.read), (q * e.outputs * e.taps, e.made))),
    "out": Form(False, True, lambda e, q, p: ((e.inputs * p * e.taps, e.made), (p * e.outputs, e.made))),
    "both": Form(
        True, True, lambda e, q, p: ((e.inputs * q, e.read), (q * p * e.taps, e.made), (p * e.outputs, e.made))
    ),
}
"""Where all directions of one side stay, the factor on that side is left out. ``p``, ``q`` may be arrays."""


def forms(layer: Layer) -> tuple[str, ...]:
    """Return the forms that make sense: a layer without a window becomes two factors."""
    return ("in", "out", "both") if layer.slides else ("out",)


def cost(layer: Layer, form: str, inputs: Count, rank: Count, kind: str) -> np.ndarray:
    """Return the layer's parameters, macs (of one run) or bytes in a form, ``inputs`` and ``rank`` being numbers of directions.

    The form "" is the layer as it was.
    """
    parts = FORMS[form].weights(layer, inputs, rank) if form else ((layer.parameters, layer.made),)
    weigh = {"macs": lambda n, positions: n * positions, "bytes": lambda n, _: n * layer.itemsize}
    count = weigh.get(kind, lambda n, _: n)
    return sum((count(n, positions) for n, positions in parts), np.asarray(0))


KINDS = ("parameters", "macs", "bytes")


def factored_totals(whole: dict[str, int], written: Sequence[tuple[Layer, str, int, int]]) -> dict[str, int]:
    """Return the totals of a model of which some layers take (layer, form, input directions, rank)."""
    return {
        kind: whole[kind] + sum(int(cost(e, form, q, p, kind) - cost(e, "", q, p, kind)) for e, form, q, p in written)
        for kind in KINDS
    }
