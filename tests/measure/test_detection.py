"""Detectors: every layout read alike, boxes matched by hand, and a judge that looks where something is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from onnxprune.errors import UsageError
from onnxprune.measure.kinds import Place, outputs_like
from onnxprune.measure.outputs import Layout, Outputs
from onnxprune.measure.tasks.agreement import TaskAgreement
from onnxprune.measure.tasks.boxes import Detections, best_of_each, overlaps
from onnxprune.measure.tasks.choice import Judged, least_lost
from onnxprune.measure.tasks.find import Shown, task_of
from onnxprune.measure.tasks.heads import Dense, Levels, Listed
from onnxprune.measure.tasks.task import Answered, Asked, Task, parse_task

RNG = np.random.default_rng(0)
SAMPLES, PLACES, CLASSES, SIZE = 4, 64, 3, 64
Results = Mapping[str, np.ndarray]


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Boxes [samples, places, 4] as centre and size, and probabilities [samples, places, classes]: two things in each picture."""
    grid = np.stack(np.divmod(np.arange(PLACES), 8), axis=-1)[:, ::-1] * 8.0 + 4
    boxes = np.concatenate([grid, np.full((PLACES, 2), 10.0)], axis=1) + RNG.uniform(-1, 1, (SAMPLES, PLACES, 4))
    scores = RNG.uniform(0, 0.004, (SAMPLES, PLACES, CLASSES))
    for sample in range(SAMPLES):
        scores[sample, 5 + sample, 0], scores[sample, 40 + sample, 2] = 0.9, 0.8
    return boxes.astype(np.float32), scores.astype(np.float32)


BOXES, SCORES = scene()
CORNERS = np.concatenate([BOXES[..., :2] - BOXES[..., 2:] / 2, BOXES[..., :2] + BOXES[..., 2:] / 2], axis=-1)


def shown(results: Results, layouts: Mapping[str, Layout] | None = None) -> Shown:
    places = {name: Place(0) for name in results}
    pictures = {"x": np.zeros((SAMPLES, 3, SIZE, SIZE), np.float32)}
    return Shown(outputs_like([results], places, layouts), layouts or {}, [Answered(results, None, pictures)])


def detector(results: Results, asked: str = "auto", layouts: Mapping[str, Layout] | None = None) -> Task:
    task, reason = task_of(parse_task(asked), shown(results, layouts))
    assert task is not None, reason
    return task


def score_of(task: Task, before: Results, after: Results) -> np.ndarray:
    agreement, inputs = TaskAgreement(task), {"x": np.zeros((SAMPLES, 3, SIZE, SIZE), np.float32)}
    agreement.update(Answered(before, None, inputs), Answered(after, None, inputs))
    return agreement.scores


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_overlap_by_hand() -> None:
    a, b = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]])
    np.testing.assert_allclose(overlaps(a, b), [[2 / 6, 0, 1]])
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4))) == 0


def test_of_boxes_of_a_class_that_overlap_the_surest_stays() -> None:
    corners = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    seen = Detections(corners, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0]))
    assert best_of_each(seen, 0.5).scores.tolist() == [0.9, 0.7, 0.6]


def test_f1_by_hand() -> None:
    # of the two boxes of each picture one stays, one is moved away, and one appears that was not there
    after = {"boxes": CORNERS.copy(), "scores": SCORES.copy()}
    for sample in range(SAMPLES):
        after["boxes"][sample, 40 + sample] += 9
        after["scores"][sample, 20, 1] = 0.5
    before = {"boxes": CORNERS, "scores": SCORES}
    task = detector(before)
    assert score_of(task, before, after).tolist() == pytest.approx([2 * 1 / (2 + 3)] * SAMPLES)
    agreement = TaskAgreement(task)
    agreement.update(Answered(before), Answered(after))
    parts = agreement.to_json()["parts"]
    assert (
        parts["class 0"] == {"score": 1.0, "of": 8.0}
        and parts["class 2"]["score"] == 0.0
        and parts["class 1"]["of"] == 4.0
    )
    assert parts["all boxes"]["score"] == pytest.approx(2 / 5)


