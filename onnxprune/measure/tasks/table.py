"""Every kind of task: how its answer is read, how two answers are compared, and what its figure is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from onnxprune.measure.tasks.boxes import f1_of_boxes
from onnxprune.measure.tasks.choices import chosen, read_symbols, same_choice, same_sequence, same_text
from onnxprune.measure.tasks.language import same_next, told_tokens
from onnxprune.measure.tasks.marks import f1_of_labels, marked, mean_iou, near_values, painted, values
from onnxprune.measure.tasks.neighbours import neighbours_kept, vectors
from onnxprune.measure.tasks.task import Answered, Scored, Task


class TaskKind(NamedTuple):
    """``figure``: what is between 0 and 1; ``read``: a model's answer to one batch; ``score``: (original's, other's) answers.

    ``together``: answers, arrays whose first axis is the samples, are compared all at once and not batch by batch.
    """

    figure: str
    read: Callable[[Task, Answered], Any]
    score: Callable[[Task, Any, Any], Scored]
    together: bool = False


def _seen(task: Task, answered: Answered) -> Any:
    return task.head.read(task, answered)


TASKS: Mapping[str, TaskKind] = {
    "classes": TaskKind("same class", chosen, same_choice),
    "ctc": TaskKind("same text", read_symbols, same_text),
    "detection": TaskKind("detection F1", _seen, f1_of_boxes),
    "segmentation": TaskKind("mean IoU", painted, mean_iou),
    "embedding": TaskKind("neighbours kept", vectors, neighbours_kept, together=True),
    "multilabel": TaskKind("label F1", marked, f1_of_labels),
    "sequence": TaskKind("same class per step", chosen, same_sequence),
    "tokens": TaskKind("same next token", told_tokens, same_next),
    "regression": TaskKind("values within tolerance", values, near_values),
}
