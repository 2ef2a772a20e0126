"""Losses as ONNX nodes: each factory returns a function (emitter, outputs of the model) -> loss.

A loss is a scalar, or with ``per_sample`` a vector over axis 0; gradients are those of its sum. What a loss needs
beside the model's outputs (labels, targets, noise) becomes an input of the graph under the name given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from onnxprune.errors import UsageError
from onnxprune.grad.emitter import FLOATING, Emitter, Value
from onnxprune.registry import near_names

TINY = 1e-6  # samples: what an average over none is divided by

Loss = Callable[[Emitter, Sequence[Value]], Value]


class Counting(NamedTuple):
    """Inputs of the graph that tell how much the places of an output count ("": all alike).

    ``mask``: [samples, steps]; where it is 0, positions along the first later axis of so many steps do not count. ``worth``: like
    the errors, which it multiplies.
    """

    mask: str = ""
    worth: str = ""


ALL = Counting()


def total(output: str | Sequence[str] | None = None, weights: str | None = None, per_sample: bool = False) -> Loss:
    """Sum of an output or several (None: all float outputs), times the input named by ``weights``, if any: an output gradient.

    With several outputs, the weights of output ``o`` are the input ``{weights}:{o}``.
    """

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        names = [output] if isinstance(output, str) else output or [v.name for v in outputs if v.dtype in FLOATING]
        chosen = [_choose(outputs, name) for name in names] or [_choose(outputs, None)]
        parts = []
        for value in chosen:
            name = weights if len(chosen) == 1 else f"{weights}:{value.name}"
            weighted = value if weights is None else value * emit.input(str(name), value)
            parts.append(_collect(emit, weighted, per_sample))
        return parts[0] if len(parts) == 1 else emit("Sum", *parts)

    return loss


def cross_entropy(labels: str = "labels", output: str | None = None, axis: int = -1, per_sample: bool = False) -> Loss:
    """-log softmax(logits)[label], averaged over everything but the class axis (``per_sample``: over all but axis 0).

    ``labels``: int64, shaped like the logits without ``axis``.
    """

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        logits = _choose(outputs, output)
        others = [a for a in range(logits.rank) if a != axis % logits.rank]
        given = emit.input(labels, logits, TensorProto.INT64, others)
        return _nll(emit, logits, given, axis, per_sample)

    return loss


def sampled_cross_entropy(
    noise: str = "uniform", output: str | None = None, axis: int = -1, per_sample: bool = False
) -> Loss:
    """Cross entropy with labels drawn from the model's own distribution: its squared gradients are the true Fisher's.

    ``noise``: uniform in (0, 1), shaped like the logits; the label is argmax(logits - log(-log(noise))) (Gumbel 1954).
    Source: Martens 2020, "New insights and perspectives on the natural gradient method", section 5.
    """

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        logits = _choose(outputs, output)
        uniform = emit.input(noise, logits)
        gumbel = -emit("Log", -emit("Log", uniform))
        labels = emit("ArgMax", logits + gumbel, axis=axis, keepdims=0)
        return _nll(emit, logits, labels, axis, per_sample)

    return loss


def kl(
    targets: str = "target_logits",
    output: str | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    per_sample: bool = False,
    weights: np.ndarray | None = None,
    counting: Counting = ALL,
) -> Loss:
    """T^2 KL(softmax(targets / T) || softmax(logits / T)), averaged like ``cross_entropy``.

    ``weights``: float64[classes] of the last axis, mean 1, for the terms p log(p / q) - p + q. ``counting``: of rows,
    without the class axis.
    Source: Hinton, Vinyals and Dean 2015, section 2 (the factor T^2 keeps gradients alike across temperatures).
    """

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        logits = _choose(outputs, output)
        terms = _divergences(emit, logits, emit.input(targets, logits), temperature, axis, weights)
        terms = terms * emit.input(counting.worth, terms) if counting.worth else terms
        return scaled(_masked(emit, terms, counting.mask, per_sample, terms.rank), temperature**2)

    return loss


def self_kl(output: str | None = None, temperature: float = 1.0, axis: int = -1, per_sample: bool = False) -> Loss:
    """KL to the model's own outputs held constant: value and gradient are zero, the Hessian is the Gauss-Newton one."""

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        logits = _choose(outputs, output)
        terms = _divergences(emit, logits, emit.stop(logits), temperature, axis)
        return scaled(_average(emit, terms, per_sample), temperature**2)

    return loss


def gauss_newton(signs: str = "signs", output: str | None = None, axis: int = -1, per_sample: bool = False) -> Loss:
    """A label-free random loss whose gradient has the Gauss-Newton matrix of ``self_kl`` as its second moment.

    ``signs``: +-1, shaped like the logits. With p = softmax(logits) held constant, loss = sum_k (z_k sqrt(p_k) -
    p_k sum_j z_j sqrt(p_j)) logits_k, so E[g g^T] = J^T (diag p - p p^T) J. Summed over samples, not averaged: the
    products of different samples vanish in expectation.
    """

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        logits = _choose(outputs, output)
        p = emit.stop(emit("Softmax", logits, axis=axis))
        root = emit.input(signs, logits) * emit("Sqrt", p)
        weights = root - p * emit.sum(root, [axis])
        return _collect(emit, logits * emit.stop(weights), per_sample)

    return loss


