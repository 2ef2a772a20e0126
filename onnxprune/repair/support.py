"""Weights of which only some entries may differ from zero: which ones, and what they are then, from second moments alone.

The support is searched by the alternating direction method of multipliers, with a penalty that grows until it no longer moves, and
the weights on it by conjugate gradients (Meng et al. 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
Language Models", algorithms 1 and 2; the update on a fixed mask as in Boza 2024, "Fast and Optimal Weight Update for Pruned Large
Language Models"). Inputs are scaled to unit second moments first, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from onnxprune.repair.maps import WeightBlock
from onnxprune.repair.moments import NOISE, CrossMoments, Limit, Solver

PENALTY = 0.1  # of the mean eigenvalue: how strongly the first steps pull towards the support
GROWTH = 1.15  # of the penalty with each step
STEPS = 80  # at most
STILL = 3  # steps without a move of the support end the search
GRADIENTS = 60  # steps of conjugate gradients at most
ENOUGH = 1e-4  # of the first residual

Keeps = Callable[[np.ndarray], np.ndarray]
"""Scores float[groups, o, d] -> bool[groups, o, d]: the entries that stay, those of large scores."""
Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Weights float64[groups, o, d] and second moments of what they read float64[groups, d, d] -> scores like the weights."""


@dataclass(frozen=True, eq=False)
class Support:
    """A weight that keeps the entries which ``keeps`` chooses, of scores by ``score`` (None: of the search below).

    ``fixed``: bool[groups, o, d], where it is known already what stays.
    """

    keeps: Keeps
    fixed: np.ndarray | None = None
    score: Score | None = None

    def within(self, solver: Solver) -> Solver:
        """Return a solver whose weights are zero outside of a support that its first call finds; ``solver`` is not asked."""
        found = self.fixed

        def solve_within(
            moments: CrossMoments, old: np.ndarray, damping: float, intercept: bool
        ) -> tuple[np.ndarray, np.ndarray]:
            nonlocal found
            problem = _Scaled.of(moments, old, damping, intercept)
            if found is None and self.score is not None:
                found = self.keeps(self.score(old, moments.second_moment))
            elif found is None:
                found = problem.support(self.keeps)
            fitted = problem.weights(problem.refined(found))
            mean_x, mean_t = moments.mean_x, moments.mean_t
            return fitted, mean_t - np.einsum("god,gd->go", fitted, mean_x) if intercept else np.zeros_like(mean_t)

        return solve_within

    def left(self, scores: np.ndarray) -> np.ndarray:
        """Return bool[groups, o, d]: what stays, by scores of that shape where it is not known already."""
        return self.keeps(scores) if self.fixed is None else self.fixed

    def reading(self, inputs: int) -> None:
        """Return nothing: a sparse weight may read all of its inputs."""

    def on_what_is_read(self) -> Support:
        return self


def joint_support(parts: Iterable[tuple[WeightBlock, Limit | None]], shape: tuple[int, int, int]) -> Support:
    """Return the support of a matrix [groups, o, d] of which every block keeps to its own (None: to all of its entries).

    What lies in no block stays zero.
    """
    owned = [(block, limit) for block, limit in parts if limit is None or isinstance(limit, Support)]

    def keeps(scores: np.ndarray) -> np.ndarray:
        left = np.zeros(shape, bool)
        for block, own in owned:
            block.put(np.ones(block.shape, bool) if own is None else own.left(block.within(scores)), left)
        return left

    known = all(own is None or own.fixed is not None for _, own in owned)
    scores = [own.score for _, own in owned if own is not None]
    return Support(keeps, keeps(np.zeros(shape)) if known else None, next(filter(None, scores), None))


