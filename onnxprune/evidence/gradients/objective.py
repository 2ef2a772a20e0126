"""What is differentiated: the task's loss where labels are given, else a loss drawn from the model's own outputs.

At its own outputs a model's divergence from itself is zero, and so is the gradient. The label-free losses are therefore random, with
the Fisher matrix as the second moment of their gradients (Martens 2020, "New insights and perspectives on the natural gradient
method", section 5): labels drawn from a classifier's distribution, or outputs weighted by random signs where they are no classes
(the Fisher matrix of a Gaussian around them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import DataError
from onnxprune.grad import Loss, losses
from onnxprune.grad.emitter import Emitter, Value
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.outputs import CLASSES, INTEGERS, PROBABILITIES, Output, Outputs
from onnxprune.model.runtime import Arrays

LABELS, SIGNS = "target:labels", "target:signs"
TINY = 1e-12


@dataclass(frozen=True)
class SampleLoss:
    """``loss`` of one sample each; ``outputs`` it looks at; ``classes``: the one that chooses among classes (None: none does).

    ``sampled``: labels come from the model, whatever labels there are. ``scaled``: signs are as large as the channel's weight
    in the distance between outputs, on its own scale.
    """

    loss: Loss
    outputs: tuple[Output, ...]
    classes: Output | None
    sampled: bool
    scaled: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.outputs)

    def targets(self, outputs: Arrays, labels: np.ndarray | None, seed: int, first: int) -> dict[str, np.ndarray]:
        """Return what the loss reads beside the model's inputs; draws depend on the seed and a sample's number alone."""
        if self.classes is None:
            whole = len(self.outputs) == 1
            signs = {o.name: _signs(o, outputs[o.name], seed, first, self.scaled) for o in self.outputs}
            return {SIGNS if whole else f"{SIGNS}:{name}": array for name, array in signs.items()}
        rows = self.classes.laid(outputs[self.classes.name])
        if not self.sampled and labels is not None:
            return {LABELS: self.classes.flat(labels.reshape(rows.shape[:-1]).astype(np.int64))}
        logits = np.log(np.maximum(rows, TINY)) if self.classes.kind == PROBABILITIES else rows
        return {LABELS: self.classes.flat(_drawn(logits / self.classes.temperature, seed, first))}


def choose_loss(
    outputs: Arrays, labels: np.ndarray | None, sampled: bool, how: Outputs | None
) -> tuple[SampleLoss, str]:
    """Return the objective for a model with these outputs, and a remark ("": none): see the module.

    ``how``: the outputs are compared (None: as these tell, all on one scale). Raises DataError where no output is a float.
    """
    known = (how or outputs_like([outputs])).judged
    floats = tuple(o for o in known if o.kind != INTEGERS and o.importance)
    if not floats:
        raise DataError("gradients are those of a loss of float outputs, and the model has none")
    first = floats[0]
    fits = labels is not None and first.channel_axis is not None and _fit(first.laid(outputs[first.name]), labels)
    remark = ""
    if not sampled and not fits:
        what = "no labels of the calibration data fit the outputs" if labels is not None else "no labels"
        remark = f"{what}: gradients are those of a loss drawn from the model's own outputs"
    given = fits and not sampled
    if not given and (len(floats) > 1 or first.kind not in CLASSES):
        return SampleLoss(_signed(floats), floats, None, True, how is not None), remark
    return SampleLoss(class_loss(first), (first,), first, not given), remark


def _signed(floats: Sequence[Output]) -> Loss:
    """Return the loss of outputs, or of values inside the model, weighted by signs."""
    inner = losses.total(weights=SIGNS, per_sample=True)
    return lambda emit, outputs: inner(emit, [emit.value(output.name) for output in floats])


def class_loss(output: Output) -> Loss:
    """Return the loss of logits, or of probabilities, whose logarithms are logits, at the output's temperature."""
    inner = losses.cross_entropy(LABELS, None, -1, per_sample=True)

    def laid_out(emit: Emitter, outputs: Sequence[Value]) -> Value:
        value = emit.value(output.name)
        value = emit.transpose(value, output.order(value.rank))
        logits = emit("Log", value + TINY) if output.kind == PROBABILITIES else value
        return inner(emit, [logits if output.temperature == 1.0 else logits * (1 / output.temperature)])

    return laid_out


def _fit(logits: np.ndarray, labels: np.ndarray) -> bool:
    """Whether labels are class numbers for rows of [samples, .., classes]."""
    whole = labels.dtype.kind in "iu" or bool((labels == np.round(labels)).all())
    many = logits.shape[-1] > 1 and labels.size == np.prod(logits.shape[:-1])
    return bool(many and whole and labels.min() >= 0 and labels.max() < logits.shape[-1])


def _drawn(logits: np.ndarray, seed: int, first: int) -> np.ndarray:
    """Return int64 labels drawn from softmax(logits) along the last axis, as argmax of logits plus Gumbel noise (Gumbel 1954)."""
    noise = [np.random.default_rng([seed, first + i]).gumbel(size=logits.shape[1:]) for i in range(len(logits))]
    return np.argmax(logits + np.array(noise), axis=-1)


def _signs(how: Output, output: np.ndarray, seed: int, first: int, scaled: bool) -> np.ndarray:
    """Return random signs shaped like an output, one draw per sample; ``scaled`` by the root of each channel's factor."""
    if not how.fits(output.shape) or how.samples_axis is None:
        return _drawn_signs(output[None] if not output.ndim else output, seed, first).reshape(output.shape)
    laid = how.laid(output)
    signs = _drawn_signs(laid, seed, first)
    if scaled:
        signs = signs * np.sqrt(how.factor * len(how.factor)).astype(signs.dtype)
    return np.ascontiguousarray(how.flat(signs).transpose(np.argsort(how.order(output.ndim))))


def _drawn_signs(output: np.ndarray, seed: int, first: int) -> np.ndarray:
    draws = [np.random.default_rng([seed, first + i]).integers(0, 2, output.shape[1:]) for i in range(len(output))]
    wide = np.float64 if output.dtype == np.float64 else np.float32
    return (2 * np.array(draws) - 1).astype(wide).reshape(output.shape)
