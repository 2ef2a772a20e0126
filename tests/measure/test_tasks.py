"""The verdict on the task: every kind by hand, what holds for all of them, and how a task is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from onnxprune.errors import UsageError
from onnxprune.measure.kinds import Place, outputs_like
from onnxprune.measure.outputs import Layout, Output
from onnxprune.measure.tasks.agreement import TaskAgreement
from onnxprune.measure.tasks.choices import edits
from onnxprune.measure.tasks.find import FITS, Shown, task_of
from onnxprune.measure.tasks.table import TASKS
from onnxprune.measure.tasks.task import OPTIONS, Answered, Asked, Task, parse_task

RNG = np.random.default_rng(0)
Results = Mapping[str, np.ndarray]


def look_at(
    results: Results,
    layouts: Mapping[str, Layout] | None = None,
    axes: Mapping[str, int] | None = None,
    **inputs: np.ndarray,
) -> Shown:
    """What is known of a model that gave these results for one batch; samples are first, but for ``axes``."""
    places = {name: Place((axes or {}).get(name, 0)) for name in results}
    outputs = outputs_like([results], places, layouts)
    return Shown(outputs, layouts or {}, [Answered(results, None, inputs)])


def found_in(results: Results, asked: str = "auto", **how: Any) -> Task | None:
    return task_of(parse_task(asked), look_at(results, **how))[0]


def judged(
    task: Task | None, before: Results, after: Results, mask: np.ndarray | None = None, **inputs: np.ndarray
) -> TaskAgreement:
    assert task is not None
    agreement = TaskAgreement(task)
    agreement.update(Answered(before, mask, inputs), Answered(after, mask, inputs))
    return agreement


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Logits that choose these classes."""
    return (8 * np.eye(count)[classes]).astype(np.float32)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_classes_by_hand() -> None:
    before, after = ({"logits": one_hot(np.array(classes), 4)} for classes in ([0, 1, 2, 3], [0, 1, 2, 0]))
    task = found_in(before)
    assert task is not None and task.kind == "classes"
    assert judged(task, before, after).scores.tolist() == [1, 1, 1, 0]


def test_ctc_by_hand_with_time_first() -> None:
    # blank is 4: "0 0 - 1" and "2 - 2 -" read 01 and 22; the other model reads 01, though at other steps, and 2
    steps = np.array([[0, 0, 4, 1, 4, 4], [2, 4, 2, 4, 4, 4]]).T
    other = np.array([[0, 4, 4, 1, 1, 4], [2, 2, 2, 4, 4, 4]]).T
    before, after = ({"y": one_hot(classes, 5)} for classes in (steps, other))
    layout = {"layouts": {"y": Layout(2, scores=True)}, "axes": {"y": 1}}
    task = found_in(before, **layout, x=np.zeros((2, 3, 8, 8), np.float32))
    assert task is not None and (task.kind, task["blank"]) == ("ctc", 4)
    found = judged(task, before, after)
    assert found.scores.tolist() == [1, 0]
    assert found.to_json()["parts"] == {"characters": {"score": 3 / 4, "of": 4.0}}


def test_the_distance_of_texts_by_hand() -> None:
    pairs = {("kitten", "sitting"): 3, ("", "abc"): 3, ("abc", ""): 3, ("flaw", "lawn"): 2, ("same", "same"): 0}
    for (a, b), expected in pairs.items():
        assert edits([*map(ord, a)], [*map(ord, b)]) == expected


def test_sequences_by_hand_without_padding() -> None:
    before, after = (
        {"logits": one_hot(np.array(c), 3)} for c in ([[0, 1, 2, 0], [1, 1, 1, 1]], [[0, 1, 0, 2], [1, 1, 2, 2]])
    )
    task = found_in(before, layouts={"logits": Layout(2, scores=True)}, ids=np.zeros((2, 4), np.int64))
    assert task is not None and task.kind == "sequence"
    found = judged(task, before, after, np.array([[1, 1, 1, 0], [1, 1, 0, 0]]))
    assert found.scores.tolist() == pytest.approx([2 / 3, 1])
    assert found.to_json()["parts"] == {"whole sequences": {"score": 1 / 2, "of": 2.0}}


