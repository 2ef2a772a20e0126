"""What recovery minimises: a distance to the original's outputs, the task loss, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from onnxprune.errors import DataError
from onnxprune.grad import Loss, losses
from onnxprune.grad.emitter import Emitter, Value
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.outputs import CLASSES, INTEGERS, PROBABILITIES, VALUES, Errors, Output, Outputs
from onnxprune.model.runtime import Results
from onnxprune.recover.hints import Hint, hint_name
from onnxprune.registry import Registry

LABELS = "recover:labels"
FLOOR = 1e-7  # added to probabilities before their logarithm

LOSSES: Registry[str] = Registry("recovery loss")
LOSSES.add("auto", "distillation, mixed with the task loss where labels are given")
LOSSES.add("distill", "distance to the original's outputs: KL of class scores, squared error over variance of others")
LOSSES.add("mse", "mean squared error to all of the original's outputs, over their variance")
LOSSES.add("labels", "cross entropy of the class scores")
LOSSES.add("blocks", "block after block: mean squared error to what the original's block gives; cheap for large models")


def target_name(output: str) -> str:
    """Return the graph input that holds the original's value of an output."""
    return f"recover:{output}"


def worth_name(output: str) -> str:
    """Return the graph input that holds how much errors of an output count."""
    return f"recover:worth:{output}"


@dataclass(frozen=True)
class OutputTerm:
    """One output and how it is compared; ``mask``: the input that says which steps of a sequence count ("": none).

    ``worthy``: whether its errors count more in some places than in others.
    """

    output: Output
    mask: str = ""
    worthy: bool = False

    @property
    def variance(self) -> np.ndarray:
        """float64[channels]: what the mean over channels of the squared error is divided by."""
        return 1 / (self.output.factor * len(self.output.factor))

    def target(self, value: np.ndarray) -> np.ndarray:
        """Return what the loss compares with, given the original's output: samples first, channels last."""
        laid = self.output.laid(value.astype(np.float64 if value.dtype == np.float64 else np.float32))
        return (
            np.log(laid + laid.dtype.type(FLOOR)) if self.output.kind == PROBABILITIES else np.ascontiguousarray(laid)
        )

    def worth(self, value: np.ndarray, worth: np.ndarray) -> np.ndarray:
        """Return how much errors count, laid out like the target or, for class scores, like one of its classes."""
        shape = self.output.laid(value).shape
        dtype = np.float64 if value.dtype == np.float64 else np.float32
        one = worth.mean(-1).reshape(shape[:-1]) if self.output.kind in CLASSES else worth.reshape(shape)
        return one.astype(dtype)

    def scores(self, emit: Emitter) -> Value:
        """The output of the model that is trained, laid out like the target."""
        value = emit.value(self.output.name)
        laid = emit.transpose(value, self.output.order(value.rank))
        return emit("Log", laid + FLOOR) if self.output.kind == PROBABILITIES else laid

    def loss(self, temperature: float) -> Loss:
        """The distance as nodes; a temperature softens class scores."""
        name, factor = target_name(self.output.name), self.output.factor
        counting = losses.Counting(self.mask, worth_name(self.output.name) if self.worthy else "")
        if self.output.kind in CLASSES:
            even = np.allclose(factor, 1)
            return losses.kl(name, temperature=temperature, weights=None if even else factor, counting=counting)
        return losses.mse(name, weights=factor * len(factor), counting=counting)

    def softened(self, value: np.ndarray, temperature: float) -> np.ndarray:
        """Return class scores, or the probabilities of a softmax, at a temperature, laid out as they were."""
        if self.output.kind not in CLASSES or temperature == 1:
            return value
        if self.output.kind == PROBABILITIES:
            axis = self.output.channel_axis
            return scipy.special.softmax(
                np.log(value.astype(np.float64) + FLOOR) / temperature, -1 if axis is None else axis
            )
        return value.astype(np.float64) / temperature


