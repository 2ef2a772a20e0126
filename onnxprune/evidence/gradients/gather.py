"""One pass of the data through one backward graph for all statistics that differentiate the same loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto

from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset, Feed
from onnxprune.data.observe import Batch, observe
from onnxprune.errors import DataError
from onnxprune.evidence.gradients.objective import SampleLoss, choose_loss
from onnxprune.evidence.gradients.statistics import (
    Answers,
    Curvature,
    CurvatureObserver,
    Differential,
    GateObserver,
    HessianObserver,
    ProductObserver,
)
from onnxprune.evidence.gradients.taps import Tap, Tapped, tapped
from onnxprune.evidence.rows import POSITIONS, Sampler, usable
from onnxprune.evidence.unusable import refusal_of_batch
from onnxprune.grad import Loss, backward, gradient_name
from onnxprune.grad.emitter import Emitter, Value
from onnxprune.means import Means
from onnxprune.measure.divergence import opened
from onnxprune.measure.outputs import Outputs
from onnxprune.model.facts import Facts
from onnxprune.model.read import Model
from onnxprune.model.runtime import Session, session

BATCH = {1: 32, 2: 8}  # most samples at a time by order of differentiation: means over batches depend on it
BUDGET = 1 << 29  # bytes of activations held at a time


Changing = Callable[[Batch], Batch]
"""What becomes of a batch before it is looked at."""


class Kind(NamedTuple):
    """An observer and whether its loss is drawn from the model's own outputs even where there are labels."""

    observer: Callable[[Analysis, Tapped], Differential]
    sampled: bool


KINDS: dict[str, Kind] = {
    "task-gates": Kind(GateObserver, False),
    "task-weights": Kind(ProductObserver, False),
    "task-hessian": Kind(HessianObserver, False),
    "fisher-weights": Kind(ProductObserver, True),
    "fisher-outputs": Kind(CurvatureObserver, True),
}
"""Kinds of evidence that gradients provide."""


