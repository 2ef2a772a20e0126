"""Rows near those of the data that a model answers otherwise, found by its own input gradients.

Everything is done in shares u of the range of the input's values, u = (x - low) / (high - low), in which the ball around a row has one
radius whatever the data was normalised by. FGSM (Goodfellow, Shlens & Szegedy 2015, section 4) takes one step of the radius along the signs of the
gradient. PGD (Madry et al. 2018, equation 1) starts at random inside the ball and takes several steps, each projected on the ball and on the range; of
the rows on its way the one with the largest loss is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.data import Dataset, Feed
from onnxprune.data.observe import Batch
from onnxprune.errors import DataError
from onnxprune.evidence.attacks.asked import L2, PGD, Attack, Extent
from onnxprune.evidence.gradients.gather import BATCH, batch_for
from onnxprune.evidence.gradients.objective import LABELS, class_loss
from onnxprune.evidence.rows import usable
from onnxprune.grad import backward, gradient_name
from onnxprune.grad.builder import loss_name
from onnxprune.means import Means
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.outputs import CLASSES, Output, Outputs
from onnxprune.model.facts import Facts
from onnxprune.model.model import Model
from onnxprune.model.read import FLOATS
from onnxprune.model.runtime import Session, session

PLAIN: tuple[Extent, ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Ranges that data is taken to have where it lies inside; the first that fits."""
BEYOND = 1e-3  # of a range: how far values may lie outside


