"""The one solver: a linear node's best weights from second moments of its rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import scipy  # its parts are imported where they are used

from onnxprune.model.scratch import zeros

METRIC_DAMPING = 1e-2  # of the mean: outputs that hardly matter still count a little
NOISE = 1e-12  # of the mean square: a network of float32 knows a value to about 1e-6 of its size
ROWS_AT_ONCE = 512  # from here on a product of rows takes longer than to add it to the sums
LEAST = 1e-12  # of the sum of squares: nothing to fit


class RowBlocks:
    """Puts rows [groups, rows, ..] of small batches together, until a product of them is worth a pass over all sums.

    What each row counts goes with them, as [rows].
    """

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._count = 0

    def add(self, *rows: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield what is to be summed up now, if anything; ``rows``: arrays with as many rows each."""
        self._parts.append(rows)
        self._count += rows[0].shape[1]
        if self._count >= ROWS_AT_ONCE:
            yield from self.rest()

    def rest(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield what is left."""
        parts, self._parts, self._count = self._parts, [], 0
        if len(parts) > 1:
            yield tuple(np.concatenate(rows, axis=min(rows[0].ndim - 1, 1)) for rows in zip(*parts, strict=True))
        else:
            yield from parts


def in_blocks(batches: Iterable[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield rows of several batches at once; see ``RowBlocks``."""
    blocks = RowBlocks()
    for rows in batches:
        yield from blocks.add(*rows)
    yield from blocks.rest()


@dataclass
class CrossMoments:
    """Mergeable sums over rows x, t less an origin each, near their means: products in float32, sums in float64.

    ``gram``: float64[groups, d, d]; ``cross``: [groups, d, o]; ``sum_x``: [groups, d]; ``sum_t``, ``energy``: [groups, o];
    ``origin_x``: [groups, d]; ``origin_t``: [groups, o]. Means far larger than deviations would drown these in float32.
    """

    gram: np.ndarray
    cross: np.ndarray
    sum_x: np.ndarray
    sum_t: np.ndarray
    energy: np.ndarray
    origin_x: np.ndarray
    origin_t: np.ndarray
    count: float = 0

    @classmethod
    def zeros(cls, groups: int, inputs: int, outputs: int, origin: np.ndarray | None = None) -> CrossMoments:
        """Return empty sums for rows around ``origin`` float[groups, inputs] (None: zero), whose targets' origins are zero."""
        read, made = (groups, inputs), (groups, outputs)
        around = np.zeros(read) if origin is None else origin.astype(np.float64)
        gram, cross = zeros((*read, inputs)), zeros((*read, outputs))
        return cls(gram, cross, np.zeros(read), np.zeros(made), np.zeros(made), around, np.zeros(made))

    @classmethod
    def around(cls, x: np.ndarray, t: np.ndarray) -> CrossMoments:
        """Return empty sums for rows like x float32[groups, rows, d] and t float32[groups, rows, o], whose means are the origins."""
        return cls.zeros(x.shape[0], x.shape[2], 0, _middle(x)).towards(t)

    def update(self, x: np.ndarray, t: np.ndarray) -> None:
        """Add rows: x float32[groups, rows, d], t float32[groups, rows, o]."""
        x = x - self.origin_x.astype(np.float32)[:, None]
        self.add_inputs(x)
        self.add_targets(x, t)

    def add_inputs(self, centred: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add rows less their origin, float32[groups, rows, d], without targets; ``weights`` float32[rows]: how often each counts."""
        weighed = centred if weights is None else centred * np.sqrt(weights)[:, None]
        for g in range(len(centred)):
            self.gram[g] += weighed[g].T @ weighed[g]
        self.sum_x += centred.sum(1, np.float64) if weights is None else np.einsum("grd,r->gd", centred, weights)
        self.count += centred.shape[1] if weights is None else float(weights.sum())

    def add_targets(self, centred: np.ndarray, t: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add the targets t float32[groups, rows, o] of rows, less their origin, that ``gram`` already counts."""
        t = t - self.origin_t.astype(np.float32)[:, None]
        counted = t if weights is None else t * weights[:, None]
        for g in range(len(centred)):
            self.cross[g] += centred[g].T @ counted[g]
        self.sum_t += counted.sum(1, np.float64)
        self.energy += np.einsum("gro,gro->go", t, counted, dtype=np.float64)

    def towards(self, t: np.ndarray) -> CrossMoments:
        """Return the same rows without targets, to be filled by ``add_targets`` with some like t float32[groups, rows, o]."""
        read, made = self.sum_x.shape, (len(self.sum_x), t.shape[2])
        cross, sum_t, energy = zeros((*read, t.shape[2])), np.zeros(made), np.zeros(made)
        return replace(self, cross=cross, sum_t=sum_t, energy=energy, origin_t=_middle(t))

    def moved(self, change: CrossMoments, factor: float) -> CrossMoments:
        """Return the moments with targets moved: ``change`` has how far on some of the rows, which stand for ``factor`` as many.

        The energy stays that of the targets as they were.
        """
        cross, sum_t = self.cross + factor * change.cross, self.sum_t + factor * change.sum_t
        return replace(self, cross=cross, sum_t=sum_t)

    def __add__(self, other: CrossMoments) -> CrossMoments:
        """Return the sums over the rows of both, which have the same origins."""
        summed = ("gram", "cross", "sum_x", "sum_t", "energy", "count")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in summed})

    def only(self, inputs: np.ndarray) -> CrossMoments:
        """Return the moments of the inputs in ``inputs`` (bool[d]) alone."""
        if inputs.all():
            return self
        gram = self.gram[:, inputs][:, :, inputs]
        own = {name: getattr(self, name)[:, inputs] for name in ("cross", "sum_x", "origin_x")}
        return replace(self, gram=gram, **own)

    def through(self, basis: np.ndarray) -> CrossMoments:
        """Return the moments of ``basis``^T x, basis float64[d, q]."""
        gram, cross = basis.T @ self.gram @ basis, basis.T @ self.cross
        return replace(self, gram=gram, cross=cross, sum_x=self.sum_x @ basis, origin_x=self.origin_x @ basis)

    @property
    def mean_x(self) -> np.ndarray:
        """float64[groups, d]: mean of the inputs."""
        return self.origin_x + self.sum_x / self.count

    @property
    def mean_t(self) -> np.ndarray:
        """float64[groups, o]: mean of the targets."""
        return self.origin_t + self.sum_t / self.count

    @property
    def covariance(self) -> np.ndarray:
        """float64[groups, d, d]: covariance of the inputs."""
        return _plus_squares(self.gram / self.count, self.sum_x / self.count, -1.0)

    @property
    def cross_covariance(self) -> np.ndarray:
        """float64[groups, d, o]: covariance of inputs and targets."""
        return self.cross / self.count - (self.sum_x / self.count)[:, :, None] * (self.sum_t / self.count)[:, None, :]

    @property
    def second_moment(self) -> np.ndarray:
        """float64[groups, d, d]: E x x^T."""
        return _plus_squares(self.covariance, self.mean_x, 1.0)

    @property
    def variance(self) -> np.ndarray:
        """float64[groups, o]: variance of the targets."""
        return np.maximum(self.energy / self.count - (self.sum_t / self.count) ** 2, 0.0)


