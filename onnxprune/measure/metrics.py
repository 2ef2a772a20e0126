"""How one model's outputs compare with another's, or with labels: one float64 per sample, for one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxprune.data.scripts import load_function, running
from onnxprune.errors import DataError, UsageError
from onnxprune.registry import near_names

TINY_PROBABILITY = 1e-12


def are_logits(output: np.ndarray) -> bool:
    """Whether an output looks like a classifier's: floats [batch, k >= 2]."""
    return output.dtype.kind == "f" and output.ndim == 2 and output.shape[1] >= 2


def are_dense_logits(output: np.ndarray) -> bool:
    """Whether an output looks like one class decision per pixel: floats [batch, c >= 2, h, w]."""
    return output.dtype.kind == "f" and output.ndim == 4 and output.shape[1] >= 2


def cosine_of_rows(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the cosine of each row's two vectors; 1 where both are zero, 0 where one is."""
    a, b = (np.where(np.isfinite(x), x, 0.0).reshape(len(x), -1) for x in (before, after))
    norms = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, np.einsum("ij,ij->i", a, b) / np.where(norms > 0, norms, 1.0))


def top1_agreement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return 1 where both models choose the same class; ties go to the lower index."""
    return (before.argmax(axis=1) == after.argmax(axis=1)).astype(np.float64)


def top5_agreement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return 1 where the class ``before`` chooses is among the five best of ``after``; ties go to the lower index."""
    chosen = before.argmax(axis=1)[:, None]
    score = np.take_along_axis(after, chosen, axis=1)
    earlier = np.arange(after.shape[1]) < chosen
    rank = (after > score).sum(axis=1) + ((after == score) & earlier).sum(axis=1)
    return (rank < 5).astype(np.float64)


def kl_of_rows(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return KL(softmax(before) || softmax(after)) in nats; rows of ``before`` that are distributions count as such."""
    is_distribution = ((before >= 0) & (before <= 1)).all(axis=1) & (abs(before.sum(axis=1) - 1) < 1e-3)
    log_p, log_q = (_log_probabilities(x, is_distribution) for x in (before, after))
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (log_p - log_q), 0.0)
    return np.maximum(terms.sum(axis=1), 0.0)


def _log_probabilities(x: np.ndarray, is_distribution: np.ndarray) -> np.ndarray:
    logits = np.where(is_distribution[:, None], np.log(np.clip(x, TINY_PROBABILITY, None)), x)
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def pixel_agreement(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the share of pixels for which both models choose the same class."""
    return (before.argmax(axis=1) == after.argmax(axis=1)).reshape(len(before), -1).mean(axis=1)


def equal(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the share of equal elements."""
    return (before == after).reshape(len(before), -1).mean(axis=1)


@dataclass(frozen=True)
class RowMetric:
    """A comparison per row: where it applies, what is a row, and the value of one that is NaN or Inf in one model only.

    ``view``: rows are samples [n, ..]; choices and scores [positions, classes] of outputs that choose among classes, or that
    are known to be class scores; maps [n, classes, height, width].
    """

    applies: Callable[[np.ndarray], bool]
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray]
    view: str = "samples"
    worst: float = 0.0


ROW_METRICS: dict[str, RowMetric] = {
    "cosine": RowMetric(lambda output: True, cosine_of_rows),
    "top1_agreement": RowMetric(are_logits, top1_agreement, "choices"),
    "top5_agreement": RowMetric(lambda rows: are_logits(rows) and rows.shape[1] > 5, top5_agreement, "choices"),
    "kl": RowMetric(are_logits, kl_of_rows, "scores", worst=np.inf),
    "pixel_agreement": RowMetric(are_dense_logits, pixel_agreement, "maps"),
    "equal": RowMetric(lambda output: output.dtype.kind in "iub", equal),
}

TaskFunction = Callable[[Mapping[str, Any], np.ndarray | None], Any]


@dataclass(frozen=True)
class TaskMetric:
    """What the model is for: (outputs, labels) of a batch -> one value per sample, higher is better, NaN: no answer."""

    name: str
    function: TaskFunction

    def values(self, outputs: Mapping[str, Any], labels: np.ndarray | None, samples: int) -> np.ndarray:
        """Return float64[samples]; raise DataError when the function returns something else."""
        with running(f"metric {self.name!r}"):
            result = np.asarray(self.function(outputs, labels))
        if result.shape != (samples,) or result.dtype.kind not in "fiub":
            raise DataError(
                f"metric {self.name!r} returned {result.dtype}{list(result.shape)} for {samples} samples; "
                "it must return one number per sample"
            )
        return result.astype(np.float64)


def script_metric(reference: str) -> TaskMetric:
    """Return the metric behind ``script.py:function``; the script is executed."""
    return TaskMetric(reference.rpartition(":")[2], load_function(reference))


def label_metric(outputs: Mapping[str, Any], output: str | None = None) -> TaskMetric | None:
    """Return the accuracy for the named output, or for the first that looks like a classifier's; None without one."""
    if output is not None and output not in outputs:
        raise UsageError(f"the models share no output {output!r}{near_names(output, list(outputs))}")
    for name in [output] if output is not None else outputs:
        value = np.asarray(outputs[name])
        for metric, (applies, correct) in ACCURACIES.items():
            if applies(value):
                return TaskMetric(metric, partial(_correct, name, correct))
    return None


def _correct(
    name: str,
    correct: Callable[[np.ndarray, np.ndarray], np.ndarray],
    outputs: Mapping[str, Any],
    labels: np.ndarray | None,
) -> np.ndarray:
    if labels is None:
        raise DataError("some rows have labels and some have none; label all or none of them")
    return correct(outputs[name], labels)


def top1_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1 where the chosen class is the label; raise DataError for labels that are no class numbers."""
    samples, classes = logits.shape
    flat = _class_numbers(labels, (samples,))
    if flat.min() < 0 or flat.max() >= classes:
        raise DataError(f"labels range from {flat.min()} to {flat.max()}, the model knows classes 0 to {classes - 1}")
    return (logits.argmax(axis=1) == flat) & np.isfinite(logits.max(axis=1))


def pixels_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the share of pixels whose chosen class is the label, void ones (labels that are no class) left out."""
    samples, classes, height, width = logits.shape
    wanted = _class_numbers(labels, (samples, height, width))
    labelled = (wanted >= 0) & (wanted < classes)
    correct = logits.argmax(axis=1) == wanted
    with np.errstate(invalid="ignore"):
        return correct.sum(axis=(1, 2)) / labelled.sum(axis=(1, 2))


def _class_numbers(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return labels as int64 of a shape, size-one axes dropped or added."""
    numbers = np.asarray(labels)
    whole = numbers.dtype.kind in "iub" or (numbers.dtype.kind == "f" and bool((numbers == np.floor(numbers)).all()))
    squeezed = tuple(dim for dim in numbers.shape[1:] if dim != 1)
    if not whole or numbers.shape[:1] != shape[:1] or squeezed != tuple(dim for dim in shape[1:] if dim != 1):
        raise DataError(
            f"labels {numbers.dtype}{list(numbers.shape)} are not class numbers of shape {list(shape)}; "
            "pass such labels, or your own --metric script.py:function"
        )
    return numbers.astype(np.int64).reshape(shape)


ACCURACIES = {
    "top1_accuracy": (are_logits, top1_correct),
    "pixel_accuracy": (are_dense_logits, pixels_correct),
}