def sparse_form(
    weight: np.ndarray, gram: np.ndarray, support: Support, damping: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best sparse form of a layer, float64[groups, o, d], and the squares of its weights in units of its inputs, float32.

    ``weight`` float64[groups, o, d], whose own outputs are the targets; ``gram`` float64[groups, d, d]: second moments of its
    inputs, overwritten; ``damping``: of the mean diagonal.
    """
    left = support.fixed
    if left is None and support.score is not None:
        left = support.keeps(support.score(weight, gram))
    ridge = damping * np.einsum("gdd->g", gram) / gram.shape[1] + np.finfo(np.float32).tiny
    gram[:, np.arange(gram.shape[1]), np.arange(gram.shape[1])] += ridge[:, None]
    problem = _Scaled.scaled(gram, weight @ gram)
    found = problem.refined(problem.support(support.keeps) if left is None else left)
    return problem.weights(found), np.square(found)


@dataclass
class _Scaled:
    """``min tr (W - best) G (W - best)^T`` with inputs scaled so that the diagonal of G is one.

    ``gram``: float32[groups, d, d]; ``right``: float32[groups, o, d], best G; ``scale``: float64[groups, d].
    """

    gram: np.ndarray
    right: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, moments: CrossMoments, old: np.ndarray, damping: float, intercept: bool) -> _Scaled:
        gram = moments.covariance if intercept else moments.second_moment
        cross = moments.cross_covariance
        if not intercept:
            cross = cross + moments.mean_x[:, :, None] * moments.mean_t[:, None, :]
        inputs = gram.shape[1]
        trace = np.einsum("gdd->g", gram)
        noise = NOISE * (trace + np.square(moments.mean_x).sum(1)) / inputs
        ridge = damping * np.maximum(trace / inputs, np.finfo(np.float64).tiny) + noise
        right = cross.swapaxes(1, 2) + ridge[:, None, None] * old
        gram[:, np.arange(inputs), np.arange(inputs)] += ridge[:, None]
        return cls.scaled(gram, right)

    @classmethod
    def scaled(cls, gram: np.ndarray, right: np.ndarray) -> _Scaled:
        """Return the problem of a positive matrix, which is overwritten, and of right sides, both float64."""
        scale = np.sqrt(np.einsum("gdd->gd", gram))
        gram /= scale[:, :, None]
        gram /= scale[:, None, :]
        return cls(gram.astype(np.float32), (right / scale[:, None, :]).astype(np.float32), scale)

    def weights(self, scaled: np.ndarray) -> np.ndarray:
        """Return float64[groups, o, d] in the units of the layer."""
        return scaled / self.scale[:, None, :]

    def support(self, keeps: Keeps) -> np.ndarray:
        """Return bool[groups, o, d]: the entries that stay."""
        values, vectors = np.linalg.eigh(self.gram.astype(np.float64))
        values = np.maximum(values, values.max(axis=1, keepdims=True) * 1e-7).astype(np.float32)[:, None]
        vectors = vectors.astype(np.float32)
        turned = self.right @ vectors
        back = vectors.swapaxes(1, 2)
        weight = (turned / values) @ back
        left = keeps(np.abs(weight))
        sparse, dual, penalty, still = weight * left, np.zeros_like(weight), PENALTY, 0
        for _ in range(STEPS):
            weight = ((turned + penalty * ((sparse - dual) @ vectors)) / (values + penalty)) @ back
            moved = weight + dual
            fresh = keeps(np.abs(moved))
            still = still + 1 if np.array_equal(fresh, left) else 0
            left, sparse = fresh, moved * fresh
            dual = (moved - sparse) / GROWTH
            penalty *= GROWTH
            if still == STILL:
                break
        return left

    def refined(self, left: np.ndarray) -> np.ndarray:
        """Return the best weights on a support, float32[groups, o, d]: conjugate gradients on all rows at once."""
        weight = np.zeros_like(self.right)
        residual = self.right * left
        direction, energy = residual.copy(), np.square(residual).sum(axis=2, keepdims=True)
        least = ENOUGH**2 * energy
        for _ in range(GRADIENTS):
            image = (direction @ self.gram) * left
            curvature = (direction * image).sum(axis=2, keepdims=True)
            going = (energy > least) & (curvature > 0)
            if not going.any():
                break
            step = np.where(going, energy / np.where(going, curvature, 1), 0)
            weight += step * direction
            residual -= step * image
            fresh = np.square(residual).sum(axis=2, keepdims=True)
            direction = residual + np.where(going, fresh / np.where(energy > 0, energy, 1), 0) * direction
            energy = fresh
        return weight
