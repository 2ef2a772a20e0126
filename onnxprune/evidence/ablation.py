"""Exact ablation: every unit silenced in the whole model, one at a time, and what that does to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from onnx import helper

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.silence import silenced
from onnxprune.data import Dataset
from onnxprune.data.observe import Batch, Sums, observe
from onnxprune.errors import DataError
from onnxprune.means import Means
from onnxprune.measure.divergence import opened
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.outputs import CLASSES, INTEGERS, Outputs
from onnxprune.model.graph import give_out
from onnxprune.model.model import Model
from onnxprune.model.runtime import Arrays, Session, session

Measure = Callable[[Arrays, Arrays, np.ndarray | None, np.ndarray | None, Outputs], np.ndarray]


def summed_distance(
    before: Arrays, after: Arrays, labels: np.ndarray | None, mask: np.ndarray | None, how: Outputs
) -> np.ndarray:
    """Return float64[samples]: the sum of the distances of all float outputs."""
    total = np.zeros(1)
    for output in (output for output in how.judged if output.kind != INTEGERS and output.importance):
        total = total + output.importance * output.per_sample(before[output.name], after[output.name], mask)
    return total


def loss_change(
    before: Arrays, after: Arrays, labels: np.ndarray | None, mask: np.ndarray | None, how: Outputs
) -> np.ndarray:
    """Return float64[samples]: cross-entropy with the labels of the first output of class scores, after minus before."""
    output = next((output for output in how.judged if output.kind in CLASSES), None)
    if output is None or labels is None:
        raise DataError("the criterion 'loss' needs labels and an output that looks like a classifier's logits")
    logs = [output.log_probabilities(values[output.name]) for values in (before, after)]
    samples, positions, classes = logs[0].shape
    if labels.size not in (samples, samples * positions):
        raise DataError(f"the criterion 'loss' needs a class number for each of {samples} x {positions} rows of scores")
    numbers = np.broadcast_to(labels.reshape(samples, -1), (samples, positions)).astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= classes:
        raise DataError(f"labels must lie between 0 and {classes - 1}")
    own, others = (np.take_along_axis(found, numbers[:, :, None], 2)[:, :, 0].mean(axis=1) for found in logs)
    return own - others


MEASURES: dict[str, Measure] = {"kl": summed_distance, "loss": loss_change}
"""Kinds of evidence that ablation provides."""


def ablate(
    analysis: Analysis,
    kinds: Iterable[str],
    dataset: Dataset,
    means: Means = Means(),
    *,
    outputs: Outputs | None = None,
) -> dict[str, list[np.ndarray]]:
    """Return kind -> per group float64[width]: the mean effect of silencing each unit alone.

    One run of the model per unit and batch. ``outputs``: how they are compared. Raises DataError where labels are needed and
    missing.
    """

    def silent(group: int) -> Iterator[Model]:
        for unit in range(int(analysis.widths[group])):
            yield silenced(analysis, Kept.whole(analysis).without(group, [unit]))[0]

    whole = (silent(group.index) for group in analysis.groups)
    return effects_of_variants(analysis.facts.model, list(whole), kinds, dataset, means, outputs)


def effects_of_variants(
    model: Model,
    variants: Sequence[Iterable[Model]],
    kinds: Iterable[str],
    dataset: Dataset,
    means: Means = Means(),
    outputs: Outputs | None = None,
) -> dict[str, list[np.ndarray]]:
    """Return kind -> per sequence of ``variants`` float64[variants]: the mean effect on the outputs of ``model``.

    Those of one sequence differ in the content of small tensors alone, which the model does not have. See ``ablate``.
    """
    wanted = [kind for kind in kinds if kind in MEASURES]
    if not wanted or not variants:
        return {kind: [] for kind in wanted}
    original = opened(model, outputs, means)
    how = outputs or outputs_like([original.run(next(dataset.batches(means.batch)))])
    found = []
    for number, each in enumerate(variants):
        every = iter(each)
        first = next(every)
        switched = SwitchedVariants(model, first, original, wanted, how, means)
        found.append(switched.effects(chain([first], every), dataset))
        means.progress(f"silencing: {number + 1} of {len(variants)} groups", number + 1, len(variants))
    return {kind: [effects[number] for effects in found] for number, kind in enumerate(wanted)}


class SwitchedVariants:
    """A model beside variants of it that differ from each other in the content of small tensors alone, in one session for all.

    ``template``: one of the variants; ``original``: the model, opened.
    """

    def __init__(
        self,
        model: Model,
        template: Model,
        original: Session,
        kinds: Sequence[str],
        how: Outputs,
        means: Means = Means(),
    ):
        self.original, self.kinds, self.how, self.means = original, kinds, how, means
        proto = template.draft()
        switches = [header for header in proto.graph.initializer if header.name not in model.weights]
        for header in switches:
            proto.graph.input.append(helper.make_tensor_value_info(header.name, header.data_type, list(header.dims)))
        self._names = [header.name for header in switches]
        for header in switches:
            proto.graph.initializer.remove(header)
        give_out(proto, how.inner)
        self._silent = session(template.derived(proto), threads=means.threads)

    def effects(self, variants: Iterable[Model], dataset: Dataset) -> np.ndarray:
        """Return float64[kinds, variants]: the mean effect on the outputs; a run of the model per variant and batch."""
        switches = [{name: variant.weights[name].read() for name in self._names} for variant in variants]
        view = _Ablation(self.original, self._silent, switches, self.kinds, self.how)
        (sums,) = observe(view.look, dataset, [Sums()], self.means.quiet)
        return np.asarray(sums.totals[1] / max(sums.totals[0], 1))


@dataclass(frozen=True)
class _Ablation:
    """Runs a model whole and with one unit silent after the other; ``switches``: what is fed beside the inputs for each unit."""

    original: Session
    silent: Session
    switches: Sequence[Mapping[str, np.ndarray]]
    kinds: Sequence[str]
    how: Outputs

    def look(self, batch: Batch) -> tuple[int, np.ndarray]:
        """Return how many effects were summed for each unit, and float64[kinds, width], the sums."""
        before, mask = self.original.run(batch.inputs), batch.inputs.get(self.how.mask)
        sums = np.zeros((len(self.kinds), len(self.switches)))
        for unit, switch in enumerate(self.switches):
            after = self.silent.run({**batch.inputs, **switch})
            for number, kind in enumerate(self.kinds):
                effect = MEASURES[kind](before, after, batch.labels, mask, self.how)
                sums[number, unit] = effect.sum()
        return len(effect), sums
