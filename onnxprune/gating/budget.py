"""What open gates cost, and how gates keep to a budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.allocate import Costs, Target
from onnxprune.allocate.target import KINDS
from onnxprune.coupling.groups import Analysis

HALVINGS = 30  # of the multiplier
FARTHEST = 1e3  # multiplier beyond which a budget is taken to be out of reach


class Budget:
    """A target as a share of what the whole model costs: MACs, parameters, bytes, measured latency, or units where it is a ratio."""

    def __init__(self, analysis: Analysis, aim: Target):
        self.costs, self.widths = Costs(analysis), analysis.widths
        self.kind = None if aim.kind == "ratio" else KINDS[aim.kind]
        self.whole = max(float(self._cost(self.widths)), 1e-30)
        self.limit = 1 - aim.value if self.kind is None else aim.budget(self.whole) / self.whole

    def spent(self, widths: np.ndarray) -> float:
        """Return the cost of float64[groups] widths as a share of the whole, between whole widths on a line."""
        low = np.clip(np.floor(widths).astype(np.int64), 0, self.widths)
        rest = widths - low
        return (float(self._cost(low)) + float(self._steps(low) @ rest)) / self.whole

    def slopes(self, widths: np.ndarray) -> np.ndarray:
        """Return float64[groups]: what one unit more of each group costs, as a share of the whole, their mean over all units one."""
        found = np.maximum(self._steps(np.clip(np.rint(widths).astype(np.int64), 0, self.widths)), 0.0)
        mean = float((found * self.widths).sum() / max(self.widths.sum(), 1))
        return found / mean if mean > 0 else np.ones(len(found))

    def _steps(self, low: np.ndarray) -> np.ndarray:
        """Return float64[groups]: the cost of one unit more of each group, of one less where it is whole."""
        signs = np.where(low < self.widths, 1, -1)
        trials = np.repeat(low[:, None], len(low), axis=1)
        trials[np.arange(len(low)), np.arange(len(low))] += signs
        return signs * (np.asarray(self._cost(trials), np.float64) - float(self._cost(low)))

    def _cost(self, widths: np.ndarray) -> np.ndarray:
        return widths.sum(axis=0) if self.kind is None else self.costs.total(self.kind, widths)


def least_multiplier(spent: Callable[[float], float], allowed: float) -> float:
    """Return the smallest number at or above zero at which no more than ``allowed`` is spent, which falls as it grows.

    It is the multiplier of the budget in a projection on what keeps to it; as large as is looked for where none does.
    """
    if spent(0.0) <= allowed:
        return 0.0
    low, high = 0.0, 1e-3
    while spent(high) > allowed and high < FARTHEST:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= allowed else (middle, high)
    return high
