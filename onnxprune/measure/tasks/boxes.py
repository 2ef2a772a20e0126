"""Boxes: their overlap, the best of those that overlap, and how far two models' detections agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.measure.tasks.task import Scored, Task

MOST_CANDIDATES, MOST_BOXES = 2000, 300  # of one picture: before and after the best are chosen


class Detections(NamedTuple):
    """What is seen in one picture: corners float64[boxes, 4], scores float64[boxes], classes int64[boxes]."""

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def only(self, rows: np.ndarray) -> Detections:
        return Detections(*(part[rows] for part in self))


def corners_of(centred: np.ndarray) -> np.ndarray:
    """Return [.., 4] corners of boxes given by centre and size."""
    centre, half = centred[..., :2], centred[..., 2:4] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return float64[a, b]: intersection over union of boxes given by corners, 0 where both are empty."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=-1) for x in (a, b)]
    either = areas[0][:, None] + areas[1][None, :] - both
    return both / np.where(either > 0, either, 1.0)


def confident(found: Detections, least: float) -> Detections:
    """Return those that are at least so sure, the surest first, ties to the lower index."""
    usable = np.isfinite(found.corners).all(axis=1) & (found.scores >= least)
    rows = np.flatnonzero(usable)
    return found.only(rows[np.argsort(-found.scores[rows], kind="stable")][:MOST_CANDIDATES])


def best_of_each(found: Detections, overlap: float) -> Detections:
    """Return what greedy non-maximum suppression leaves: of boxes of one class that overlap by more, the surest."""
    left, kept = np.ones(len(found.scores), bool), list[int]()
    for row in range(len(found.scores)):
        if not left[row] or len(kept) == MOST_BOXES:
            continue
        kept.append(row)
        later = np.flatnonzero(left[row + 1 :] & (found.classes[row + 1 :] == found.classes[row])) + row + 1
        left[later[overlaps(found.corners[[row]], found.corners[later])[0] > overlap]] = False
    return found.only(np.array(kept, np.int64))


def f1_of_boxes(task: Task, before: Sequence[Detections], after: Sequence[Detections]) -> Scored:
    """Return per picture the F1 of its boxes, per class that of all pictures; pictures without any box say nothing.

    Boxes of one class match, the surest first, with whichever overlaps most, by at least ``iou``.
    """
    sums: dict[str, np.ndarray] = {}
    scores = np.full(len(before), np.nan)
    for sample, (one, other) in enumerate(zip(before, after, strict=True)):
        counts = _matches(one, other, task["iou"])
        for label, (both, total) in counts.items():
            sums[f"class {label}"] = sums.get(f"class {label}", np.zeros(2)) + np.array([2 * both, total])
        total = sum(total for _, total in counts.values())
        if total:
            scores[sample] = 2 * sum(both for both, _ in counts.values()) / total
    parts = {"all boxes": np.sum([*sums.values()], axis=0) if sums else np.zeros(2)} | dict(sorted(sums.items()))
    return Scored(scores, {name: (float(both), float(total)) for name, (both, total) in parts.items()})


def _matches(one: Detections, other: Detections, iou: float) -> Mapping[int, tuple[int, int]]:
    """Return class -> (boxes that match, boxes of both models)."""
    found = {}
    for label in np.union1d(one.classes, other.classes).tolist():
        a, b = one.only(one.classes == label), other.only(other.classes == label)
        shared = overlaps(a.corners, b.corners)
        both = 0
        for column in range(len(b.scores)):
            row = int(np.argmax(shared[:, column])) if len(a.scores) else 0
            if len(a.scores) and shared[row, column] >= iou:
                shared[row] = -1.0
                both += 1
        found[label] = both, len(a.scores) + len(b.scores)
    return found
