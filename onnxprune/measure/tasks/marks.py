"""Tasks that mark what is there: pixels of classes, independent labels; and values that only have to be near."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.measure.outputs import Output
from onnxprune.measure.tasks.task import Answered, Scored, Task


def marked(task: Task, answered: Answered) -> list[np.ndarray]:
    """Return bool[samples, labels] per output: what lies above the threshold; scores beyond 0..1 are taken for logits."""
    return [above(how, answered.results[name], task["threshold"], answered.mask) for name, how in task.outputs.items()]


def above(how: Output, value: np.ndarray, threshold: float, mask: np.ndarray | None = None) -> np.ndarray:
    """Return bool[samples, elements]: which are above a probability."""
    rows = how.rows(value)
    with np.errstate(divide="ignore"):
        limit = threshold if how.shares else np.log(threshold) - np.log1p(-threshold)
    with np.errstate(invalid="ignore"):
        found = rows > limit
    valid = how.valid(value, mask)
    return (found if valid is None else found & valid[..., None]).reshape(len(rows), -1)


def f1_of_labels(task: Task, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Scored:
    """Return per sample the F1 of its labels, the mean over outputs that have any; per output the F1 of all."""
    scores, parts = [], {}
    for name, a, b in zip(task.outputs, before, after, strict=True):
        both, total = _agreeing(a, b)
        scores.append(2 * both / np.where(total, total, np.nan))
        parts[name] = (2 * float(both.sum()), float(total.sum()))
    return Scored(_mean_known(np.stack(scores)), parts if len(parts) > 1 else {"all": next(iter(parts.values()))})


def _agreeing(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return per sample how many labels both have, and how many each has, added up."""
    if a.shape != b.shape:
        return np.zeros(len(a)), np.maximum(a.sum(axis=1), 1)
    return (a & b).sum(axis=1).astype(np.float64), (a.sum(axis=1) + b.sum(axis=1)).astype(np.float64)


def _mean_known(scores: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(scores)
    return np.where(known, scores, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)


# --- segmentation -----------------------------------------------------------------------------------------------------


def painted(task: Task, answered: Answered) -> list[np.ndarray]:
    """Return int32[samples, pixels] per output: the class of each pixel; of a single map 1 above the threshold, else -1."""
    found = []
    for name, how in task.outputs.items():
        rows = how.rows(answered.results[name])
        if rows.shape[-1] > 1 and how.classes:
            found.append(rows.argmax(axis=-1).astype(np.int32))
            continue
        each = above(how, answered.results[name], task["threshold"])
        found.append(np.where(each, 1 + np.arange(each.shape[1]) % rows.shape[-1], -1).astype(np.int32))
    return found


def mean_iou(task: Task, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Scored:
    """Return per sample the mean IoU of the classes that the original sees there; per class that of all pixels."""
    del task
    scores, sums = [], dict[str, np.ndarray]()
    for a, b in zip(before, after, strict=True):
        found = np.full(len(a), np.nan)
        for sample, (one, other) in enumerate(zip(a, b if b.shape == a.shape else np.full(a.shape, -2), strict=True)):
            ious = []
            for label in np.unique(np.r_[one, other]) if (one >= 0).any() or (other >= 0).any() else ():
                if label >= 0:
                    both, either = ((one == label) & (other == label)).sum(), ((one == label) | (other == label)).sum()
                    ious += [both / either] if (one == label).any() or not (one >= 0).any() else []
                    sums[f"class {label}"] = sums.get(f"class {label}", np.zeros(2)) + np.array([both, either])
            found[sample] = np.mean(ious) if ious else np.nan
        scores.append(found)
    return Scored(_mean_known(np.stack(scores)), {name: (float(a), float(b)) for name, (a, b) in sums.items()})


# --- values -----------------------------------------------------------------------------------------------------------


def values(task: Task, answered: Answered) -> list[np.ndarray]:
    """Return float64[samples, positions, channels] per output, in deviations of the original's channels."""
    return [how.rows(answered.results[name]).astype(np.float64) / how.scale for name, how in task.outputs.items()]


def near_values(task: Task, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Scored:
    """Return per sample the share of its values that are off by no more than the tolerance, in deviations of their channel.

    With it the share of the variance that is explained, R2 = 1 - mean squared error / variance, not below 0.
    """
    scores, left, whole = [], 0.0, 0.0
    for a, b in zip(before, after, strict=True):
        known = np.isfinite(a)
        with np.errstate(invalid="ignore"):
            error = np.abs(a - b) if a.shape == b.shape else np.full(a.shape, np.inf)
        fits = known & (error <= task["tolerance"])
        counted = known.sum(axis=(1, 2))
        scores.append(fits.sum(axis=(1, 2)) / np.where(counted, counted, np.nan))
        squares = np.minimum(np.nan_to_num(np.square(np.where(known, error, 0.0)), nan=np.inf), 1e6)
        left, whole = left + float(squares.sum()), whole + float(known.sum())
    return Scored(_mean_known(np.stack(scores)), {"R2": (max(whole - left, 0.0), whole)})