@dataclass(frozen=True)
class Attacker:
    """One model, and the gradients of its loss at ``name``, an input whose values lie from ``low`` to ``high`` (broadcast over it).

    ``output``: the one that chooses among classes.
    """

    forward: Session
    gradients: Session
    output: Output
    attack: Attack
    name: str
    low: np.ndarray
    high: np.ndarray
    means: Means

    def chosen(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return int64[samples, positions]: the classes that the model chooses."""
        rows = self.output.rows(self.forward.run(inputs, [self.output.name])[self.output.name])
        return rows.argmax(axis=-1)

    def attacked(self, batch: Batch, wanted: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs with rows near by that the model does not choose ``wanted`` for, int64[samples, positions], if it can help it."""
        clean = self._shares(batch.inputs[self.name])
        lengths, labels = self.high - self.low, self._labels(batch.inputs, wanted)
        at, best, most = self._start(clean, batch), clean, np.full(len(clean), -np.inf)
        for step in range(self.attack.steps + 1):
            feeds = {**batch.inputs, self.name: self._values(at, batch)}
            loss, gradient = self._loss({**feeds, LABELS: labels})
            worse = loss > most
            best = np.where(_over(worse, at), at, best)
            most = np.where(worse, loss, most)
            if step < self.attack.steps:
                at = self._moved(at, clean, gradient * lengths)
        return {**batch.inputs, self.name: self._values(best, batch)}

    def _shares(self, values: np.ndarray) -> np.ndarray:
        return ((values - self.low) / (self.high - self.low)).astype(np.float64)

    def _values(self, shares: np.ndarray, batch: Batch) -> np.ndarray:
        own = batch.inputs[self.name]
        return (self.low + shares * (self.high - self.low)).astype(own.dtype)

    def _start(self, clean: np.ndarray, batch: Batch) -> np.ndarray:
        """Return where to begin: at the rows, or at random inside the ball; draws depend on the seed and a row's number alone."""
        if self.attack.method != PGD:
            return clean
        noise = np.stack([self._drawn(clean[0].shape, batch.first + i) for i in range(len(clean))])
        return self._held(clean + noise, clean)

    def _drawn(self, shape: Sequence[int], number: int) -> np.ndarray:
        draw = np.random.default_rng([self.means.seed, number]).uniform(-1, 1, shape)
        return self.attack.size * (draw if self.attack.norm != L2 else draw / np.linalg.norm(draw))

    def _loss(self, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return float64[samples], and the gradient at the input; raises DataError where one is NaN or infinite."""
        found = self.gradients.run({name: feeds[name] for name in self.gradients.inputs})
        loss, gradient = found[loss_name()], found[gradient_name(self.name)]
        if not (usable(loss) and usable(gradient)):
            raise DataError(
                "a gradient at the input is NaN or infinite, so that nothing can be attacked along it; leave such rows out"
            )
        rows = np.asarray(loss, np.float64).reshape(len(gradient), -1).sum(axis=1)
        return rows, gradient.astype(np.float64)

    def _labels(self, inputs: Mapping[str, np.ndarray], wanted: np.ndarray) -> np.ndarray:
        """Return the classes as the loss reads them: shaped like the scores without their classes."""
        scores = self.output.laid(self.forward.run(inputs, [self.output.name])[self.output.name])
        return self.output.flat(wanted.reshape(scores.shape[:-1])).astype(np.int64)

    def _moved(self, at: np.ndarray, clean: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return one step on, projected."""
        by_length = self.attack.norm == L2
        along = gradient / np.maximum(_lengths(gradient), 1e-30) if by_length else np.sign(gradient)
        return self._held(at + self.attack.step * along, clean)

    def _held(self, at: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """Return the nearest rows inside the ball, then inside the range."""
        off = at - clean
        if self.attack.norm == L2:
            off = off * np.minimum(1.0, self.attack.size / np.maximum(_lengths(off), 1e-30))
        else:
            off = np.clip(off, -self.attack.size, self.attack.size)
        return np.clip(clean + off, 0.0, 1.0)


@dataclass(frozen=True)
class Attacked:
    """Makes of a batch the rows that a model no longer chooses its own classes for."""

    attacker: Attacker

    def __call__(self, batch: Batch) -> Batch:
        found = self.attacker.attacked(batch, self.attacker.chosen(batch.inputs))
        return replace(batch, inputs=Feed(found, batch.inputs.rows))


def _lengths(rows: np.ndarray) -> np.ndarray:
    """Return float64[rows, 1, ...]: the length of each row."""
    flat = np.linalg.norm(rows.reshape(len(rows), -1), axis=1)
    return _over(flat, rows)


def _over(each: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return each.reshape(-1, *[1] * (rows.ndim - 1))


# --- opening --------------------------------------------------------------------------------------------------------


def attacker_of(
    facts: Facts, model: Model, attack: Attack, dataset: Dataset, means: Means, outputs: Outputs | None
) -> Attacker:
    """Open a model, ``facts.model`` or one like it, to be attacked on data; raises DataError where it cannot be."""
    name = attacked_input(facts, attack)
    means = replace(means, batch=means.batch or batch_for(facts, BATCH[1]))
    forward = session(model, threads=means.threads)
    inputs, _ = next(dataset.labelled(means.batch))
    low, high = input_range(attack, name, dataset, means)
    how = outputs or outputs_like([forward.run(inputs)])
    output = class_output(how)
    gradients = session(backward(model, [name], class_loss(output)), threads=means.threads)
    return Attacker(forward, gradients, output, attack, name, low, high, means)


def class_output(how: Outputs) -> Output:
    """Return the output that chooses among classes; raises DataError where there is none."""
    output = next((output for output in how.judged if output.kind in CLASSES and output.channel_axis is not None), None)
    if output is None:
        raise DataError(
            "an attack is on a choice among classes, and no output is one of class scores or probabilities; leave the attack out"
        )
    return output


def attacked_input(facts: Facts, attack: Attack) -> str:
    """Return the name of the input that is changed; raises DataError where it is not known which, or has no floats."""
    floats = [name for name in facts.graph.inputs if facts.dtype(name) in FLOATS]
    if attack.input:
        if attack.input not in floats:
            known = ", ".join(floats) or "none"
            raise DataError(f"attack: {attack.input!r} is no input of floats; such are {known}")
        return attack.input
    if len(floats) != 1:
        which = (
            f"has several inputs of floats; name one (input={floats[0]})"
            if floats
            else "has no input of floats, and numbers of tokens cannot be changed a little; leave the attack out"
        )
        raise DataError(f"attack: {facts.model.name} {which}")
    return floats[0]


def input_range(attack: Attack, name: str, dataset: Dataset, means: Means) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of an input, one of each for all or along its channels.

    As the attack says; else the first of PLAIN that the data lies in. Raises DataError where it lies in none, or outside of what was said.
    """
    lows, highs, shape = list[np.ndarray](), list[np.ndarray](), (0,)
    for batch in dataset.batches(means.batch):
        shape = np.shape(batch[name])
        axes = _channel_axes(shape, len(attack.ranges))
        lows.append(batch[name].min(axis=axes, keepdims=True))
        highs.append(batch[name].max(axis=axes, keepdims=True))
    least, largest = np.min(lows, axis=0).astype(np.float64), np.max(highs, axis=0).astype(np.float64)
    seen = f"values of {name!r} lie from {least.min():.4g} to {largest.max():.4g}"
    if not attack.ranges:
        fitting = [pair for pair in PLAIN if pair[0] <= least.min() and largest.max() <= pair[1]]
        if not fitting:
            raise DataError(
                f"attack: {seen}, which is none of the usual ranges; give what they would be of black and of white, such as "
                "range=-1:1, or for three channels range=-2.1:2.2/-2:2.4/-1.8:2.6"
            )
        return np.array(fitting[0][0]), np.array(fitting[0][1])
    stated = np.array(attack.ranges).T.reshape(2, *least.shape)
    slack = BEYOND * (stated[1] - stated[0])
    if (least < stated[0] - slack).any() or (largest > stated[1] + slack).any():
        raise DataError(f"attack: {seen}, outside of the range that was given; give the range that the data has")
    return stated[0], stated[1]


def _channel_axes(shape: Sequence[int], ranges: int) -> tuple[int, ...]:
    """Return the axes that extremes are taken over: all, or all but the one of so many channels."""
    every = tuple(range(len(shape)))
    if ranges <= 1:
        return every
    fits = [axis for axis in every[1:] if shape[axis] == ranges]
    if not fits:
        raise DataError(
            f"attack: {ranges} ranges were given, and no axis of {list(shape)} has as many channels; give one for all, or one for each"
        )
    return tuple(axis for axis in every if axis != fits[0])
