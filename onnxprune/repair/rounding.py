"""Weights rounded one input after the other, so that those still to come make up for what rounding takes off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy  # its parts are imported where they are used

from onnxprune.repair.stored import IntegerGrid, limits

Near = Callable[[int, np.ndarray], np.ndarray]
"""The number of an input and its weights float64[o] -> the numbers nearest to these that can be stored."""
BLOCK = 64  # inputs whose errors are passed on one by one; to the rest they go in one product


def rounded(weights: np.ndarray, gram: np.ndarray, ridge: float, grid: IntegerGrid, dtype: np.dtype) -> np.ndarray:
    """Return float64[o, d] on a grid of as many positions; ``dtype``: of the grid's integers, whose ends cost errors too.

    ``gram``, ``ridge``: see ``one_by_one``.
    """
    scale, zero, (low, high) = grid.scale.T, grid.zero.T, limits(dtype)
    inverse = np.divide(1.0, scale, out=np.zeros(scale.shape), where=scale != 0)

    def near(number: int, values: np.ndarray) -> np.ndarray:
        integers = np.rint(values * inverse[number] + zero[number]).clip(low, high)
        return (integers - zero[number]) * scale[number]

    return one_by_one(weights, gram, ridge, near)


def one_by_one(weights: np.ndarray, gram: np.ndarray, ridge: float, near: Near) -> np.ndarray:
    """Return float64[o, d] of what ``near`` allows: what gives nearly the same from inputs of moments ``gram`` float64[d, d].

    Inputs that vary most come first. Source: optimal brain quantisation in one order for all outputs (Frantar et al. 2023,
    "GPTQ", algorithm 1), here with given numbers.
    """
    order = np.argsort(-gram.diagonal(), kind="stable")
    upper = _passing_on(gram[np.ix_(order, order)], ridge)
    left = np.ascontiguousarray(weights.T[order], np.float64)  # an input's weights lie side by side
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.zeros((stop - start, left.shape[1]))
        for number in range(start, stop):
            allowed = near(int(order[number]), left[number])
            errors[number - start] = (left[number] - allowed) / upper[number, number]
            left[number] = allowed
            left[number + 1 : stop] -= np.outer(upper[number, number + 1 : stop], errors[number - start])
        left[stop:] -= upper[start:stop, stop:].T @ errors
    result = np.empty(weights.shape)
    result[:, order] = left.T
    return result


def _passing_on(gram: np.ndarray, ridge: float) -> np.ndarray:
    """Return the upper factor U of (gram + ridge I)^-1 = U^T U, the ridge ten times larger until there is one."""
    plain = gram.diagonal().copy()
    while True:
        np.fill_diagonal(gram, plain + ridge)
        try:
            inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram), np.eye(len(gram)))
            return scipy.linalg.cholesky(inverse, lower=False)
        except np.linalg.LinAlgError:
            ridge *= 10
            if not ridge < np.finfo(np.float64).max / 10:
                raise
