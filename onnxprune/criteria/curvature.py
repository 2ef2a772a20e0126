"""Second-order removal of a consumer's inputs on plain arrays: what it costs, in which order, and the best repair.

A consumer y = W h + b reads inputs h with second moments ``gram`` (the covariance where its bias may be refitted).
Removing the inputs P and refitting the kept ones costs tr(W_P ([A^-1]_PP)^-1 W_P^T), A = gram + damping mean(diag) I.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from onnxprune.model.runtime import release_memory
from onnxprune.model.scratch import kept
from onnxprune.model.segmented import memory_allowed

DEAD = 1e-10  # inputs with less than this share of the largest second moment carry nothing
DOWNDATES = 64  # steps between two exact factorisations
WIDE = 512  # units: wider consumers lose 1/16 of what is left at a time
BATCH_SHARE = 16
WIDEST, FEW_TURNS = 4096, 4  # and those that are wider than that a quarter: turns cost the cube of the width
MIRRORED = 512  # rows
MOST_HELD = 1 << 32  # bytes of consumers that are held at once, where nothing is said of memory
PER_INPUT_PAIR = 32  # bytes that one takes: its second moments, their inverse, and what is made on the way
ROWS_AT_ONCE = 4096  # of a consumer's weight, where it is gone through once
JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4)


class Problem(NamedTuple):
    """One consumer: ``gram`` float64[n, n], ``weight`` float64[out, n], ``blocks`` int64[units, b]: a unit's inputs.

    Inputs in no block always stay. ``scale`` weighs this consumer's error against the others'.
    """

    gram: np.ndarray
    weight: np.ndarray
    blocks: np.ndarray
    scale: float = 1.0


class Order(NamedTuple):
    """``order`` int64[units]: first to go first; ``error`` float64[units + 1]: total error with the first k gone."""

    order: np.ndarray
    error: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """float64[units]: the total error once a unit and all that go before it are gone."""
        result = np.empty(len(self.order))
        result[self.order] = self.error[1:]
        return result


class Fold(NamedTuple):
    """Removed inputs predicted from kept ones, h_P ~ ``coefficients`` h_K + const, and folded into the consumer.

    ``weight`` float64[out, kept]; ``shift`` float64[out], to be added to the bias;
    ``coefficients`` float64[removed, kept]; ``error``: the mean squared error of the outputs, summed over them.
    """

    weight: np.ndarray
    shift: np.ndarray
    coefficients: np.ndarray
    error: float


def damped(gram: np.ndarray, damping: float) -> np.ndarray:
    """Return the symmetrised ``gram + damping * mean(diag gram) * I``; the identity where the gram is zero."""
    result = (gram + gram.T) / 2
    level = float(np.trace(result)) / max(len(result), 1)
    result[np.diag_indices_from(result)] += damping * level if level > 0 else 1.0
    return result


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric inverse of a positive semidefinite matrix, jittered as little as makes it possible."""
    if not len(matrix):
        return np.zeros_like(matrix)
    level = float(np.trace(matrix)) / len(matrix)
    for jitter in JITTERS:
        trial = np.array(matrix, np.float64, order="F")
        trial[np.diag_indices_from(trial)] += jitter * level
        factor, failed = scipy.linalg.lapack.dpotrf(trial, lower=1, overwrite_a=1)
        if not failed:
            factor, failed = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        if not failed and np.isfinite(factor).all():
            return _mirrored(factor).T
    return np.linalg.pinv(matrix, hermitian=True)


def _mirrored(lower: np.ndarray) -> np.ndarray:
    """Make a matrix, in place, what its lower triangle says that it is."""
    for start in range(0, len(lower), MIRRORED):
        stop = start + MIRRORED
        own = lower[start:stop, start:stop]
        own[:] = np.tril(own, -1) + np.tril(own).T
        lower[start:stop, stop:] = lower[stop:, start:stop].T
    return lower


def live_inputs(gram: np.ndarray) -> np.ndarray:
    """Return bool[n]: inputs whose second moment is not negligible."""
    power = np.diag(gram)
    return power > DEAD * max(float(power.max(initial=0.0)), np.finfo(np.float64).tiny)


