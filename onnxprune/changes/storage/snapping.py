"""Tensors snapped to the numbers of a table each, and what is left of the layers taken up by their biases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.storage.choose import candidates, stays
from onnxprune.changes.storage.codebook import fitted_table, to_table
from onnxprune.changes.storage.rounding import Rounded, distance


@dataclass(frozen=True)
class Snapped:
    """``arrays``: tensor -> its numbers, each of a table; ``shifts``: tensor -> the bias that makes up for it, and its numbers."""

    arrays: Mapping[str, np.ndarray]
    shifts: Mapping[str, tuple[str, np.ndarray]]

    def rounded(self, name: str, array: np.ndarray) -> Rounded:
        found = self.arrays.get(name)
        return Rounded(array, 0.0) if found is None else Rounded(found, distance(array, found))

    def others(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Return the content of the biases that go with these tensors."""
        return dict(self.shifts[name] for name in names if name in self.shifts)


def snapped(context: Context, colours: int) -> Snapped:
    """Return every float tensor of two axes or more snapped to at most ``colours`` numbers."""
    facts, arrays = context.facts, dict[str, np.ndarray]()
    for name in candidates(facts):
        array = np.asarray(facts.content(name))
        if stays(facts, name) or not np.isfinite(array).all():
            continue
        arrays[name] = to_table(array, fitted_table(array, colours))
    return Snapped(arrays, {})
