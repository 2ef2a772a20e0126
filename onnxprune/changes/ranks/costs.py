"""What a layer costs in each form that its factors can take, and a model with some of its layers so written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.changes.ranks.layers import Layer

Count = int | np.ndarray


class Form(NamedTuple):
    """Which factors stand beside the layer; ``weights``: (layer, input directions, rank) -> (elements, positions) of each.

    ``splits``: whether the factors share the kernel's window, a column of it each and then a row.
    """

    before: bool
    after: bool
    weights: Callable[[Layer, Count, Count], tuple[tuple[Count, int], ...]]
    splits: bool = False


FORMS: dict[str, Form] = {
    "in": Form(True, False, lambda e, q, p: ((e.inputs * q, e.read), (q * e.outputs * e.taps, e.made))),
    "out": Form(False, True, lambda e, q, p: ((e.inputs * p * e.taps, e.made), (p * e.outputs, e.made))),
    "both": Form(
        True, True, lambda e, q, p: ((e.inputs * q, e.read), (q * p * e.taps, e.made), (p * e.outputs, e.made))
    ),
    "split": Form(
        False, True,
        lambda e, q, p: ((e.inputs * e.kernel[0] * p, e.between), (p * e.kernel[1] * e.outputs, e.made)), True,
    ),
    "rows": Form(False, True, lambda e, q, p: ((e.inputs * p, e.read), (p * e.outputs, e.made + e.read))),
}  # fmt: skip
"""Where all directions of one side stay, the factor on that side is left out. ``p``, ``q`` may be arrays.

``rows`` is a narrower table and a product; ``out`` is the channel form, ``both`` the Tucker form, ``split`` the spatial form of Jaderberg et al. 2014 ("Speeding up
Convolutional Neural Networks with Low Rank Expansions", section 2.1, scheme 2).
"""


def forms(layer: Layer) -> tuple[str, ...]:
    """Return the forms that make sense: a layer without a window becomes two factors."""
    if layer.looked_up:
        return ("rows",)
    if not layer.slides:
        return ("out",)
    return ("in", "out", "both", "split") if layer.between else ("in", "out", "both")


def most_ranks(layer: Layer, form: str) -> int:
    """Return the rank at which a form can be any weight of the layer."""
    if FORMS[form].splits:
        return min(layer.inputs * layer.kernel[0], layer.outputs * layer.kernel[1])
    return layer.outputs


def cost(layer: Layer, form: str, inputs: Count, rank: Count, kind: str) -> np.ndarray:
    """Return the layer's parameters, macs (of one run) or bytes in a form, ``inputs`` and ``rank`` being numbers of directions.

    The form "" is the layer as it was.
    """
    parts = (
        FORMS[form].weights(layer, inputs, rank)
        if form
        else ((layer.parameters, layer.read if layer.looked_up else layer.made),)
    )
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
