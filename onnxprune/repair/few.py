"""Fewer rows than inputs: the same ridge regression, solved among the rows instead of among the inputs."""

from __future__ import annotations

import numpy as np

from onnxprune.repair.moments import LEAST, NOISE, solve_damped


def solve_among_rows(
    x: np.ndarray, t: np.ndarray, old: np.ndarray, damping: float, intercept: bool, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``solve`` gives for the moments of rows x float32[groups, n, d] and t float32[groups, n, o].

    ``old``: float64[groups, o, d]; ``weights``: float32[n], how often each row counts. O(n^2 d) time and O(n d) memory where ``solve``
    takes O(d^3) and O(d^2). Source: (X^T X + r I)^-1 X^T = X^T (X X^T + r I)^-1, the dual form of ridge regression (Saunders et al. 1998).
    """
    counts = np.ones(x.shape[1]) if weights is None else weights.astype(np.float64)
    total = counts.sum()
    mean_x, mean_t = (np.einsum("gnk,n->gk", rows, counts, dtype=np.float64) / total for rows in (x, t))
    root = np.sqrt(counts).astype(np.float32)[:, None]
    fitted = np.array(old, np.float64)
    for g in range(len(fitted)):
        rows = (x[g] - (mean_x[g] if intercept else 0.0)).astype(np.float32) * root
        wanted = (t[g] - (mean_t[g] if intercept else 0.0)) * root - rows @ old[g].T
        power = float(np.einsum("nd,nd->", rows, rows, dtype=np.float64)) / max(rows.shape[1], 1)
        noise = NOISE * (power + total * np.square(mean_x[g]).sum() / max(rows.shape[1], 1))
        between = (rows @ rows.T).astype(np.float64)
        fitted[g] += solve_damped(between, wanted, damping * max(power, LEAST) + noise).T @ rows
    return fitted, mean_t - np.einsum("god,gd->go", fitted, mean_x) if intercept else np.zeros_like(mean_t)