def sensitivities(
    analysis: Analysis,
    kinds: Iterable[str],
    dataset: Dataset,
    means: Means = Means(),
    *,
    outputs: Outputs | None = None,
    changing: Changing | None = None,
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """Return kind -> one result per group for the kinds in KINDS, and remarks on what was differentiated.

    ``outputs``: how they are compared. ``changing``: what becomes of the rows before they are looked at. Raises ModelError for an operator on the way without a gradient rule.
    """
    wanted = [kind for kind in dict.fromkeys(kinds) if kind in KINDS]
    if not wanted or not analysis.groups:
        return {kind: [] for kind in wanted}, ()
    taps = tapped(analysis)
    observers = {kind: KINDS[kind].observer(analysis, taps) for kind in wanted}
    passes = sorted({(KINDS[kind].sampled, observers[kind].order) for kind in wanted})
    remarks = []
    for sampled, order in passes:
        own = {k: observers[k] for k in wanted if (KINDS[k].sampled, observers[k].order) == (sampled, order)}
        view = differentiation(analysis.facts, taps.model, list(own.values()), dataset, means, outputs, sampled)
        view = replace(view, changing=changing)
        seen = observe(view.look, dataset, list(own.values()), view.means, "differentiating")
        observers |= zip(own, seen, strict=True)
        remarks.append(view.remark)
    results = {kind: observers[kind].results() for kind in wanted}
    return results, tuple(dict.fromkeys(filter(None, remarks)))


def curvatures(
    analysis: Analysis, taps: Sequence[Tap], dataset: Dataset, means: Means, outputs: Outputs | None = None
) -> list[Curvature]:
    """Return the second moments of the gradients at the outputs of ``taps``, by the Fisher matrix of the model's own outputs."""
    place = Tapped(analysis.facts.model, (tuple(taps),))
    observer = CurvatureObserver(analysis, place)
    view = differentiation(analysis.facts, place.model, [observer], dataset, means, outputs)
    (seen,) = observe(view.look, dataset, [observer], view.means, "differentiating")
    (found,) = seen.results()
    return [found[tap.site] for tap in taps]


@dataclass(frozen=True)
class _Differentiation:
    """Looks at the gradients of a loss, of rows as ``changing`` makes them; ``remark``: what is to be said of it ("": nothing)."""

    facts: Facts
    forward: Session
    gradients: Session
    objective: SampleLoss
    remark: str
    means: Means
    changing: Changing | None = None

    def look(self, batch: Batch) -> Answers:
        """Return gradients and values; raises DataError where one is NaN or infinite."""
        batch = batch if self.changing is None else self.changing(batch)
        found = self.forward.run(batch.inputs, self.objective.names)
        feeds = batch.inputs | self.objective.targets(found, batch.labels, self.means.seed, batch.first)
        values = self.gradients.run({name: feeds[name] for name in self.gradients.inputs})
        if not all(map(usable, values.values())):
            raise _refusal(self.facts, batch.inputs, self.means)
        return Answers(values, Sampler(batch.samples, POSITIONS, self.means.seed, batch.first))


def differentiation(
    facts: Facts,
    model: Model,
    observers: Sequence[Differential],
    dataset: Dataset,
    means: Means,
    how: Outputs | None,
    sampled: bool = True,
) -> _Differentiation:
    """Return the gradients of ``model``, ``facts.model`` with taps, that observers of one order ask for.

    ``sampled``: the loss is drawn from the model's own outputs whatever labels there are.
    """
    means = replace(means, batch=means.batch or batch_for(facts, BATCH[observers[0].order]))
    forward = opened(facts.model, how, means)
    inputs, labels = next(dataset.labelled(means.batch))
    computed = {n: a for n, a in forward.run(inputs).items() if n not in facts.constants}
    objective, remark = choose_loss(computed, labels, sampled, how)
    gradients = session(_graph(model, observers, objective.loss), threads=means.threads)
    return _Differentiation(facts, forward, gradients, objective, remark, means)


def _refusal(facts: Facts, inputs: Feed, means: Means) -> DataError:
    """Return what to tell where a gradient is NaN or infinite: a value of the model is, or the loss is too steep."""
    first, last = inputs.rows[0], inputs.rows[-1]
    steep = f"a gradient is NaN or infinite for one of the data rows {first} to {last} (the first is 0), though all values are finite"
    return refusal_of_batch(facts, inputs, inputs.rows, means) or DataError(f"{steep}; leave these rows out")


def batch_for(facts: Facts, most: int) -> int:
    """Return how many samples at a time keep all activations of the model within the budget."""
    shapes = [
        facts.shape(name) or () for node in facts.graph.top for name in node.outputs if name not in facts.constants
    ]
    samples = max(next(iter(facts.sizes.values()), (1,))[:1] or (1,))
    size = 4 * sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes) // max(samples, 1)
    return int(np.clip(BUDGET // max(size, 1), 1, most))


def _graph(model: Model, observers: Sequence[Differential], loss: Loss) -> ModelProto:
    """Return the backward graph with everything the observers need, for second order that of the gradients' norm."""
    wrt = list(dict.fromkeys(name for observer in observers for name in observer.wrt))
    if observers[0].order == 2:
        return backward(backward(model, wrt, loss), wrt, half_square, order=2)
    outputs = dict.fromkeys(name for observer in observers for name in observer.outputs)
    return backward(model, wrt, loss, outputs=list(outputs))


def half_square(emit: Emitter, outputs: Sequence[Value]) -> Value:
    """Half the sum of the squares of all gradients among the outputs; its own gradient is H g."""
    gradients = [value for value in outputs if value.name.endswith(gradient_name(""))]
    parts = [emit.sum(value * value, list(range(value.rank)), keepdims=False) for value in gradients]
    return (parts[0] if len(parts) == 1 else emit("Sum", *parts)) * 0.5
