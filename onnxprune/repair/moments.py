"""The one solver: a linear node's best weights from second moments of its rows alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg


@dataclass
class Moments:
    """Mergeable sums over rows: products in float32, sums in float64.

    ``gram``: float64[groups, d, d]; ``cross``: [groups, d, o]; ``sum_x``: [groups, d]; ``sum_t``, ``energy``: [groups, o].
    """

    gram: np.ndarray
    cross: np.ndarray
    sum_x: np.ndarray
    sum_t: np.ndarray
    energy: np.ndarray
    count: int = 0

    @classmethod
    def zeros(cls, groups: int, inputs: int, outputs: int) -> Moments:
        wide, long = (groups, inputs, inputs), (groups, inputs, outputs)
        return cls(
            np.zeros(wide), np.zeros(long), np.zeros(wide[:2]), np.zeros((groups, outputs)), np.zeros((groups, outputs))
        )

    def update(self, x: np.ndarray, t: np.ndarray) -> None:
        """Add rows: x float32[groups, rows, d], t float32[groups, rows, o]."""
        for g in range(len(x)):
            upper = scipy.linalg.blas.ssyrk(1.0, np.ascontiguousarray(x[g]).T)
            self.gram[g] += np.triu(upper) + np.triu(upper, 1).T
            self.cross[g] += x[g].T @ t[g]
        self.sum_x += x.sum(1, np.float64)
        self.sum_t += t.sum(1, np.float64)
        self.energy += np.square(t, dtype=np.float64).sum(1)
        self.count += x.shape[1]

    def retarget(self) -> Moments:
        """Return the same rows without targets, to be filled by ``update_target``."""
        return Moments(
            self.gram,
            np.zeros_like(self.cross),
            self.sum_x,
            np.zeros_like(self.sum_t),
            np.zeros_like(self.energy),
            self.count,
        )

    def update_target(self, x: np.ndarray, t: np.ndarray) -> None:
        """Add the targets of rows that ``gram`` already counts."""
        for g in range(len(x)):
            self.cross[g] += x[g].T @ t[g]
        self.sum_t += t.sum(1, np.float64)
        self.energy += np.square(t, dtype=np.float64).sum(1)

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def only(self, inputs: np.ndarray) -> Moments:
        """Return the moments of the inputs in ``inputs`` (bool[d]) alone."""
        if inputs.all():
            return self
        gram = self.gram[:, inputs][:, :, inputs]
        return Moments(gram, self.cross[:, inputs], self.sum_x[:, inputs], self.sum_t, self.energy, self.count)

    @property
    def covariance(self) -> np.ndarray:
        """float64[groups, d, d]: covariance of the inputs."""
        mean = self.sum_x / self.count
        return self.gram / self.count - mean[:, :, None] * mean[:, None, :]

    @property
    def variance(self) -> np.ndarray:
        """float64[groups, o]: variance of the targets."""
        return np.maximum(self.energy / self.count - (self.sum_t / self.count) ** 2, 0.0)


def solve(moments: Moments, old: np.ndarray, damping: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Minimise ``sum |t - W x - b|^2 + damping * mean(diag) * |W - old|^2`` per group.

    Returns W float64[groups, o, d] and b float64[groups, o] (zeros without ``intercept``). Source: the normal equations of
    ridge regression centred on the old weights.
    """
    mean_x = moments.sum_x / moments.count if intercept else np.zeros_like(moments.sum_x)
    mean_t = moments.sum_t / moments.count if intercept else np.zeros_like(moments.sum_t)
    fitted = np.array(old, np.float64)
    for g in range(len(fitted)):
        gram = moments.gram[g] - moments.count * np.outer(mean_x[g], mean_x[g])
        cross = moments.cross[g] - moments.count * np.outer(mean_x[g], mean_t[g])
        residual = cross - gram @ old[g].T
        gram.flat[:: len(gram) + 1] += damping * max(float(np.trace(gram)) / len(gram), 1e-12)
        factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        fitted[g] += scipy.linalg.cho_solve(factor, residual, overwrite_b=True, check_finite=False).T
    return fitted, mean_t - np.einsum("god,gd->go", fitted, mean_x) if intercept else np.zeros_like(mean_t)


def squared_error(moments: Moments, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return float64[groups, o]: ``sum |t - W x - b|^2`` over the rows, from the moments alone."""
    quadratic = np.einsum("god,god->go", weights @ moments.gram, weights)
    linear = np.einsum("god,gdo->go", weights, moments.cross)
    shifted = np.einsum("god,gd->go", weights, moments.sum_x)
    return moments.energy + quadratic - 2 * linear + 2 * bias * (shifted - moments.sum_t) + moments.count * bias**2


def shift_only(moments: Moments, old: np.ndarray, damping: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Keep the weights and set the intercept so that the targets' means come back (bias folding: the B = 0 case of ``solve``).

    Source: bias correction as in FLAP (An et al. 2024, eq. 6) with the means of the pruned model's own inputs.
    """
    mean_x, mean_t = moments.sum_x / moments.count, moments.sum_t / moments.count
    weights = np.array(old, np.float64)
    return weights, mean_t - np.einsum("god,gd->go", weights, mean_x) if intercept else np.zeros_like(mean_t)


def match_moments(moments: Moments, old: np.ndarray, damping: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift each output channel so that mean and variance of the targets come back.

    What re-estimating BatchNormalization statistics does, also where they are folded into the weights. A channel that has
    become constant keeps its scale.
    """
    old = np.asarray(old, np.float64)
    variance = np.einsum("god,god->go", old @ moments.covariance, old)
    alive = variance > 1e-12 * max(float(moments.variance.max(initial=0.0)), 1e-30)
    scale = np.where(alive, np.sqrt(moments.variance / np.where(alive, variance, 1.0)), 1.0)
    return shift_only(moments, old * scale[:, :, None], damping, intercept)


Solver = Callable[[Moments, np.ndarray, float, bool], tuple[np.ndarray, np.ndarray]]
SOLVERS: dict[str, Solver] = {"least-squares": solve, "batchnorm": match_moments, "bias": shift_only}