def _middle(rows: np.ndarray) -> np.ndarray:
    """Return float64[groups, columns]: the mean of rows [groups, rows, columns], as float32 holds it."""
    return rows.mean(1, np.float64).astype(np.float32).astype(np.float64)


def _plus_squares(matrices: np.ndarray, vectors: np.ndarray, factor: float) -> np.ndarray:
    """Add ``factor`` v v^T to each of the matrices float64[groups, d, d], in place, and return them; v: float64[groups, d]."""
    for matrix, vector in zip(matrices, vectors, strict=True):
        scipy.linalg.blas.dger(factor, vector, vector, a=matrix.T, overwrite_a=1)
    return matrices


def solve(moments: CrossMoments, old: np.ndarray, damping: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Minimise ``sum |t - W x - b|^2 + damping * mean(diag) * |W - old|^2`` per group.

    Returns W float64[groups, o, d] and b float64[groups, o] (zeros without ``intercept``). Source: the normal equations of
    ridge regression centred on the old weights. Fewer rows than inputs are the normal case: what the rows say nothing of
    stays as it was, and a constant input, whose variance is rounding alone, by NOISE of its square.
    """
    mean_x, mean_t = moments.mean_x, moments.mean_t
    gram = moments.covariance if intercept else moments.second_moment
    count, cross = moments.count, moments.cross_covariance
    noise = NOISE * (np.einsum("gdd->g", gram) + np.square(mean_x).sum(1)) / max(gram.shape[1], 1)
    if not intercept:
        cross = cross + mean_x[:, :, None] * mean_t[:, None, :]
    fitted = np.array(old, np.float64)
    for g in range(len(fitted)):
        ridge = damping * max(float(np.trace(gram[g])) / max(len(gram[g]), 1), LEAST / count) + noise[g]
        fitted[g] += solve_damped(gram[g], cross[g] - gram[g] @ old[g].T, ridge).T
    return fitted, mean_t - np.einsum("god,gd->go", fitted, mean_x) if intercept else np.zeros_like(mean_t)


def solve_damped(gram: np.ndarray, right: np.ndarray, ridge: float) -> np.ndarray:
    """Return (gram + ridge I)^-1 right, the ridge ten times larger until rounding leaves a positive matrix.

    ``gram``: float64[d, d], symmetric; it is overwritten, which spares a second matrix of its size.
    """
    matrix, diagonal = gram.T, gram.diagonal().copy()  # as Fortran has it: the factor takes the lower triangle's place
    while True:
        np.fill_diagonal(matrix, diagonal + ridge)
        factor, failed = scipy.linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1, clean=0)
        if not failed:
            return scipy.linalg.cho_solve((factor, True), right, check_finite=False)
        if not ridge < np.finfo(np.float64).max / 10:
            raise np.linalg.LinAlgError("second moments are not finite")
        upper = np.triu(factor, 1)
        matrix = np.asfortranarray(upper + upper.T)
        ridge *= 10


@dataclass(frozen=True, eq=False)
class Subspace:
    """A weight that reads nothing of its inputs but ``inputs`` (float64[channels, q], orthonormal) and has ``rank`` at most.

    ``inputs`` may also say how a window is read, float64[channels * taps, q]; None: all of it. ``metric`` float64[o, o],
    or its diagonal float64[o], weighs the errors of the outputs where the rank is taken off (None: alike).
    """

    inputs: np.ndarray | None
    rank: int
    metric: np.ndarray | None = None

    def within(self, solver: Solver) -> Solver:
        """Return a solver that stays inside: the other one on what is read, then the best outputs of that rank.

        Source: reduced-rank regression (Izenman 1975): with C = G^(1/2) W, G the metric and M the inputs' moment, the
        leading eigenvectors U of C M C^T; W becomes G^(-1/2) U U^T C.
        """

        def solve_inside(
            moments: CrossMoments, old: np.ndarray, damping: float, intercept: bool
        ) -> tuple[np.ndarray, np.ndarray]:
            if self.inputs is None:
                fitted, bias = solver(moments, old, damping, intercept)
                return self._of_rank(moments, fitted, bias, intercept)
            basis = self.reading(old.shape[2])
            assert basis is not None
            inner = moments.through(basis)
            fitted, bias = self._of_rank(inner, *solver(inner, old @ basis, damping, intercept), intercept)
            return fitted @ basis.T, bias

        return solve_inside

    def reading(self, inputs: int) -> np.ndarray | None:
        """Return float64[inputs, q], orthonormal: what is read of all inputs of a node, each tap alike; None: all of it."""
        return None if self.inputs is None else np.kron(np.eye(inputs // len(self.inputs)), self.inputs)

    def on_what_is_read(self) -> Subspace:
        """Return what holds for the weight of ``reading``^T x."""
        return replace(self, inputs=None)

    def _of_rank(
        self, moments: CrossMoments, fitted: np.ndarray, bias: np.ndarray, intercept: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return weights float64[1, o, d] and the intercept, which takes on what the rest did to the mean."""
        reduced = self._truncated(fitted[0], (moments.covariance if intercept else moments.second_moment)[0])
        if intercept:
            bias = bias + ((fitted[0] - reduced) @ moments.mean_x[0])[None]
        return reduced[None], bias

    def _truncated(self, weight: np.ndarray, moment: np.ndarray) -> np.ndarray:
        if self.rank >= min(weight.shape):
            return weight
        vectors, roots = _roots(self.metric, len(weight))
        core = _scaled(vectors, roots, weight)
        if weight.shape[1] < len(weight):
            values, basis = np.linalg.eigh(moment)
            leading = np.linalg.svd(core @ (basis * np.sqrt(np.maximum(values, 0.0))), full_matrices=False)[0]
            leading = leading[:, : self.rank]
        else:
            leading = np.linalg.eigh(core @ moment @ core.T)[1][:, -self.rank :]
        return _scaled(vectors, 1 / roots, leading @ (leading.T @ core))


def _roots(metric: np.ndarray | None, outputs: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Return eigenvectors (None: those of the identity) and roots of the eigenvalues, float64[o], of what errors are worth."""
    if metric is None or metric.ndim == 1:
        values, vectors = np.ones(outputs) if metric is None else metric, None
    else:
        values, vectors = np.linalg.eigh((metric + metric.T) / 2)
    return vectors, np.sqrt(np.maximum(values, 0.0) + METRIC_DAMPING * max(float(values.mean()), 1e-30))


def _scaled(vectors: np.ndarray | None, roots: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return roots[:, None] * weight if vectors is None else vectors @ (roots[:, None] * (vectors.T @ weight))


def squared_error(moments: CrossMoments, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return float64[groups, o]: ``sum |t - W x - b|^2`` over the rows, from the moments alone."""
    bias = bias + np.einsum("god,gd->go", weights, moments.origin_x) - moments.origin_t
    quadratic = np.einsum("god,god->go", weights @ moments.gram, weights)
    linear = np.einsum("god,gdo->go", weights, moments.cross)
    shifted = np.einsum("god,gd->go", weights, moments.sum_x)
    return moments.energy + quadratic - 2 * linear + 2 * bias * (shifted - moments.sum_t) + moments.count * bias**2


def shift_only(
    moments: CrossMoments, old: np.ndarray, damping: float, intercept: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the weights and set the intercept so that the targets' means come back (bias folding: the B = 0 case of ``solve``).

    Source: bias correction as in FLAP (An et al. 2024, eq. 6) with the means of the pruned model's own inputs.
    """
    weights, mean_t = np.array(old, np.float64), moments.mean_t
    return weights, mean_t - np.einsum("god,gd->go", weights, moments.mean_x) if intercept else np.zeros_like(mean_t)


def match_moments(
    moments: CrossMoments, old: np.ndarray, damping: float, intercept: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift each output channel so that mean and variance of the targets come back.

    What re-estimating BatchNormalization statistics does, also where they are folded into the weights. A channel that has
    become constant keeps its scale.
    """
    old = np.asarray(old, np.float64)
    variance = np.einsum("god,god->go", old @ moments.covariance, old)
    noise = NOISE * np.square(np.einsum("god,gd->go", np.abs(old), np.abs(moments.mean_x)))
    alive = variance > np.maximum(1e-12 * max(float(moments.variance.max(initial=0.0)), 1e-30), noise)
    scale = np.where(alive, np.sqrt(moments.variance / np.where(alive, variance, 1.0)), 1.0)
    return shift_only(moments, old * scale[:, :, None], damping, intercept)


Solver = Callable[[CrossMoments, np.ndarray, float, bool], tuple[np.ndarray, np.ndarray]]


class Limit(Protocol):
    """What a weight must keep to."""

    def within(self, solver: Solver) -> Solver:
        """Return a solver that stays inside."""

    def reading(self, inputs: int) -> np.ndarray | None:
        """Return float64[inputs, q] where the weight reads nothing of its inputs but these directions; None: it may read all."""

    def on_what_is_read(self) -> Limit:
        """Return what holds for the weight of ``reading``^T x."""


SOLVERS: dict[str, Solver] = {"least-squares": solve, "batchnorm": match_moments, "bias": shift_only}
