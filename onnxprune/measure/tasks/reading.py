"""Which head a detector has, told from what its outputs look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from onnxprune.measure.outputs import Output
from onnxprune.measure.tasks.heads import Dense, Grid, Levels, Listed, Plane

CERTAIN = 0.98  # share of boxes that have to look like what they are taken for
PLACES = 8  # at least, of a head that says something everywhere
MOST_LISTED = 1000  # boxes of one sample, of a head that lists them
PER_CELL, STRIDES = (1, 2, 3), (4, 8, 16, 32, 64, 128)
LIKELY = 0.3  # of some class, where something is there at all

Detector = Dense | Levels | Listed


@dataclass(frozen=True)
class Scene:
    """What a model gave for some samples: results of one batch, and how each output that is compared is laid out.

    ``samples``: of the batch; ``picture``: height and width of what was fed (None: unknown). ``confidence``, ``objectness``: see
    the options of the task; ``named``: the user says that it detects.
    """

    results: Mapping[str, Any]
    outputs: Mapping[str, Output]
    samples: int
    picture: tuple[int, int] | None = None
    confidence: float = 0.25
    objectness: int = -1
    named: bool = False

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, value in self.results.items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size and value.ndim:
                yield name, value

    def samples_axis(self, name: str) -> int | None:
        if name in self.outputs:
            return self.outputs[name].samples_axis
        value = self.results[name]
        return 0 if value.ndim > 1 and len(value) == self.samples and (self.samples > 1 or value.ndim > 2) else None

    def planes(self, name: str, channels: int | None = None) -> Iterator[Plane]:
        """Yield the ways to see an output as places with so many channels, the graph's own answer first, then the last axis."""
        value, samples = self.results[name], self.samples_axis(name)
        known = self.outputs[name].channel_axis if name in self.outputs else None
        axes = [axis for axis in range(value.ndim) if axis != samples]
        for axis in sorted(axes, key=lambda axis: (axis != known, -axis)):
            if channels is None or value.shape[axis] == channels:
                yield Plane(name, samples, axis)


# --- one output for everything ----------------------------------------------------------------------------------------


def side_by_side(scene: Scene) -> Dense | None:
    """Boxes and scores beside each other: [n, boxes, 4 + 1 + classes], [n, 4 + classes + more, boxes] and the like."""
    for name, value in scene.arrays():
        planes = [(plane, plane.rows(scene.results)) for plane in scene.planes(name)]
        planes.sort(key=lambda pair: not _by_graph(scene, pair[0]) and pair[1].shape[-1])
        for plane, rows in planes:
            if value.dtype.kind == "f" and rows.shape[-1] > 4 and rows.shape[1] >= PLACES:
                found = _parted(scene, plane, rows.reshape(-1, rows.shape[-1]))
                if found is not None:
                    return found
    return None


def _by_graph(scene: Scene, plane: Plane) -> bool:
    how = scene.outputs.get(plane.name)
    return how is not None and how.channel_axis == plane.channel_axis


def _parted(scene: Scene, plane: Plane, rows: np.ndarray) -> Dense | None:
    """Part channels [places, channels] into boxes, objectness and classes: those from the fifth on that lie between 0 and 1."""
    unit = np.asarray(np.logical_and(rows >= 0, rows <= 1).all(axis=0))
    classes = int(np.argmin([*unit[4:].tolist(), False]))
    centred = are_centred(rows[:, :4])
    apart = rows[:, :4].max() > 1.5 or any(group.channels.tolist() == [0, 1, 2, 3] for group in _groups(scene, plane))
    if centred is None or not classes or not (apart or scene.named):
        return None
    objectness = _has_objectness(scene, rows[:, 4 : 4 + classes])
    first = 5 if objectness else 4
    return Dense(
        plane._replace(channels=(0, 4)),
        plane._replace(channels=(first, 4 + classes)),
        centred,
        plane._replace(channels=(4, 5)) if objectness else None,
    )


def _groups(scene: Scene, plane: Plane) -> tuple[Any, ...]:
    return scene.outputs[plane.name].groups if plane.name in scene.outputs else ()