# --- layouts ----------------------------------------------------------------------------------------------------------


def _objectness() -> np.ndarray:
    """A channel that says that anything is there, and classes that are said of every place."""
    there = SCORES.max(axis=-1, keepdims=True)
    return np.concatenate([BOXES, there, np.clip(SCORES / there * 0.95, 0, 1)], axis=-1).astype(np.float32)


def _logits(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p)).astype(np.float32)


def _with_background(last: bool) -> np.ndarray:
    rest = np.maximum(1 - SCORES.sum(axis=-1, keepdims=True), 0.01)
    whole = np.concatenate([SCORES, rest] if last else [rest, SCORES], axis=-1)
    return (whole / whole.sum(axis=-1, keepdims=True)).astype(np.float32)


def _listed(scores_first: bool, batch: bool) -> np.ndarray:
    rows = []
    for sample in range(SAMPLES):
        for place, label in ((5 + sample, 0), (40 + sample, 2)):
            pair = [SCORES[sample, place, label], label]
            rows.append(
                [*([sample] if batch else []), *CORNERS[sample, place], *(pair if scores_first else pair[::-1])]
            )
    found = np.array(rows, np.float32)
    return found if batch else found.reshape(SAMPLES, 2, 6)


def _each(index: int) -> np.ndarray:
    return np.ascontiguousarray(_listed(True, False)[..., index])


def _maps() -> dict[str, np.ndarray]:
    """Distances from the middle of cells of side 8, in pixels."""
    grid = np.stack(np.divmod(np.arange(PLACES), 8), axis=-1)[:, ::-1] * 8.0 + 4
    distances = np.concatenate([grid - CORNERS[..., :2], CORNERS[..., 2:] - grid], axis=-1)
    as_maps = [np.moveaxis(value.reshape(SAMPLES, 8, 8, -1), -1, 1).astype(np.float32) for value in (distances, SCORES)]
    return {"reg": as_maps[0] * 4, "cls": as_maps[1]}


