"""What is differentiated: the task's loss where labels are given, else a loss drawn from the model's own outputs.

At its own outputs a model's divergence from itself is zero, and so is the gradient. The label-free losses are therefore random, with
the Fisher matrix as the second moment of their gradients (Martens 2020, "New insights and perspectives on the natural gradient
method", section 5): labels drawn from a classifier's distribution, or outputs weighted by random signs where they are no classes
(the Fisher matrix of a Gaussian around them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.grad import Loss, losses
from onnxprune.grad.emitter import Emitter, Value
from onnxprune.io import FLOATS

LABELS, SIGNS = "target:labels", "target:signs"
CLASS_AXIS = {2: 1, 4: 1}  # rank of an output -> the axis its classes are on
TINY = 1e-12

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Objective:
    """``loss`` of one sample each; ``outputs`` it looks at; ``axis`` of the classes (None: no classes).

    ``sampled``: labels come from the model, whatever labels there are.
    """

    loss: Loss
    outputs: tuple[str, ...]
    axis: int | None
    sampled: bool
    distribution: bool = False

    def targets(self, outputs: Arrays, labels: np.ndarray | None, seed: int, first: int) -> dict[str, np.ndarray]:
        """Return what the loss reads beside the model's inputs; draws depend on the seed and a sample's number alone."""
        if self.axis is None:
            whole = len(self.outputs) == 1
            return {SIGNS if whole else f"{SIGNS}:{name}": _signs(outputs[name], seed, first) for name in self.outputs}
        rows = np.moveaxis(outputs[self.outputs[0]], self.axis, -1)
        if not self.sampled and labels is not None:
            return {LABELS: labels.reshape(rows.shape[:-1]).astype(np.int64)}
        logits = np.log(np.maximum(rows, TINY)) if self.distribution else rows
        return {LABELS: _drawn(logits, seed, first)}


def choose(analysis: Analysis, outputs: Arrays, labels: np.ndarray | None, sampled: bool) -> tuple[Objective, str]:
    """Return the objective for a model with these outputs, and a remark ("": none): see the module."""
    floats = [name for name in analysis.facts.graph.outputs if analysis.facts.dtype(name) in FLOATS]
    first = outputs[floats[0]]
    axis = CLASS_AXIS.get(first.ndim) if first.ndim > 1 and first.shape[1] > 1 else None
    fits = axis is not None and labels is not None and _fit(first, labels, axis)
    remark = ""
    if not sampled and not fits:
        what = "no labels of the calibration data fit the outputs" if labels is not None else "no labels"
        remark = f"{what}: gradients are those of a loss drawn from the model's own outputs"
    if axis is None or (len(floats) > 1 and not (fits and not sampled)):
        return Objective(losses.total(weights=SIGNS, per_sample=True), tuple(floats), None, True), remark
    known = _is_distribution(first, axis)
    return Objective(_cross_entropy(floats[0], axis, known), (floats[0],), axis, sampled or not fits, known), remark


def _cross_entropy(output: str, axis: int, distribution: bool) -> Loss:
    """Return the loss of logits, or of probabilities, whose logarithms are logits."""
    if not distribution:
        return losses.cross_entropy(LABELS, output, axis, per_sample=True)
    inner = losses.cross_entropy(LABELS, None, axis, per_sample=True)

    def of_logarithms(emit: Emitter, outputs: Sequence[Value]) -> Value:
        return inner(emit, [emit("Log", emit.value(output) + TINY)])

    return of_logarithms


def _fit(logits: np.ndarray, labels: np.ndarray, axis: int) -> bool:
    others = logits.shape[:axis] + logits.shape[axis + 1 :]
    whole = labels.dtype.kind in "iu" or bool((labels == np.round(labels)).all())
    return labels.size == np.prod(others) and whole and labels.min() >= 0 and labels.max() < logits.shape[axis]


def _is_distribution(output: np.ndarray, axis: int) -> bool:
    rows = output.astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=axis), 1.0, atol=1e-3))


def _drawn(logits: np.ndarray, seed: int, first: int) -> np.ndarray:
    """Return int64 labels drawn from softmax(logits) along the last axis, as argmax of logits plus Gumbel noise (Gumbel 1954)."""
    noise = [np.random.default_rng([seed, first + i]).gumbel(size=logits.shape[1:]) for i in range(len(logits))]
    return np.argmax(logits + np.array(noise), axis=-1)


def _signs(output: np.ndarray, seed: int, first: int) -> np.ndarray:
    draws = [np.random.default_rng([seed, first + i]).integers(0, 2, output.shape[1:]) for i in range(len(output))]
    wide = np.float64 if output.dtype == np.float64 else np.float32
    return (2 * np.array(draws) - 1).astype(wide).reshape(output.shape)