def _has_objectness(scene: Scene, scores: np.ndarray) -> bool:
    """Whether the first of these says that anything is there: where it is high some class is, too, as no two classes are."""
    if scene.objectness >= 0 or scores.shape[1] < 2:
        return bool(scene.objectness > 0) and scores.shape[1] > 1
    best = scores[:, 1:].max(axis=1)
    there = scores[:, 0] >= scene.confidence
    return bool(
        there.any() and (scores[:, 0] * best >= scene.confidence).any() and np.mean(best[there] >= LIKELY) > 0.8
    )


def are_centred(boxes: np.ndarray) -> bool | None:
    """Tell centre and size (True) from corners (False) in [boxes, 4]; None where it is neither."""
    known = boxes[np.isfinite(boxes).all(axis=1)].astype(np.float64)
    if not len(known):
        return None
    if np.mean((known[:, 2:] >= known[:, :2]).all(axis=1)) >= CERTAIN:
        return False
    return True if np.mean((known[:, 2:] >= 0).all(axis=1)) >= CERTAIN else None


# --- boxes and scores in outputs of their own -------------------------------------------------------------------------


def apart(scene: Scene) -> Dense | None:
    """Boxes and scores of as many places: [n, places, 4] and [n, places, classes], axes in any order."""
    for boxes, scores in _pairs(scene):
        rows = boxes.rows(scene.results)
        centred = are_centred(rows.reshape(-1, 4))
        if centred is None or rows.shape[1] < PLACES:
            continue
        squash, background = how_squashed(scores.rows(scene.results))
        return Dense(boxes, scores, centred, None, squash, background)
    return None


def _pairs(scene: Scene) -> Iterator[tuple[Plane, Plane]]:
    """Yield (boxes, scores) of as many places; what a name says comes first."""
    floats = [name for name, value in scene.arrays() if value.dtype.kind == "f"]
    names = sorted(product(floats, floats), key=lambda pair: -_named_so(*pair))
    for one, other in names:
        for boxes in scene.planes(one, 4) if one != other else ():
            places = boxes.rows(scene.results).shape[:2]
            for scores in scene.planes(other):
                if scores.rows(scene.results).shape[:2] == places and _scores_like(scene, scores):
                    yield boxes, scores


def _named_so(boxes: str, scores: str) -> int:
    return ("box" in boxes.lower()) + any(word in scores.lower() for word in ("score", "logit", "cls", "class", "conf"))


def _scores_like(scene: Scene, plane: Plane) -> bool:
    """Whether values are probabilities or, by name or by the graph, logits."""
    rows = plane.rows(scene.results)
    if rows.min() >= 0 and rows.max() <= 1:
        return True
    known = scene.outputs.get(plane.name)
    return _named_so("", plane.name) > 0 or (known is not None and known.classes)


def how_squashed(rows: np.ndarray) -> tuple[str, int | None]:
    """Return (how scores [.., classes] become probabilities, the class that means nothing is there).

    One that most places choose, first or last, is the background of a softmax; a sigmoid has none.
    """
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    classes = flat.shape[1]
    given = bool(flat.min() >= 0 and flat.max() <= 1)
    shared = not given or bool(np.allclose(flat.sum(axis=1), 1, atol=1e-3))
    usual = int(np.bincount(flat.argmax(axis=1)).argmax()) if classes > 1 else -1
    rules = shared and usual in (0, classes - 1) and np.mean(flat.argmax(axis=1) == usual) > 0.5
    if not given and rules:  # logits of a sigmoid are negative wherever nothing is
        rules = bool(np.median(flat[:, usual]) > np.log(1 / 3))
    squash = "none" if given else "softmax" if rules else "sigmoid"
    return squash, usual if rules else None


# --- what a model lists after sorting out overlaps --------------------------------------------------------------------


def listed(scene: Scene) -> Listed | None:
    """One row per box: [n, boxes, 6] of corners, score and class in either order, or [boxes, 7] with the sample first."""
    for name, value in scene.arrays():
        width = value.shape[-1]
        if value.dtype.kind != "f" or value.ndim < 2 or width not in (6, 7):
            continue
        plane = Plane(name, scene.samples_axis(name), value.ndim - 1)
        rows = plane.rows(scene.results)
        first = width - 6
        boxes = rows[..., first : first + 4].reshape(-1, 4)
        pairs = [(first + 4, first + 5), (first + 5, first + 4)]
        order = next((p for p in pairs if _is_score(rows[..., p[0]]) and are_whole(rows[..., p[1]])), None)
        numbered = first == 0 or (rows.shape[0] == 1 and are_whole(rows[..., 0]))
        if order is None or not numbered or are_centred(boxes) is not False or rows.shape[1] > MOST_LISTED:
            continue
        score, label = (plane._replace(channels=(at, at + 1)) for at in order)
        batch = plane._replace(channels=(0, 1)) if first else None
        if batch is not None or len(rows) == scene.samples:
            return Listed(plane._replace(channels=(first, first + 4)), score, label, batch)
    return None


