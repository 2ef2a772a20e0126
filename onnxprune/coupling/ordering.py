"""Positions in another order: what every stored tensor becomes when the units or components on its axes change places."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.model.model import Model

Labels = Callable[[str, int], np.ndarray]
"""(stored tensor, axis) -> int64[size]: what stands at each position (-1: nothing that moves)."""


def moves(labels: np.ndarray, source: np.ndarray) -> np.ndarray | None:
    """Return int64[size]: the old position of what comes to each position, None where all stay.

    ``source``: int64[labels]: the label that comes in place of each. Positions of one label keep their order. Raises ValueError
    where the axis holds some of the labels that change places only, or one of them more often.
    """
    wanted = np.where(labels < 0, labels, source[labels])
    if np.array_equal(wanted, labels):
        return None
    old, new = np.argsort(labels, kind="stable"), np.argsort(wanted, kind="stable")
    if not np.array_equal(labels[old], wanted[new]):
        raise ValueError("an axis holds some of the channels only, or one of them more often")
    found = np.empty(len(labels), np.int64)
    found[new] = old
    return found


def moved_tensors(model: Model, labels: Labels, source: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the stored tensors that change, each along all of its axes; raises ValueError as ``moves`` does."""
    arrays = {}
    for name, tensor in model.weights.items():
        axes = {axis: moves(labels(name, axis), source) for axis in range(len(tensor.shape))}
        places = {axis: place for axis, place in axes.items() if place is not None}
        if places:
            array = tensor.read()
            for axis, place in places.items():
                array = np.take(array, place, axis)
            arrays[name] = array
    return arrays


def with_tensors(model: Model, arrays: Mapping[str, np.ndarray]) -> Model:
    """Return the model with other content in some stored tensors, described as before."""
    result = model.replaced(arrays)
    for old, header in zip(model.structure.graph.initializer, result.structure.graph.initializer, strict=True):
        if header.name in arrays:
            header.doc_string = old.doc_string
    return result
