"""Exact ablation: every unit silenced in the whole model, one at a time, and what that does to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.errors import DataError
from onnxprune.io import Model
from onnxprune.measure.metrics import are_logits, kl
from onnxprune.runtime import Session, session
from onnxprune.silence import silenced

Outputs = Mapping[str, np.ndarray]
Measure = Callable[[Outputs, Outputs, np.ndarray | None], np.ndarray]


def divergence(before: Outputs, after: Outputs, labels: np.ndarray | None) -> np.ndarray:
    """Return float64[samples]: KL of outputs that look like logits, relative squared error of others, summed."""
    total = np.zeros(1)
    for name, want in before.items():
        if not isinstance(want, np.ndarray) or want.dtype.kind != "f" or not want.size:
            continue
        a, b = (x.astype(np.float64).reshape(max(len(want), 1) if want.ndim else 1, -1) for x in (want, after[name]))
        if are_logits(want):
            total = total + kl(a, b)
        else:
            total = total + np.square(a - b).sum(axis=1) / np.maximum(np.square(a).sum(axis=1), 1e-30)
    return total


def loss_change(before: Outputs, after: Outputs, labels: np.ndarray | None) -> np.ndarray:
    """Return float64[samples]: cross-entropy with the labels of the first output that is logits, after minus before."""
    name = next((name for name, value in before.items() if isinstance(value, np.ndarray) and are_logits(value)), None)
    if name is None or labels is None:
        raise DataError("the criterion 'loss' needs labels and an output that looks like a classifier's logits")
    numbers = labels.reshape(len(labels), -1)[:, 0].astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= before[name].shape[1]:
        raise DataError(f"labels must lie between 0 and {before[name].shape[1] - 1}")
    return _cross_entropy(after[name], numbers) - _cross_entropy(before[name], numbers)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = logits.astype(np.float64)
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(rows)), labels]


MEASURES: dict[str, Measure] = {"kl": divergence, "loss": loss_change}
"""Kinds of evidence that ablation provides."""


def ablate(
    analysis: Analysis,
    kinds: Iterable[str],
    dataset: Dataset,
    *,
    threads: int = 1,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[np.ndarray]]:
    """Return kind -> per group float64[width]: the mean effect of silencing each unit alone.

    One run of the model per unit and batch. ``progress`` is told the groups done. Raises DataError where labels are
    needed and missing.
    """
    wanted = [kind for kind in kinds if kind in MEASURES]
    result: dict[str, list[np.ndarray]] = {kind: [] for kind in wanted}
    if not wanted:
        return result
    original = session(analysis.facts.model, threads=threads)
    for group in analysis.groups:
        effects = _group_effects(analysis, group.index, wanted, dataset, original, threads, batch)
        for kind in wanted:
            result[kind].append(effects[kind])
        if progress is not None:
            progress(group.index + 1)
    return result


def _group_effects(
    analysis: Analysis,
    group: int,
    kinds: list[str],
    dataset: Dataset,
    original: Session,
    threads: int,
    batch: int | None,
) -> dict[str, np.ndarray]:
    width = int(analysis.widths[group])
    opened, masks = _switchable(analysis, group, threads)
    totals = {kind: np.zeros(width) for kind in kinds}
    count = 0
    for inputs, labels in dataset.labelled(batch):
        before = original.run(inputs)
        for unit in range(width):
            after = opened.run({**inputs, **masks[unit]})
            for kind in kinds:
                effect = MEASURES[kind](before, after, labels)
                totals[kind][unit] += effect.sum()
        count += len(effect)
    return {kind: total / max(count, 1) for kind, total in totals.items()}


def _switchable(analysis: Analysis, group: int, threads: int) -> tuple[Session, list[dict[str, np.ndarray]]]:
    """Return a session whose silencing constants are inputs, and their content for each unit of the group."""
    contents, proto = [], ModelProto()
    for unit in range(int(analysis.widths[group])):
        kept = [np.ones(width, bool) for width in analysis.widths]
        kept[group][unit] = False
        proto = silenced(analysis, kept)[0]
        contents.append({t.name: numpy_helper.to_array(t) for t in proto.graph.initializer})
    switches = list(proto.graph.initializer)
    for tensor in switches:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        proto.graph.initializer.remove(tensor)
    model = analysis.facts.model
    opened = session(Model(proto, "", model.path), threads=threads, lender=model.proto)
    return opened, [{name: content[name] for name in (t.name for t in switches)} for content in contents]