def test_segmentation_by_hand() -> None:
    # 64 pixels: the left half is class 1; the other model sees it in the left quarter alone
    classes, other = np.zeros((1, 8, 8), int), np.zeros((1, 8, 8), int)
    classes[:, :, :4], other[:, :, :2] = 1, 1
    before, after = ({"y": np.moveaxis(one_hot(c, 2), -1, 1)} for c in (classes, other))
    task = found_in(before, layouts={"y": Layout(1, scores=True)})
    assert task is not None and task.kind == "segmentation"
    assert judged(task, before, after).scores.tolist() == pytest.approx([(32 / 48 + 16 / 32) / 2])


def test_masks_by_hand() -> None:
    mask, other = np.full((2, 1, 8, 8), 0.01, np.float32), np.full((2, 1, 8, 8), 0.01, np.float32)
    mask[0, 0, :4], other[0, 0, 2:6] = 0.99, 0.99
    layouts = {"y": Layout(shares=True)}
    task = found_in({"y": mask}, layouts=layouts, x=np.zeros((2, 3, 32, 32), np.float32))
    assert task is not None and task.kind == "segmentation"
    found = judged(task, {"y": mask}, {"y": other})
    assert found.scores[0] == pytest.approx(16 / 48) and np.isnan(
        found.scores[1]
    )  # nothing is to be seen in the second


def test_labels_by_hand() -> None:
    before, after = (
        {"y": np.array(v, np.float32)} for v in ([[0.9, 0.8, 0.1], [0.1, 0.2, 0.3]], [[0.7, 0.2, 0.6], [0.2, 0.2, 0.4]])
    )
    task = found_in(before, layouts={"y": Layout(1, shares=True, bounded=True)})
    assert task is not None and task.kind == "multilabel"
    assert judged(task, before, after).scores[0] == pytest.approx(2 * 1 / 4) and np.isnan(
        judged(task, before, after).scores[1]
    )


def test_neighbours_by_hand() -> None:
    angles = np.radians([0, 10, 25, 180, 190, 204])
    moved = np.radians([0, 10, 25, 90, 190, 204])
    before, after = (
        {"y": np.stack([np.cos(a), np.sin(a), *np.zeros((6, 6))], axis=1).astype(np.float32)} for a in (angles, moved)
    )
    task = found_in(before, "embedding:neighbours=1")
    # the fourth is now nearest to the third, where it was nearest to the fifth; the fifth loses it as well
    found = judged(task, before, after)
    assert found.scores.tolist() == [1, 1, 1, 0, 0, 1]
    assert found.to_json()["parts"]["cosine"]["score"] == pytest.approx(5 / 6, abs=1e-6)


def test_values_by_hand() -> None:
    before = np.array([[0.0], [2.0], [4.0], [6.0]], np.float32)  # their deviation is the root of 5
    task = found_in({"y": before}, "regression:tolerance=0.5")
    found = judged(task, {"y": before}, {"y": before + np.array([[0], [1], [-1], [3]], np.float32)})
    assert found.scores.tolist() == [1, 1, 1, 0]
    assert found.to_json()["parts"]["R2"]["score"] == pytest.approx(1 - (0 + 1 + 1 + 9) / 4 / 5)


# --- what holds for every kind ----------------------------------------------------------------------------------------