LIST = {"y": Layout(varies=True)}
LAYOUTS: dict[str, tuple[Results, Mapping[str, Layout] | None, type]] = {
    "places last": ({"y": np.moveaxis(np.concatenate([BOXES, SCORES], axis=-1), -1, 1)}, {"y": Layout(1, shares=True)}, Dense),
    "places first": ({"y": np.concatenate([BOXES, SCORES], axis=-1)}, {"y": Layout(2, shares=True)}, Dense),
    "corners": ({"y": np.concatenate([CORNERS, SCORES], axis=-1)}, {"y": Layout(2, shares=True)}, Dense),
    "masks beside": (
        {"y": np.concatenate([BOXES, SCORES, RNG.standard_normal((SAMPLES, PLACES, 8))], axis=-1).astype(np.float32)},
        {"y": Layout(2, shares=True)},
        Dense,
    ),
    "objectness": ({"y": _objectness()}, {"y": Layout(2, shares=True)}, Dense),
    "apart": ({"boxes": BOXES, "scores": SCORES}, None, Dense),
    "apart, places last": ({"boxes": np.moveaxis(BOXES, -1, 1), "scores": np.moveaxis(SCORES, -1, 1)}, None, Dense),
    "logits of sigmoids": ({"pred_boxes": BOXES / SIZE, "logits": _logits(SCORES.clip(1e-3, 0.99))}, None, Dense),
    "background first": ({"boxes": CORNERS, "scores": _with_background(False)}, None, Dense),
    "background last": ({"pred_boxes": BOXES / SIZE, "logits": np.log(_with_background(True) + 1e-4)}, None, Dense),
    "one list": ({"y": _listed(True, False)}, LIST, Listed),
    "one list, class first, with samples": ({"y": _listed(False, True)}, LIST, Listed),
    "three lists": (
        {"y": CORNERS[:, :2] * 0 + _listed(True, False)[..., :4], "score": _each(4), "label": _each(5).astype(np.int64)}, LIST, Listed,
    ),
    "maps": (_maps(), None, Levels),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_alike(name: str) -> None:
    results, layouts, kind = LAYOUTS[name]
    task = detector(results, "auto", layouts)
    assert task.kind == "detection" and isinstance(task.head, kind), task.reason
    seen = task.head.read(task, Answered(results, None, {"x": np.zeros((SAMPLES, 3, SIZE, SIZE), np.float32)}))
    assert len(seen) == SAMPLES
    for sample, found in enumerate(seen):
        assert sorted(found.classes.tolist()) == [0, 2]
        scale = SIZE if "pred_boxes" in results else 1
        if name != "maps":  # there distances are four times what they should be
            expected = CORNERS[sample, [5 + sample, 40 + sample]]
            np.testing.assert_allclose(found.corners[np.argsort(found.classes)] * scale, expected, atol=1e-2)
    assert (score_of(task, results, results) == 1).all()


def test_maps_of_two_sizes_are_put_together() -> None:
    coarse = {
        "reg2": np.full((SAMPLES, 4, 4, 4), 20.0, np.float32),
        "cls2": np.full((SAMPLES, CLASSES, 4, 4), 0.01, np.float32),
    }
    coarse["cls2"][:, 1, 2, 2] = 0.7
    results = {**_maps(), **coarse}
    head = detector(results).head
    assert isinstance(head, Levels) and [part.stride for part in head.of if hasattr(part, "stride")] == [8, 16]
    seen = head.read(detector(results), Answered(results))
    assert all(sorted(found.classes.tolist()) == [0, 1, 2] for found in seen)
    box = seen[0].corners[seen[0].classes == 1][0]
    assert box.tolist() == [40 - 20, 40 - 20, 40 + 20, 40 + 20]


def test_offsets_to_anchors_cannot_be_read_and_it_says_so() -> None:
    offsets = {"loc": RNG.standard_normal((SAMPLES, PLACES, 4)).astype(np.float32), "conf": _with_background(False)}
    assert task_of(Asked(), shown(offsets))[0] is None
    with pytest.raises(UsageError, match=r"task detection cannot be read.*needs boxes and scores"):
        detector(offsets, "detection")


def test_what_detects_nothing_is_no_detector_unless_named() -> None:
    quiet = {"boxes": BOXES, "scores": SCORES * 0.01}
    found = task_of(Asked(), shown(quiet))[0]
    assert found is None or found.kind != "detection"
    assert detector(quiet, "detection").kind == "detection"


# --- the judge looks where something is seen ---------------------------------------------------------------------------


def judge_of(results: Results) -> Outputs:
    look = shown(results, {"boxes": Layout(2), "scores": Layout(2, shares=True)})
    return replace(look.outputs, task=task_of(Asked(), look)[0])


def distance(outputs: Outputs, before: Results, after: Results) -> float:
    return outputs.distance(outputs.errors(before, after))


BEFORE = {"boxes": BOXES, "scores": SCORES}


def test_lost_detections_beside_perfect_boxes_are_seen() -> None:
    """What is lost at two places of 64 counts more than noise everywhere, which without a task it does not."""
    lost = {"boxes": BOXES, "scores": np.minimum(SCORES, 0.1)}
    noise = {"boxes": BOXES, "scores": np.clip(SCORES + RNG.uniform(0, 0.15, SCORES.shape), 0, 1).astype(np.float32)}
    noise["scores"] = np.where(SCORES > 0.5, SCORES, noise["scores"])
    with_task = judge_of(BEFORE)
    assert score_of(with_task.task or detector(BEFORE), BEFORE, lost).mean() == 0
    assert score_of(with_task.task or detector(BEFORE), BEFORE, noise).mean() == 1
    focused, plain = (
        distance(how, BEFORE, lost) / distance(how, BEFORE, noise) for how in (with_task, replace(with_task, task=None))
    )
    assert focused > 3 and plain < 0.1


def test_the_distance_by_hand() -> None:
    """One place of confidence 0.5, whose box is 4 x 4: it moves by 1 to the right, and its score falls to 0.25."""
    boxes, scores = np.tile(np.float32([8, 8, 4, 4]), (2, 8, 1)), np.zeros((2, 8, 2), np.float32)
    boxes += np.arange(8, dtype=np.float32)[:, None] * np.float32([4, 4, 0, 0])
    scores[:, 3, 1] = 0.5
    outputs = judge_of({"boxes": boxes, "scores": scores})
    moved, less = boxes + np.float32([1, 0, 0, 0]), scores / 2
    of_boxes = (1 / 4) ** 2 / 0.5**2 / 4  # a quarter of the side, in one of four numbers
    of_scores = (0.25 / 0.5) ** 2
    found = distance(outputs, {"boxes": boxes, "scores": scores}, {"boxes": moved, "scores": less})
    assert found == pytest.approx((of_boxes + of_scores) / 2, rel=1e-5)


def test_boxes_where_nothing_is_seen_do_not_count_and_new_detections_do() -> None:
    outputs, far, new = judge_of(BEFORE), BOXES.copy(), SCORES.copy()
    far[SCORES.max(axis=-1) < 0.5] += 5
    new[:, 20, 1] = 0.9
    assert distance(outputs, BEFORE, {"boxes": far, "scores": SCORES}) < 0.1
    assert distance(outputs, BEFORE, {"boxes": BOXES, "scores": new}) > 0.5


def test_rows_weigh_by_what_is_seen_there() -> None:
    worth = judge_of(BEFORE).worth(BEFORE)
    assert (
        set(worth) == {"boxes", "scores"}
        and worth["boxes"].shape == BOXES.shape
        and worth["scores"].shape == SCORES.shape
    )
    seen = SCORES.max(axis=-1)
    assert worth["scores"][0, 5, 0] / worth["scores"][0, 0, 0] == pytest.approx(0.9 / max(seen[0, 0], 0.02), rel=1e-5)
    errors = judge_of(BEFORE).errors(BEFORE, BEFORE | {"boxes": BOXES + 1})["boxes"]
    assert errors.mean == pytest.approx(worth["boxes"].reshape(-1, BOXES.shape[-1]).mean(axis=0), rel=1e-5)
    assert replace(judge_of(BEFORE), task=None).worth(BEFORE) == {}


# --- the choice --------------------------------------------------------------------------------------------------------


def test_the_task_decides_where_rows_tell_and_the_divergence_where_not() -> None:
    rng = np.random.default_rng(1)
    good = (rng.random(100) < 0.9).astype(float)
    bad, twin = (good * (rng.random(100) < share) for share in (0.6, 0.99))
    found = {"bad": Judged(0.1, bad), "good": Judged(0.3, good), "twin": Judged(0.2, twin)}
    assert least_lost(found) == "twin"
    assert least_lost({"bad": found["bad"], "good": found["good"]}) == "good"
    assert least_lost({name: Judged(judged.divergence) for name, judged in found.items()}) == "bad"
    few = {"bad": Judged(0.1, np.array([0.0, 1.0])), "good": Judged(0.3, np.array([1.0, 1.0]))}
    assert least_lost(few) == "bad"
    assert least_lost({"none": Judged(np.inf, good), "bad": found["bad"]}) == "bad"
    silent = np.where(np.arange(100) < 90, np.nan, 1.0)
    assert least_lost({"a": Judged(0.2, silent), "b": Judged(0.1, np.full(100, np.nan))}) == "b"