def mse(
    targets: str = "targets",
    output: str | None = None,
    per_sample: bool = False,
    weights: np.ndarray | None = None,
    counting: Counting = ALL,
) -> Loss:
    """Mean of (output - target)^2 over all elements (``per_sample``: over all axes but the first).

    ``weights``: float64[channels] that multiply the squares along the last axis.
    """

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        value = _choose(outputs, output)
        error = value - emit.input(targets, value)
        squares = error * error
        if weights is not None:
            squares = squares * np.asarray(weights, value.numpy_type)
        squares = squares * emit.input(counting.worth, value) if counting.worth else squares
        channels = weights is not None and len(weights) > 1
        return _masked(emit, squares, counting.mask, per_sample, squares.rank - channels)

    return loss


def cosine(
    targets: str = "targets",
    output: str | None = None,
    axis: int = -1,
    per_sample: bool = False,
    epsilon: float = 1e-12,
) -> Loss:
    """1 - cos(output, target) along ``axis``, averaged over the other axes."""

    def loss(emit: Emitter, outputs: Sequence[Value]) -> Value:
        value = _choose(outputs, output)
        target = emit.input(targets, value)
        lengths = emit("Sqrt", emit.sum(value * value, [axis]) * emit.sum(target * target, [axis]) + epsilon)
        return _average(emit, 1.0 - emit.sum(value * target, [axis]) / lengths, per_sample)

    return loss


# --- parts ----------------------------------------------------------------------------------------------------------


def _choose(outputs: Sequence[Value], name: str | None) -> Value:
    """Return the named output, by default the first float one; raises UsageError."""
    found = [v for v in outputs if (v.name == name if name else v.dtype in FLOATING)]
    if not found:
        names = [value.name for value in outputs]
        hint = near_names(name or "", names) or f"; its outputs are {', '.join(names)}"
        raise UsageError(f"the model has no float output{f' {name!r}' if name else ''} to take a loss of{hint}")
    return found[0]


def _average(emit: Emitter, x: Value, per_sample: bool) -> Value:
    axes = list(range(int(per_sample), x.rank))
    return emit("ReduceMean", x, axes, keepdims=0) if axes else x


def _collect(emit: Emitter, x: Value, per_sample: bool) -> Value:
    return emit.sum(x, list(range(int(per_sample), x.rank)), keepdims=False)


def _nll(emit: Emitter, logits: Value, labels: Value, axis: int, per_sample: bool) -> Value:
    logs = emit("LogSoftmax", logits, axis=axis)
    axis %= logits.rank
    picked = emit("GatherElements", logs, emit("Unsqueeze", labels, [axis]), axis=axis)
    return -_average(emit, emit("Squeeze", picked, [axis]), per_sample)


def scaled(x: Value, factor: float) -> Value:
    """Multiply, but not by one: ONNX Runtime 1.32 drops such nodes under the hands of its own fusions."""
    return x if factor == 1 else x * factor


def _divergences(
    emit: Emitter, logits: Value, targets: Value, temperature: float, axis: int, weights: np.ndarray | None = None
) -> Value:
    """KL of each row: the class axis is summed away."""
    ours, theirs = (emit("LogSoftmax", scaled(v, 1 / temperature), axis=axis) for v in (logits, targets))
    mass = emit("Exp", theirs)
    terms = mass * (theirs - ours)
    if weights is not None:
        terms = (terms - mass + emit("Exp", ours)) * np.asarray(weights, logits.numpy_type)
    return emit.sum(terms, [axis], keepdims=False)


def _masked(emit: Emitter, x: Value, mask: str, per_sample: bool, end: int) -> Value:
    """Average over what a mask [samples, steps] leaves; over everything where none of the axes before ``end`` fits it."""
    flags = emit.value(mask) if mask else None
    axis = None if flags is None else _steps_axis(x, flags, end)
    if flags is None or axis is None:
        return _average(emit, x, per_sample)
    counted = emit("Cast", emit("Cast", flags, to=TensorProto.BOOL), to=x.dtype)
    away = [a for a in range(x.rank) if a not in (0, axis)]
    spread = (emit("Unsqueeze", counted, away) if away else counted) * emit.filled_like(x, 1.0)
    axes = list(range(int(per_sample), x.rank))
    return emit.sum(x * spread, axes, keepdims=False) / (emit.sum(spread, axes, keepdims=False) + TINY)


def _steps_axis(x: Value, flags: Value, end: int) -> int | None:
    """The first axis behind the samples that is as long as the mask, whatever the free sizes are."""
    every = [(facts[x.name].shape or (), facts[flags.name].shape or ()) for facts in (x.emit.first, x.emit.second)]
    fits = (a for a in range(1, end) if all(len(s) > a and s[0] == m[0] and s[a] == m[1] for s, m in every))
    return next(fits, None)