UNIT = RNG.standard_normal((12, 16))
LAWS: dict[str, tuple[np.ndarray, dict[str, Layout], str]] = {
    "classes": (RNG.standard_normal((12, 5)), {}, "classes"),
    "ctc": (one_hot(np.where(RNG.random((12, 9)) < 0.5, 4, RNG.integers(0, 5, (12, 9))), 5), {"y": Layout(2)}, "ctc"),
    "sequence": (RNG.standard_normal((12, 7, 5)), {"y": Layout(2, scores=True)}, "sequence"),
    "segmentation": (RNG.standard_normal((12, 3, 8, 8)), {"y": Layout(1, scores=True)}, "segmentation"),
    "embedding": (UNIT / np.linalg.norm(UNIT, axis=1)[:, None], {}, "embedding"),
    "multilabel": (RNG.random((12, 6)), {"y": Layout(1, shares=True)}, "multilabel"),
    "regression": (RNG.standard_normal((12, 6)), {}, "regression"),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_model_agrees_with_itself_and_less_the_more_it_is_damaged(name: str) -> None:
    value, layouts, kind = LAWS[name]
    before = {"y": value.astype(np.float32)}
    task = found_in(before, kind, layouts=layouts)
    same = judged(task, before, before).known
    assert len(same) and (same == 1).all()
    noise = RNG.standard_normal(value.shape)
    little, much = (
        judged(task, before, {"y": before["y"] + (size * noise).astype(np.float32)}).known for size in (0.1, 10)
    )
    assert 1 >= little.mean() > much.mean() and (much >= 0).all()


@pytest.mark.parametrize("name", LAWS)
def test_the_order_of_samples_changes_nothing(name: str) -> None:
    value, layouts, kind = LAWS[name]
    before = {"y": value.astype(np.float32)}
    after = {"y": before["y"] + 0.5 * RNG.standard_normal(value.shape).astype(np.float32)}
    task, order = found_in(before, kind, layouts=layouts), RNG.permutation(len(value))
    plain = judged(task, before, after)
    turned = judged(task, {"y": before["y"][order]}, {"y": after["y"][order]})
    np.testing.assert_allclose(turned.scores, plain.scores[order])
    parts = TaskAgreement(task) if task else None
    assert parts is not None
    for rows in (slice(0, 5), slice(5, None)):
        other = parts.fresh()
        other.update(Answered({"y": before["y"][rows]}), Answered({"y": after["y"][rows]}))
        parts.merge(other)
    np.testing.assert_allclose(parts.scores, plain.scores)


@pytest.mark.parametrize("name", LAWS)
def test_what_is_not_finite_or_of_another_shape_is_lost(name: str) -> None:
    value, layouts, kind = LAWS[name]
    before = {"y": value.astype(np.float32)}
    task = found_in(before, kind, layouts=layouts)
    lost = judged(task, before, {"y": np.full_like(before["y"], np.nan)}).known
    assert lost.mean() < 0.35 and np.isfinite(lost).all()


def test_every_kind_has_a_law_a_finder_and_options() -> None:
    """Language models, which need the tokens that were fed, have theirs in test_language.py."""
    assert set(TASKS) == set(FITS) == set(OPTIONS) == {*LAWS, "detection", "tokens"}


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_tasks_are_read() -> None:
    assert parse_task("auto") == Asked() and parse_task("none").kind == "none"
    assert parse_task("detection:confidence=30%,iou=0.6") == Asked("detection", {"confidence": 0.3, "iou": 0.6})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("detektion", "did you mean 'detection'"),
        ("ctc:blnk=3", "did you mean 'blank'"),
        ("classes:a=1", "it has none"),
        ("detection:iou=2", "from 0 to 1"),
        ("detection:iou=", "from 0 to 1"),
        ("ctc:blank=0.5", "a whole number"),
    ],
)
def test_tasks_that_are_none_are_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_task(text)


@pytest.mark.parametrize("kind", ["detection", "ctc", "sequence", "segmentation"])
def test_a_task_that_the_outputs_cannot_answer_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=f"task {kind} cannot be read from these outputs .y .12, 1.*needs"):
        found_in({"y": RNG.standard_normal((12, 1)).astype(np.float32)}, kind)


UNSAFE: dict[str, tuple[np.ndarray, dict[str, Layout]]] = {
    "features of a sequence": (RNG.standard_normal((6, 20, 16)), {"y": Layout(2)}),
    "features after ReLU": (np.maximum(RNG.standard_normal((6, 20, 16)), 0), {"y": Layout(2, bounded=True)}),
    "pictures": (RNG.random((6, 3, 16, 16)), {"y": Layout(1, shares=True)}),
    "one number": (RNG.standard_normal((6, 1)), {}),
    "many features": (RNG.standard_normal((6, 512)), {}),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_could_mean_several_things_is_not_guessed(name: str) -> None:
    value, layouts = UNSAFE[name]
    look = look_at({"y": value.astype(np.float32)}, layouts, None, x=np.zeros((6, 3, 16, 16), np.float32))
    task, reason = task_of(Asked(), look)
    assert task is None and "could mean several things" in reason


def test_steps_with_a_padding_mask_are_no_ctc() -> None:
    value = one_hot(np.where(RNG.random((12, 9)) < 0.7, 0, RNG.integers(0, 5, (12, 9))), 5)
    layouts = {"y": Layout(2, scores=True)}
    tags = found_in({"y": value}, layouts=layouts, ids=np.zeros((12, 9), np.int64))
    texts = found_in({"y": value}, layouts=layouts, sound=np.zeros((12, 900), np.float32))
    assert tags is not None and texts is not None and (tags.kind, texts.kind) == ("sequence", "ctc")


def test_outputs_know_their_ranges() -> None:
    how: Output = outputs_like([{"y": RNG.random((9, 3)).astype(np.float32)}]).of["y"]
    assert how.shares and not how.unit_rows
