"""The task of an embedding: that what was near stays near."""

from __future__ import annotations

import numpy as np

from onnxprune.measure.metrics import cosine_of_rows
from onnxprune.measure.tasks.task import Answered, Scored, Task

MOST = 4096  # rows among which neighbours are looked for
CHANCE = 4  # rows for each neighbour at least: of fewer, too many would stay by chance
AT_ONCE = 512  # rows whose neighbours are looked for at a time


def vectors(task: Task, answered: Answered) -> np.ndarray:
    """Return float32[samples, channels]."""
    ((name, how),) = task.outputs.items()
    rows = how.rows(answered.results[name])
    return np.nan_to_num(rows.reshape(len(rows), -1).astype(np.float32), posinf=0.0, neginf=0.0)


def neighbours_kept(task: Task, before: np.ndarray, after: np.ndarray) -> Scored:
    """Return per sample the share of its nearest neighbours by cosine, among the first ``MOST`` samples, that stay such.

    A vector of zeros has none. Fewer than three samples have no neighbours to lose: their cosine to the original, not below 0, counts.
    """
    if before.shape != after.shape:
        return Scored(np.zeros(len(before)), {"cosine": (0.0, float(len(before)))})
    cosines = np.clip(cosine_of_rows(before.astype(np.float64), after.astype(np.float64)), 0.0, 1.0)
    parts = {"cosine": (float(cosines.sum()), float(len(before)))}
    if len(before) < 3:
        return Scored(cosines, parts)
    count = int(min(task["neighbours"], max((min(len(before), MOST) - 1) // CHANCE, 1)))
    a, b = (nearest_rows(x[:MOST], count) for x in (before, after))
    kept = np.array([len(np.intersect1d(one, two)) for one, two in zip(a, b, strict=True)]) / count
    scores = np.full(len(before), np.nan)
    scores[:MOST] = np.where(after[:MOST].any(axis=1), kept, 0.0)
    return Scored(scores, parts)


def nearest_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Return int64[samples, count]: the others with the largest cosine, ties to the lower index."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    units = (rows / np.where(norms > 0, norms, 1.0)).astype(np.float64)
    found = []
    for start in range(0, len(units), AT_ONCE):
        near = units[start : start + AT_ONCE] @ units.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        found.append(np.argsort(-near, axis=1, kind="stable")[:, :count])
    return np.concatenate(found)