@dataclass(frozen=True)
class Objective:
    """``terms``: outputs compared with the original's; ``share`` of the task loss, which looks at ``classes``.

    ``hints``: inner values that are compared too, as much as the outputs by ``hint_weight`` each on average.
    """

    terms: tuple[OutputTerm, ...]
    temperature: float
    outputs: Outputs
    share: float = 0.0
    classes: OutputTerm | None = None
    hints: tuple[Hint, ...] = ()
    hint_weight: float = 1.0

    def loss(self, emit: Emitter, outputs: Sequence[Value]) -> Value:
        """The loss as ONNX nodes: (1 - share) * mean distance + share * cross entropy."""
        total = sum(term.output.importance for term in self.terms)
        shares = [(1 - self.share) * term.output.importance / total for term in self.terms]
        parts = [(w, term, term.loss(self.temperature)) for w, term in zip(shares, self.terms, strict=True)]
        if self.classes:
            parts.append((self.share, self.classes, losses.cross_entropy(LABELS)))
        weighted = [losses.scaled(make(emit, [term.scores(emit)]), weight) for weight, term, make in parts if weight]
        share = self.hint_weight / max(len(self.hints), 1)
        weighted += [losses.scaled(hint.loss(emit, self.outputs.mask), share) for hint in self.hints]
        return weighted[0] if len(weighted) == 1 else emit("Sum", *weighted)

    def targets(self, outputs: Results) -> dict[str, np.ndarray]:
        """Return what the loss compares with, samples on the first axis."""
        distilled = {term.output.name: term for term in self.terms} if self.share < 1 else {}
        found = {target_name(name): term.target(outputs[name]) for name, term in distilled.items()}
        worth = self.outputs.worth(outputs) if any(term.worthy for term in distilled.values()) else {}
        return found | {
            worth_name(name): term.worth(outputs[name], worth[name]) for name, term in distilled.items() if term.worthy
        }

    def inside(self, outputs: Results) -> dict[str, np.ndarray]:
        """Return what the hints are compared with, laid out as in the model."""
        return {hint_name(hint.value): hint.target(outputs) for hint in self.hints}

    def fed(self, batch: Results) -> dict[str, Any]:
        """Return a batch as the graph takes it: targets laid out like the outputs."""
        flat = {name(term.output.name): term.output.flat for term in self.terms for name in (target_name, worth_name)}
        return {name: flat[name](array) if name in flat else array for name, array in batch.items()}

    def score(
        self, expected: Results, found: Results, labels: np.ndarray | None, inputs: Results | None = None
    ) -> float:
        """Return the loss of one batch without hints, what held-out data is judged by."""
        result = (1 - self.share) * self.outputs.distance(self._errors(expected, found, inputs))
        if self.classes and labels is not None:
            result += self.share * _entropy(self.classes.target(found[self.classes.output.name]), labels)
        return result

    def _errors(self, expected: Results, found: Results, inputs: Results | None) -> dict[str, Errors]:
        """The errors per output at the temperature of the training."""
        soft = {
            term.output.name: term
            for term in self.terms
            if term.output.kind in CLASSES and np.shape(expected[term.output.name]) == np.shape(found[term.output.name])
        }
        want, have = (
            {name: soft[name].softened(v, self.temperature) if name in soft else v for name, v in values.items()}
            for values in (expected, found)
        )
        errors = self.outputs.errors(want, have, inputs)
        factor = self.temperature**2
        return {n: Errors(e.total * factor, e.count) if n in soft else e for n, e in errors.items()}


def _entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    logs = scipy.special.log_softmax(scores.astype(np.float64), -1)
    return -float(np.take_along_axis(logs, labels.astype(np.int64)[..., None], -1).mean())


def objective(
    outputs: Results,
    labels: np.ndarray | None,
    loss: str,
    temperature: float = 4.0,
    share: float = 0.5,
    how: Outputs | None = None,
    by_sample: bool = False,
) -> Objective:
    """Return the objective that fits the original's outputs on a batch and all labels; raises DataError for none.

    ``how``: the outputs are compared (None: as this batch tells). ``by_sample``: samples are put together anew, so that outputs
    that no axis of follows them take no part.
    """
    known = how or outputs_like([outputs])
    floats = {o.name: o for o in known.judged if o.kind != INTEGERS and o.name in outputs}
    natural = {name: o for name, o in floats.items() if not by_sample or o.samples_axis is not None}
    if not natural:
        what = "an axis of which follows the samples, and the model has none" if floats else "and the model has none"
        raise DataError(f"recovery compares float outputs, {what}")
    compared = {name: replace(o, kind=VALUES) for name, o in natural.items()} if loss == "mse" else natural
    found = replace(known, of=compared)
    classes = next((OutputTerm(o) for o in natural.values() if o.kind in CLASSES), None)
    usable = classes is not None and _are_classes(labels, classes.output.laid(outputs[classes.output.name]).shape)
    if loss == "labels" and not usable:
        raise DataError("recovery by labels needs one class number per sample and an output [batch, classes]")
    worthy = known.worth(outputs)
    terms = tuple(OutputTerm(output, known.mask, name in worthy) for name, output in compared.items())
    if usable and (loss == "labels" or (loss == "auto" and share > 0)):
        return Objective(terms, temperature, found, 1.0 if loss == "labels" else share, classes)
    return Objective(terms, temperature, found)


def _are_classes(labels: np.ndarray | None, shape: Sequence[int]) -> bool:
    """Whether there is one class number for each row of scores [samples, .., classes]."""
    if labels is None or labels.dtype.kind not in "iu" or labels.shape[1:] != tuple(shape[1:-1]):
        return False
    return bool(((labels >= 0) & (labels < shape[-1])).all())
