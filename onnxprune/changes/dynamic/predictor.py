"""The small predictor behind a gate: from what it looks at to the damage that the fast pass does to a sample.

It learns by distillation: the target is how far the fast pass's outputs are from the original's, sample by sample, so that no labels
are needed; the logarithm of that, as damages differ by orders of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxprune.changes.dynamic.joining import Joining

HIDDEN, EPOCHS, ROWS, RATE, DECAY = 16, 60, 32, 3e-3, 1e-2
"""Neurons in between, and how they are trained: Adam with decoupled decay (Loshchilov and Hutter 2019, algorithm 2)."""
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
FOLDS, LEAST_ROWS = 4, 16
FLOOR = 1e-3  # of the mean damage: differences below it do not matter


@dataclass(frozen=True)
class GatePredictor:
    """float32: ``inner`` [features, hidden] and ``shift`` [hidden], a ReLU, ``outer`` [hidden, 1] and ``end`` [1]."""

    inner: np.ndarray
    shift: np.ndarray
    outer: np.ndarray
    end: np.ndarray

    @classmethod
    def fitted(cls, features: np.ndarray, damage: np.ndarray, seed: int) -> Self:
        """Learn the logarithm of ``damage``, float64[rows], from ``features``, float32[rows, features]."""
        x, known = features.astype(np.float64), np.minimum(damage, np.finfo(np.float32).max)
        mean, scale = x.mean(0), x.std(0)
        scale = np.where(scale > 1e-6 * np.abs(mean) + 1e-12, scale, np.inf)
        target = np.log(known + max(FLOOR * float(known.mean()), 1e-30))
        spread = float(target.std()) or 1.0
        inner, shift, outer, end = _trained((x - mean) / scale, (target - target.mean()) / spread, seed)
        inner = inner / scale[:, None]
        arrays = (inner, shift - mean @ inner, outer, end)
        return cls(*(array.astype(np.float32) for array in arrays))

    @classmethod
    def judged(cls, features: np.ndarray, damage: np.ndarray, seed: int) -> np.ndarray:
        """Return float32[rows], scores as unseen rows have them: every row's by a predictor that learned from other rows."""
        rows = len(damage)
        if rows < LEAST_ROWS:
            return cls.fitted(features, damage, seed).scores(features)
        part = np.random.default_rng(seed).permutation(rows) % FOLDS
        scores = np.zeros(rows, np.float32)
        for fold in range(FOLDS):
            out = part == fold
            scores[out] = cls.fitted(features[~out], damage[~out], seed).scores(features[out])
        return scores

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return float32[rows]: the higher, the more the fast pass damages a sample."""
        return (np.maximum(features @ self.inner + self.shift, 0) @ self.outer + self.end)[:, 0]

    def written(self, features: str, into: Joining) -> str:
        """Add its nodes and return the name of the scores, float32[samples, 1]."""
        first = [into.store("gate_inner", self.inner), into.store("gate_shift", self.shift)]
        last = [into.store("gate_outer", self.outer), into.store("gate_end", self.end)]
        hidden = into.add("Gemm", [features, *first], "gate_hidden")
        return into.add("Gemm", [into.add("Relu", [hidden], "gate_active"), *last], "gate_score")


def _trained(x: np.ndarray, target: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return inner, shift, outer, end as float64 of least squared error, for standardised features and targets."""
    random, count = np.random.default_rng(seed), x.shape[1]
    held = [
        random.standard_normal((count, HIDDEN)) * np.sqrt(1 / count), np.zeros(HIDDEN),
        random.standard_normal((HIDDEN, 1)) * np.sqrt(1 / HIDDEN), np.zeros(1),
    ]  # fmt: skip
    means, squares = ([np.zeros_like(one) for one in held] for _ in range(2))
    steps = EPOCHS * -(-len(x) // ROWS)
    done = 0
    for _ in range(EPOCHS):
        order = random.permutation(len(x))
        for start in range(0, len(x), ROWS):
            rows = order[start : start + ROWS]
            done += 1
            rate = RATE * (1 - (done - 1) / steps)
            for number, slope in enumerate(_slopes(held, x[rows], target[rows])):
                means[number] = FIRST * means[number] + (1 - FIRST) * slope
                squares[number] = SECOND * squares[number] + (1 - SECOND) * slope**2
                step = means[number] / (1 - FIRST**done) / (np.sqrt(squares[number] / (1 - SECOND**done)) + TINY)
                held[number] = held[number] - rate * (step + DECAY * held[number])
    return held


def _slopes(held: list[np.ndarray], x: np.ndarray, target: np.ndarray) -> list[np.ndarray]:
    """Return the gradients of half the mean squared error."""
    inner, shift, outer, end = held
    hidden = x @ inner + shift
    active = np.maximum(hidden, 0)
    error = (active @ outer + end - target[:, None]) / len(x)
    back = (error @ outer.T) * (hidden > 0)
    return [x.T @ back, back.sum(0), active.T @ error, error.sum(0)]