def solve_removed(
    gram: np.ndarray,
    weight: np.ndarray,
    removed: np.ndarray,
    *,
    mean: np.ndarray | None = None,
    damping: float = 1e-2,
) -> Fold:
    """Return the weights that replace the consumer's once the inputs ``removed`` (bool[n]) are gone.

    Minimises E|W'h_K + shift - W h|^2 + ridge |W' - W_K|^2. With ``mean`` float64[n] the gram is the covariance and
    the bias takes part; without it the shift is zero. Source: the normal equations; A = S_KK + ridge I, B = S_PK A^-1.
    """
    kept = ~np.asarray(removed, bool)
    alive = live_inputs(gram)
    cross = np.where(alive[kept], gram[np.ix_(~kept, kept)], 0.0)
    inner = damped(gram, damping)[np.ix_(kept, kept)]
    coefficients = _solve_positive(inner, cross.T).T
    old = weight[:, ~kept].astype(np.float64)
    shift = np.zeros(len(weight))
    if mean is not None:
        shift = old @ (mean[~kept] - coefficients @ mean[kept])
    left = gram[np.ix_(~kept, ~kept)] - coefficients @ cross.T - cross @ coefficients.T
    left = left + coefficients @ gram[np.ix_(kept, kept)] @ coefficients.T
    error = max(float(np.einsum("op,pq,oq->", old, left, old, optimize=True)), 0.0)
    return Fold(weight[:, kept] + old @ coefficients, shift, coefficients, error)


def _solve_positive(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    if not matrix.size:
        return np.zeros((len(matrix), right.shape[1]))
    try:
        return scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix, lower=True), right)
    except np.linalg.LinAlgError:
        return inverse(matrix) @ right


def obs_order(
    gram: np.ndarray,
    weight: np.ndarray,
    blocks: np.ndarray | None = None,
    *,
    damping: float = 1e-2,
    metric: np.ndarray | None = None,
    batch: int | None = None,
) -> Order:
    """Return the greedy order in which a consumer's units go, each step refitting what is left.

    ``blocks`` int64[units, b]: the inputs of each unit (None: every input is one). ``metric`` float64[out, out] weighs
    output errors (None: the identity). ``batch``: units that go at once (None: one, or 1/16 of the rest when wide).
    Source: group OBS (Hassibi & Stork 1993, eq. 5; for blocks of inputs Kurtic et al. 2023, "ZipLM", section 3).
    """
    blocks = np.arange(len(gram))[:, None] if blocks is None else blocks
    values = weight if metric is None else _root(metric) @ weight
    return joint_order([Problem(gram, values, blocks)], damping=damping, batch=batch)


