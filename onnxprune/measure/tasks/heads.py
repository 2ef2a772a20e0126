"""How detectors say what they see: where boxes, scores and classes are in their outputs, and how these are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy

from onnxprune.measure.tasks.boxes import Detections, best_of_each, confident, corners_of
from onnxprune.measure.tasks.task import Answered, Task

RAW: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "sigmoid": lambda x: scipy.special.expit(x),
    "softmax": lambda x: scipy.special.softmax(x, axis=-1),
}
"""How class scores become probabilities."""


class Plane(NamedTuple):
    """Channels of an output, seen as [samples, places, channels]; an axis that is None is not there and counts as one."""

    name: str
    samples_axis: int | None
    channel_axis: int | None
    channels: tuple[int, int] | None = None

    def rows(self, results: Mapping[str, Any]) -> np.ndarray:
        value = np.asarray(results[self.name])
        last = value if self.channel_axis is not None else value[..., None]
        channels = last.ndim - 1 if self.channel_axis is None else self.channel_axis
        first = [] if self.samples_axis is None else [self.samples_axis]
        others = [axis for axis in range(last.ndim) if axis not in (*first, channels)]
        moved = last.transpose([*first, *others, channels])
        samples = moved.shape[0] if first else 1
        rows = moved.reshape(samples, int(np.prod(moved.shape[len(first) : -1])), moved.shape[-1])
        return rows if self.channels is None else rows[..., slice(*self.channels)]


@dataclass(frozen=True)
class Dense:
    """A head that says something at every place: boxes and scores side by side, in one output or in two.

    ``centred``: boxes are centre and size, not corners. ``objectness``: a channel by which class scores are multiplied.
    ``squash``: see ``RAW``; ``background``: the class that means nothing is there.
    """

    boxes: Plane
    scores: Plane
    centred: bool = False
    objectness: Plane | None = None
    squash: str = "none"
    background: int | None = None

    def probabilities(self, results: Mapping[str, Any]) -> np.ndarray:
        """Return float64[samples, places, classes], the background left out."""
        found = RAW[self.squash](self.scores.rows(results).astype(np.float64))
        if self.background is not None:
            found = np.delete(found, self.background, axis=-1)
        return found if self.objectness is None else found * self.objectness.rows(results)

    def corners(self, results: Mapping[str, Any]) -> np.ndarray:
        """Return float64[samples, places, 4]."""
        found = self.boxes.rows(results).astype(np.float64)
        return corners_of(found) if self.centred else found

    @property
    def planes(self) -> tuple[Plane, ...]:
        return tuple(plane for plane in (self.boxes, self.objectness, self.scores) if plane is not None)

    def read(self, task: Task, answered: Answered) -> list[Detections]:
        return _read(self, task, answered)


@dataclass(frozen=True)
class Grid(Dense):
    """A head without anchors: boxes are distances from the middle of a cell to the left, top, right and bottom.

    ``places``: rows and columns of cells, boxes for each; ``stride``: side of a cell, in whatever unit all levels share;
    ``unit``: of a distance.
    """

    places: tuple[int, int, int] = (1, 1, 1)
    stride: float = 1.0
    unit: float = 1.0

    def corners(self, results: Mapping[str, Any]) -> np.ndarray:
        rows, columns, each = self.places
        y, x = np.divmod(np.arange(rows * columns).repeat(each), columns)
        middle = (np.stack([x, y], axis=-1) + 0.5) * self.stride
        distances = self.boxes.rows(results).astype(np.float64) * self.unit
        return np.concatenate([middle - distances[..., :2], middle + distances[..., 2:]], axis=-1)


@dataclass(frozen=True)
class Levels:
    """Heads of several sizes, put together."""

    of: tuple[Dense, ...]

    def probabilities(self, results: Mapping[str, Any]) -> np.ndarray:
        return np.concatenate([head.probabilities(results) for head in self.of], axis=1)

    def corners(self, results: Mapping[str, Any]) -> np.ndarray:
        return np.concatenate([head.corners(results) for head in self.of], axis=1)

    @property
    def planes(self) -> tuple[Plane, ...]:
        return tuple(plane for head in self.of for plane in head.planes)

    def read(self, task: Task, answered: Answered) -> list[Detections]:
        return _read(self, task, answered)


def _read(head: Dense | Levels, task: Task, answered: Answered) -> list[Detections]:
    """Return what each sample shows: confident boxes, of those that overlap the surest."""
    found = []
    for corners, scores in zip(head.corners(answered.results), head.probabilities(answered.results), strict=True):
        seen = Detections(corners, np.nan_to_num(scores.max(axis=-1)), scores.argmax(axis=-1))
        found.append(best_of_each(confident(seen, task["confidence"]), task["overlap"]))
    return found


@dataclass(frozen=True)
class Listed:
    """A head that lists what is seen: corners, score and class of each box, overlaps sorted out inside the model.

    ``batch``: where each box says of which sample it is; without, samples are on the first axis, or there is but one.
    """

    boxes: Plane
    scores: Plane
    classes: Plane | None
    batch: Plane | None = None

    @property
    def planes(self) -> tuple[Plane, ...]:
        return tuple(plane for plane in (self.batch, self.boxes, self.classes, self.scores) if plane is not None)

    def read(self, task: Task, answered: Answered) -> list[Detections]:
        results = answered.results
        corners, scores = (
            self.boxes.rows(results).astype(np.float64),
            self.scores.rows(results)[..., 0].astype(np.float64),
        )
        classes = np.zeros(scores.shape) if self.classes is None else self.classes.rows(results)[..., 0]
        whole = np.round(np.nan_to_num(classes)).astype(np.int64)
        if self.batch is None:
            each = [Detections(*parts) for parts in zip(corners, scores, whole, strict=True)]
        else:
            number, samples = self.batch.rows(results)[0, :, 0], samples_of(task, answered)
            everything = Detections(corners[0], scores[0], whole[0])
            each = [everything.only(number == sample) for sample in range(samples)]
        return [confident(seen, task["confidence"]) for seen in each]


def samples_of(task: Task, answered: Answered) -> int:
    """Return how many samples a batch holds."""
    first = next((array for array in answered.inputs.values() if np.ndim(array)), None)
    return 1 if task.alone or first is None else len(first)
