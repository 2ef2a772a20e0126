"""Weights rounded one input after the other, so that those still to come make up for what rounding takes off."""

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported where they are used

from onnxprune.repair.stored import IntegerGrid, limits

BLOCK = 64  # inputs whose errors are passed on one by one; to the rest they go in one product


def rounded(weights: np.ndarray, gram: np.ndarray, ridge: float, grid: IntegerGrid, dtype: np.dtype) -> np.ndarray:
    """Return float64[o, d] on a grid of as many positions: what gives nearly the same from inputs of moments ``gram`` float64[d, d].

    ``dtype``: of the grid's integers. Inputs that vary most come first. Source: optimal brain quantisation in one order for all
    outputs (Frantar et al. 2023, "GPTQ", algorithm 1), here with a given grid, whose ends cost errors too.
    """
    order = np.argsort(-gram.diagonal(), kind="stable")
    upper = _passing_on(gram[np.ix_(order, order)], ridge)
    left = np.ascontiguousarray(weights.T[order], np.float64)  # an input's weights lie side by side
    scale, zero, (low, high) = grid.scale.T[order], grid.zero.T[order], limits(dtype)
    inverse = np.divide(1.0, scale, out=np.zeros(scale.shape), where=scale != 0)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.zeros((stop - start, left.shape[1]))
        for number in range(start, stop):
            integers = np.rint(left[number] * inverse[number] + zero[number]).clip(low, high)
            near = (integers - zero[number]) * scale[number]
            errors[number - start] = (left[number] - near) / upper[number, number]
            left[number] = near
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