def _root(metric: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((metric + metric.T) / 2)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def joint_order(
    problems: Sequence[Problem], *, damping: float = 1e-2, batch: int | None = None, least: int = 0
) -> Order:
    """Return the greedy order for units that several consumers read; a unit's cost is the scaled sum over them.

    ``least``: so many units stay in any case, so that their own order is that of what each would cost alone. Where the consumers
    together take more memory than there is for them, that decides of all.
    """
    if all(map(_is_uncorrelated, problems)):
        return order_alone(np.sum([_uncorrelated_costs(problem, damping) for problem in problems], axis=0))
    if len(problems) > 1 and too_many([len(problem.gram) for problem in problems]):
        return order_alone(costs_alone(problems, damping=damping))
    removals = [_Removal(problem, damping) for problem in problems]
    units = len(problems[0].blocks)
    left = np.ones(units, bool)
    order: list[int] = []
    error = [0.0]
    while left.any():
        cost = sum((removal.costs(left) for removal in removals), np.zeros(units))
        ranked, there = np.argsort(np.where(left, cost, np.inf), kind="stable"), int(left.sum())
        if there <= least:
            order.extend(ranked[:there].tolist())
            error.extend((error[-1] + np.cumsum(cost[ranked[:there]])).tolist())
            break
        chosen = ranked[: min(there - least, batch or _step(units, there))]
        left[chosen] = False
        total = sum(removal.remove(chosen) for removal in removals)
        order.extend(chosen.tolist())
        error.extend((error[-1] + total * _shares(cost[chosen])).tolist())
    return Order(np.array(order, np.int64), np.array(error))


def too_many(inputs: Iterable[int]) -> bool:
    """Whether consumers with so many inputs each are too large to be held at once."""
    allowed = memory_allowed.get()
    return sum(PER_INPUT_PAIR * count**2 for count in inputs) > (MOST_HELD if allowed is None else allowed // 2)


def costs_alone(problems: Iterable[Problem], *, damping: float = 1e-2) -> np.ndarray:
    """Return float64[units]: what each unit would cost if it alone went, summed over consumers, of which one is held at a time.

    For each tr(W_u^T W_u R_uu^-1) with R = A^-1, as ``_Removal`` begins; those beside each other that share a gram share R too.
    """
    costs: np.ndarray | float = 0.0
    read: tuple[np.ndarray, np.ndarray] | None = None
    inner = np.zeros(0)
    for problem in problems:
        if read is None or not (np.may_share_memory(read[0], problem.gram) and np.array_equal(read[1], problem.blocks)):
            inputs = problem.blocks.reshape(-1)
            inner = _own_blocks(inverse(_eliminated(damped(problem.gram, damping), inputs)), problem.blocks.shape[1])
            release_memory()
        costs, read = costs + _costs_alone(problem, inner), (problem.gram, problem.blocks)
    return np.asarray(costs)


def _costs_alone(problem: Problem, inner: np.ndarray) -> np.ndarray:
    """The same for one consumer; ``inner`` float64[units, b, b]: R_uu."""
    units, block = problem.blocks.shape
    inputs = problem.blocks.reshape(-1)
    power = np.zeros((units, block, block))
    for start in range(0, len(problem.weight), ROWS_AT_ONCE):
        rows = (
            problem.weight[start : start + ROWS_AT_ONCE, inputs].astype(np.float64) * live_inputs(problem.gram)[inputs]
        )
        own = rows.reshape(-1, units, block)
        power += np.einsum("rui,ruj->uij", own, own)
    return problem.scale * np.maximum(np.trace(_solve_stack(inner, power), axis1=1, axis2=2), 0.0)


def _is_uncorrelated(problem: Problem) -> bool:
    """Whether every unit is one input and no two inputs go together, so that what one costs is the same whatever else goes."""
    return problem.blocks.shape[1] == 1 and is_diagonal(problem.gram)


def is_diagonal(matrix: np.ndarray) -> bool:
    """Whether nothing but the diagonal of a square matrix differs from zero."""
    return np.count_nonzero(matrix) == np.count_nonzero(matrix.diagonal())


def _uncorrelated_costs(problem: Problem, damping: float) -> np.ndarray:
    inputs, power = problem.blocks[:, 0], problem.gram.diagonal().astype(np.float64)
    level = damping * float(power.mean())
    energy = np.einsum("oi,oi->i", problem.weight, problem.weight, dtype=np.float64)
    costs = np.where(live_inputs(problem.gram), (power + (level if level > 0 else 1.0)) * energy, 0.0)
    return problem.scale * costs[inputs]


def order_alone(costs: np.ndarray) -> Order:
    """Return the order by what each unit costs alone."""
    ranked = np.argsort(costs, kind="stable")
    return Order(ranked, np.concatenate([[0.0], np.cumsum(costs[ranked])]))


def _own_blocks(matrix: np.ndarray, block: int) -> np.ndarray:
    """Return the blocks [units, b, b] on the diagonal."""
    own = np.arange(len(matrix)).reshape(-1, block)
    return matrix[own[:, :, None], own[:, None, :]]


def _step(units: int, left: int) -> int:
    return 1 if units <= WIDE else max(1, left // (BATCH_SHARE if units <= WIDEST else FEW_TURNS))


def _shares(costs: np.ndarray) -> np.ndarray:
    """Split what a batch costs together over its units, in proportion to what each would cost alone; cumulative."""
    total = costs.sum()
    return np.cumsum(costs) / total if total > 0 else np.linspace(1 / len(costs), 1.0, len(costs))


class _Removal:
    """One consumer while its units go: R = A^-1 = ``base`` - ``lower``^T ``lower`` of the inputs left; W refitted.

    Only inputs of units are held, unit by unit: those that always stay are eliminated from A (its Schur complement).
    Between two exact factorisations only what the next choice needs is kept current: W, R_uu and W_u^T W_u.
    """

    def __init__(self, problem: Problem, damping: float):
        units, self.block = problem.blocks.shape
        inputs = problem.blocks.reshape(-1)
        self.scale = problem.scale
        self.matrix = kept(_eliminated(damped(problem.gram, damping), inputs))
        self.original = kept(np.where(live_inputs(problem.gram)[inputs], _compact(problem.weight[:, inputs]), 0.0))
        self.kept = np.ones(units, bool)
        self._refactorise()

    def _refactorise(self) -> None:
        """Compute R and W of the inputs left exactly from A."""
        left = np.repeat(self.kept, self.block)
        self.base = inverse(self.matrix[np.ix_(left, left)])
        moved = self.original[:, ~left] @ self.matrix[np.ix_(~left, left)]
        self.weight = self.original[:, left] + moved @ self.base
        self.lower = np.zeros((0, len(self.base)))
        self.steps = 0
        self.places = np.cumsum(self.kept) - 1
        self.blocks = _own_blocks(self.base, self.block)
        columns = self._by_unit(self.weight)
        self.power = columns.transpose(1, 2, 0) @ columns.transpose(1, 0, 2)

    def _by_unit(self, rows: np.ndarray) -> np.ndarray:
        """Return a view [rows, units at the last factorisation, b] of [rows, inputs]."""
        return rows.reshape(len(rows), -1, self.block)

    def costs(self, left: np.ndarray) -> np.ndarray:
        """Return float64[units]: what removing each unit alone would cost now; 0 for those gone."""
        places = self.places[left]
        solved = _solve_stack(self.blocks[places], self.power[places])
        result = np.zeros(len(left))
        result[left] = self.scale * np.maximum(np.trace(solved, axis1=1, axis2=2), 0.0)
        return result

    def remove(self, units: np.ndarray) -> float:
        """Take units out (a Schur downdate of R and W) and return what that costs."""
        gone = (self.places[units][:, None] * self.block + np.arange(self.block)).reshape(-1)
        rows = self.base[gone] - self.lower[:, gone].T @ self.lower
        half = _whitened(rows[:, gone], np.hstack([rows, self.weight[:, gone].T]))
        lower, columns = half[:, : rows.shape[1]], half[:, rows.shape[1] :].T
        self.kept[units] = False
        self.steps += 1
        if self.steps >= DOWNDATES or 4 * (len(self.lower) + len(gone)) > len(self.base):
            self._refactorise()
        else:
            self._downdate(lower, columns)
        return self.scale * float(np.square(columns).sum())

    def _downdate(self, lower: np.ndarray, columns: np.ndarray) -> None:
        """R -= lower^T lower and W -= columns lower, and the blocks of both that costs look at."""
        own, mixed = self._by_unit(lower), self._by_unit(columns.T @ self.weight)
        inner = columns.T @ columns
        own_t = own.transpose(1, 2, 0)
        cross = own_t @ mixed.transpose(1, 0, 2)
        self.blocks -= own_t @ own.transpose(1, 0, 2)
        self.power += own_t @ inner @ own.transpose(1, 0, 2) - cross - cross.transpose(0, 2, 1)
        self.weight -= columns @ lower
        self.lower = np.vstack([self.lower, lower])


def _eliminated(matrix: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return the Schur complement of all other inputs: A_gg - A_go A_oo^-1 A_og, whose inverse is [A^-1]_gg."""
    others = np.setdiff1d(np.arange(len(matrix)), inputs)
    own = matrix[np.ix_(inputs, inputs)]
    if not len(others):
        return own
    cross = matrix[np.ix_(others, inputs)]
    return own - cross.T @ _solve_positive(matrix[np.ix_(others, others)], cross)


def _whitened(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return C^-1 right for C C^T = matrix; by eigenvalues, floored, where rounding left it indefinite."""
    try:
        return scipy.linalg.solve_triangular(np.linalg.cholesky(matrix), right, lower=True)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        floor = max(float(values[-1]), np.finfo(np.float64).tiny) * np.finfo(np.float64).eps
        return (vectors / np.sqrt(np.maximum(values, floor))).T @ right


def _solve_stack(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve symmetric positive systems [.., b, b] x = [.., b, k]; least squares where rounding made one singular."""
    if matrices.shape[-1] == 1:
        return right / np.maximum(matrices, np.finfo(np.float64).tiny)
    try:
        return np.linalg.solve(matrices, right)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(matrices, hermitian=True) @ right


def _compact(weight: np.ndarray) -> np.ndarray:
    """Return rows with the same W^T W, at most as many as there are columns."""
    weight = weight.astype(np.float64)
    return np.asarray(np.linalg.qr(weight, mode="r")) if len(weight) > weight.shape[1] else weight
