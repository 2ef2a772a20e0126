"""The one solver: a linear node's best weights from second moments of its rows alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

METRIC_DAMPING = 1e-2  # of the mean: outputs that hardly matter still count a little


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

    def through(self, basis: np.ndarray) -> Moments:
        """Return the moments of ``basis``^T x, basis float64[d, q]."""
        gram, cross = basis.T @ self.gram @ basis, basis.T @ self.cross
        return Moments(gram, cross, self.sum_x @ basis, self.sum_t, self.energy, self.count)

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


@dataclass(frozen=True, eq=False)
class Subspace:
    """A weight that reads nothing of its inputs but ``inputs`` (float64[channels, q], orthonormal) and has ``rank`` at most.

    ``metric`` float64[o, o] weighs the errors of its outputs where the rank is taken off.
    """

    inputs: np.ndarray
    rank: int
    metric: np.ndarray

    def within(self, solver: Solver) -> Solver:
        """Return a solver that stays inside: the other one on what is read, then the best outputs of that rank.

        Source: reduced-rank regression (Izenman 1975): with C = G^(1/2) W, G the metric and M the inputs' moment, the
        leading eigenvectors U of C M C^T; W becomes G^(-1/2) U U^T C.
        """

        def solve_inside(
            moments: Moments, old: np.ndarray, damping: float, intercept: bool
        ) -> tuple[np.ndarray, np.ndarray]:
            taps = old.shape[2] // len(self.inputs)
            basis = np.kron(self.inputs, np.eye(taps))
            inner = moments.through(basis)
            fitted, bias = solver(inner, old @ basis, damping, intercept)
            reduced = self._truncated(fitted[0], inner.covariance[0] if intercept else inner.gram[0] / inner.count)
            if intercept:
                bias = bias + ((fitted[0] - reduced) @ (inner.sum_x[0] / inner.count))[None]
            return (reduced @ basis.T)[None], bias

        return solve_inside

    def _truncated(self, weight: np.ndarray, moment: np.ndarray) -> np.ndarray:
        if self.rank >= min(weight.shape):
            return weight
        values, vectors = np.linalg.eigh((self.metric + self.metric.T) / 2)
        values = np.sqrt(np.maximum(values, 0.0) + METRIC_DAMPING * max(float(values.mean()), 1e-30))
        core = (vectors * values) @ vectors.T @ weight
        _, leading = np.linalg.eigh(core @ moment @ core.T)
        leading = leading[:, -self.rank :]
        return (vectors / values) @ vectors.T @ leading @ (leading.T @ core)


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