def several(scene: Scene) -> Listed | None:
    """Corners, scores and classes in outputs of their own: [n, boxes, 4], [n, boxes], [n, boxes], or without the samples."""
    for name, value in scene.arrays():
        if value.shape[-1] != 4 or value.dtype.kind != "f" or value.ndim < 2:
            continue
        boxes = Plane(name, scene.samples_axis(name), value.ndim - 1)
        rows = boxes.rows(scene.results)
        if are_centred(rows.reshape(-1, 4)) is not False or rows.shape[1] > MOST_LISTED or len(rows) != scene.samples:
            continue
        beside = {other: found for other, found in scene.arrays() if other != name and found.shape == value.shape[:-1]}
        scores = [other for other, found in beside.items() if found.dtype.kind == "f" and _is_score(found)]
        labels = [other for other, found in beside.items() if are_whole(found) and other not in scores[:1]]
        if scores and labels:
            return Listed(boxes, Plane(scores[0], boxes.samples_axis, None), Plane(labels[0], boxes.samples_axis, None))
    return None


def _is_score(values: np.ndarray) -> bool:
    return bool((values >= 0).all() and (values <= 1).all() and not are_whole(values))


def are_whole(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values == np.round(values)).all() and values.min() >= -1)


# --- maps of several sizes --------------------------------------------------------------------------------------------


def levels(scene: Scene) -> Levels | None:
    """Scores and distances per cell, a pair of outputs for each size of cells: [n, classes, h, w] and [n, 4, h, w], or flat."""
    if scene.picture is None:
        return None
    heads: dict[int, Dense] = {}
    for boxes, scores in _pairs(scene):
        distances = boxes.rows(scene.results)
        places = _cells(scene.results[boxes.name].shape, boxes, distances.shape[1], scene.picture)
        if places is None or distances.shape[1] in heads or np.mean(distances >= 0) < CERTAIN:
            continue
        squash, background = how_squashed(scores.rows(scene.results))
        heads[distances.shape[1]] = Grid(
            boxes, scores, squash=squash, background=background,
            places=places, stride=scene.picture[1] / places[1],
            unit=1.0 if distances.max() > max(places[:2]) else scene.picture[1] / places[1],
        )  # fmt: skip
    maps = any(scene.results[head.boxes.name].ndim == 4 for head in heads.values())
    return Levels(tuple(heads[count] for count in sorted(heads, reverse=True))) if maps or len(heads) > 1 else None


def _cells(shape: tuple[int, ...], plane: Plane, count: int, picture: tuple[int, int]) -> tuple[int, int, int] | None:
    """Return (rows, columns, boxes for each) of the cells of a map, or of as many places as some stride gives."""
    inner = [size for axis, size in enumerate(shape) if axis not in (plane.samples_axis, plane.channel_axis)]
    if len(inner) == 2:
        return inner[0], inner[1], 1
    sizes = ((-(-picture[0] // s), -(-picture[1] // s)) for s in STRIDES)
    return next(((h, w, k) for h, w in sizes for k in PER_CELL if h * w * k == count), None)


HEADS: Mapping[str, Callable[[Scene], Detector | None]] = {
    "a list of boxes": listed,
    "boxes, scores and classes": several,
    "distances per cell": levels,
    "boxes beside scores": apart,
    "boxes and scores in one output": side_by_side,
}
"""What a head is called -> how it is recognised; the first that is counts."""


def head_of(scene: Scene) -> tuple[str, Detector] | None:
    """Return the head of a detector with what it is called; None where none is recognised."""
    found = ((name, recognise(scene)) for name, recognise in HEADS.items())
    return next(((name, head) for name, head in found if head is not None), None)
