"""What recovery minimises: a distance to the original's outputs, the task loss, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from onnxprune.errors import DataError
from onnxprune.grad import Loss, losses
from onnxprune.grad.emitter import Emitter, Value
from onnxprune.measure.metrics import kl
from onnxprune.registry import Registry

Arrays = Mapping[str, np.ndarray]

LABELS = "recover:labels"
FLOOR = 1e-7  # added to probabilities before their logarithm

LOSSES: Registry[str] = Registry("recovery loss")
LOSSES.add("auto", "distillation, mixed with the task loss where labels are given")
LOSSES.add("distill", "distance to the original's outputs: KL of class scores, mean squared error of all others")
LOSSES.add("mse", "mean squared error to all of the original's outputs, over their variance")
LOSSES.add("labels", "cross entropy of the class scores")
LOSSES.add("blocks", "block after block: mean squared error to what the original's block gives; cheap for large models")


def target_name(output: str) -> str:
    """Return the graph input that holds the original's value of an output."""
    return f"recover:{output}"


@dataclass(frozen=True)
class Term:
    """One output and how it is compared: ``kind`` logits, probabilities or values; ``variance`` of the values."""

    output: str
    kind: str
    variance: float = 1.0

    def target(self, value: np.ndarray) -> np.ndarray:
        """Return what the loss compares with, given the original's output."""
        value = value.astype(np.float64 if value.dtype == np.float64 else np.float32)
        return np.log(value + value.dtype.type(FLOOR)) if self.kind == "probabilities" else value

    def distance(self, expected: np.ndarray, found: np.ndarray) -> float:
        """Return the mean KL of scores at temperature 1, of values the mean squared error over their variance."""
        a, b = (self.target(value).astype(np.float64) for value in (expected, found))
        if self.kind != "values":
            return float(kl(a, b).mean())
        with np.errstate(invalid="ignore"):
            return float(np.square(a - b).mean()) / self.variance

    def scores(self, output: Value, emit: Emitter) -> Value:
        return emit("Log", output + FLOOR) if self.kind == "probabilities" else output


@dataclass(frozen=True)
class Objective:
    """``terms``: outputs compared with the original's; ``share`` of the task loss, which looks at ``classes``."""

    terms: tuple[Term, ...]
    temperature: float
    share: float = 0.0
    classes: Term | None = None

    def loss(self, emit: Emitter, outputs: Sequence[Value]) -> Value:
        """The loss as ONNX nodes: (1 - share) * mean distance + share * cross entropy."""
        parts = [((1 - self.share) / len(self.terms), term, self._distance(term)) for term in self.terms]
        if self.classes:
            parts.append((self.share, self.classes, losses.cross_entropy(LABELS)))
        weighted = [
            make(emit, [t.scores(emit.value(t.output), emit)]) * weight for weight, t, make in parts if weight > 0
        ]
        return weighted[0] if len(weighted) == 1 else emit("Sum", *weighted)

    def _distance(self, term: Term) -> Loss:
        if term.kind == "values":
            plain = losses.mse(target_name(term.output))
            return lambda emit, outputs: plain(emit, outputs) * (1 / term.variance)
        return losses.kl(target_name(term.output), temperature=self.temperature)

    def targets(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Return the graph inputs made from the original's outputs."""
        distilled = self.terms if self.share < 1 else ()
        return {target_name(term.output): term.target(outputs[term.output]) for term in distilled}

    def score(self, expected: Arrays, found: Arrays, labels: np.ndarray | None) -> float:
        """Return the loss of one batch at temperature 1, what held-out data is judged by."""
        distances = [term.distance(expected[term.output], found[term.output]) for term in self.terms]
        result = (1 - self.share) * float(np.mean(distances))
        if self.classes and labels is not None:
            result += self.share * _entropy(self.classes.target(found[self.classes.output]), labels)
        return result


def _entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    logs = log_softmax(scores.astype(np.float64), 1)
    return -float(np.take_along_axis(logs, labels.astype(np.int64)[:, None], 1).mean())


def objective(
    outputs: Arrays, labels: np.ndarray | None, loss: str, temperature: float = 4.0, share: float = 0.5
) -> Objective:
    """Return the objective that fits the original's outputs on a batch and all labels; raises DataError for none."""
    floats = {
        name: array for name, array in outputs.items() if isinstance(array, np.ndarray) and array.dtype.kind == "f"
    }
    if not floats:
        raise DataError("recovery compares float outputs, and the model has none")
    natural = [_term(name, array, _kind(array)) for name, array in floats.items()]
    terms = [_term(name, array, "values") for name, array in floats.items()] if loss == "mse" else natural
    classes = next((term for term in natural if term.kind != "values"), None)
    usable = classes is not None and _are_classes(labels, outputs[classes.output].shape[1])
    if loss == "labels" and not usable:
        raise DataError("recovery by labels needs one class number per sample and an output [batch, classes]")
    if usable and (loss == "labels" or (loss == "auto" and share > 0)):
        return Objective(tuple(terms), temperature, 1.0 if loss == "labels" else share, classes)
    return Objective(tuple(terms), temperature)


def _term(name: str, array: np.ndarray, kind: str) -> Term:
    with np.errstate(invalid="ignore"):
        return Term(name, kind, max(float(np.var(array, dtype=np.float64)), 1e-12))


def _kind(array: np.ndarray) -> str:
    if array.ndim != 2 or array.shape[1] < 2:
        return "values"
    return "probabilities" if (array >= 0).all() and np.allclose(array.sum(1), 1, atol=1e-3) else "logits"


def _are_classes(labels: np.ndarray | None, classes: int) -> bool:
    if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1:
        return False
    return bool(((labels >= 0) & (labels < classes)).all())
