"""Where a detector looks: most places are background, and what counts are those where either model sees something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune.measure.tasks.heads import Dense, Levels
from onnxprune.measure.tasks.task import Task

if TYPE_CHECKING:
    from onnxprune.measure.outputs import Output

HALF = 0.5  # an error of so much probability, or of so much of a box's side, counts as one
SMALLEST = 1e-4  # of the largest area: no box counts as smaller
FAINT = 0.02  # the least weight of a place


@dataclass(frozen=True)
class Focus:
    """How much the rows of one output of a detector count; float64[samples * positions] each, float64[channels] the last.

    ``count``: by which a mean is taken. ``scores``, ``boxes``: what errors of class scores (and all else), and of boxes, are multiplied
    by; ``is_box``: bool[channels]. ``unit``: what errors of a channel are multiplied by everywhere.
    """

    count: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    is_box: np.ndarray
    unit: np.ndarray

    def only(self, rows: np.ndarray) -> Focus:
        return Focus(self.count[rows], self.scores[rows], self.boxes[rows], self.is_box, self.unit)

    def weighed(self, errors: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return sums and counts, float64[channels] each, of errors [rows, channels] that begin at row ``start``."""
        rows = slice(start, start + len(errors))
        factor = np.where(self.is_box, self.boxes[rows, None], self.scores[rows, None])
        known = ~np.isnan(errors)
        with np.errstate(invalid="ignore"):
            sums = np.where(known & (factor > 0), errors * factor, 0.0).sum(axis=0) * self.unit
        return sums, (known * self.count[rows, None]).sum(axis=0)


def focused(
    task: Task, outputs: Mapping[str, Output], expected: Mapping[str, Any], found: Mapping[str, Any]
) -> dict[str, Focus]:
    """Return how much each row of a detector's outputs counts, for those whose channels are where the head has them.

    A place counts by the confidence there: the original's, for class scores the larger of both models'. Errors of probabilities
    are in halves, errors of boxes in halves of the original box's side, whatever their scales.
    """
    result: dict[str, Focus] = {}
    for head in heads(task):
        mine, other = (confidence(head, results) for results in (expected, found))
        if mine.shape != other.shape:
            continue
        corners = head.corners(expected)
        area = np.prod(np.clip(corners[..., 2:] - corners[..., :2], 0, None), axis=-1)
        area = np.maximum(area, max(SMALLEST * float(area.max(initial=0.0)), 1e-30))
        for name in dict.fromkeys(plane.name for plane in head.planes):
            how = outputs.get(name)
            if how is not None and _fits(head, how):
                is_box, unit = _channels(head, how)
                rows = mine.reshape(-1)
                result[name] = Focus(rows, np.maximum(mine, other).reshape(-1), (mine / area).reshape(-1), is_box, unit)
    return result


def worth(task: Task, outputs: Mapping[str, Output], expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return output -> float64[rows, channels]: what errors of a detector's outputs are multiplied by, the mean weight 1.

    As ``focused``, for what does not depend on the other model: class scores count ``FAINT`` at the least, so that nothing is seen
    where nothing is.
    """
    found = focused(task, outputs, expected, expected)
    result = {}
    for name, focus in found.items():
        rows = np.where(focus.is_box, focus.boxes[:, None], np.maximum(focus.scores, FAINT)[:, None])
        result[name] = rows * focus.unit / max(float(focus.count.mean()), FAINT**2)
    return result


def channels_of(task: Task) -> dict[str, int]:
    """Return output -> the axis of its channels, as far as the head of a detector says."""
    planes = (plane for head in heads(task) for plane in head.planes)
    return {plane.name: plane.channel_axis for plane in planes if plane.channel_axis is not None}


def heads(task: Task) -> Iterator[Dense]:
    """Yield the parts of a detector's head that say something at every place."""
    if isinstance(task.head, Levels):
        yield from task.head.of
    elif isinstance(task.head, Dense):
        yield task.head


def confidence(head: Dense, results: Mapping[str, Any]) -> np.ndarray:
    """Return float64[samples, places]: the largest probability of any class, 0 where it is no number."""
    return np.clip(np.nan_to_num(head.probabilities(results).max(axis=-1), posinf=0.0, neginf=0.0), 0.0, 1.0)


def _fits(head: Dense, how: Output) -> bool:
    """Whether rows and channels of the output, as it is compared, are those of the head."""
    planes = [plane for plane in head.planes if plane.name == how.name]
    return all(plane.channel_axis == how.channel_axis and plane.samples_axis == how.samples_axis for plane in planes)


def _channels(head: Dense, how: Output) -> tuple[np.ndarray, np.ndarray]:
    """Return which channels are boxes, and the factor that takes each one's own scale back for one that all share."""
    is_box, unit = np.zeros(len(how.weight), bool), np.ones(len(how.weight))
    if head.boxes.name == how.name:
        is_box[slice(*(head.boxes.channels or (None,)))] = True
        unit[is_box] = np.square(how.scale[is_box] / HALF)
    if head.scores.name == how.name and head.squash == "none" and how.kind == "values":
        there = np.zeros(len(unit), bool)
        there[slice(*(head.scores.channels or (None,)))] = True
        unit[there] = np.square(how.scale[there] / HALF) * there.sum()
    return is_box, unit
