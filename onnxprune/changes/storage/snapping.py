"""Tensors snapped to the numbers of a table each; with data, what comes after makes up for what was snapped before.

Layers are visited in order as by the least-squares repair: each is refitted, on inputs from the layers that are snapped already, to
what the original computes. Then its table is chosen, where a weight counts as much as its input varies (the diagonal of the second
moments), and the weights are snapped one input after the other, so that those still to come make up for what that took off, zeros
aside. The mean that is left goes into the layer's bias, or into the shift behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxprune.changes.context import Context
from onnxprune.changes.judging import trial
from onnxprune.changes.storage.choose import Storage, best_form, candidates, stays
from onnxprune.changes.storage.codebook import fitted_table, to_table
from onnxprune.changes.storage.forms import PLAIN
from onnxprune.changes.storage.rounding import Rounded, distance
from onnxprune.coupling.channels import row_importance
from onnxprune.coupling.kept import Kept
from onnxprune.data.repeated import Batches
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.repair import MOST_ROWS
from onnxprune.repair.rounding import one_by_one
from onnxprune.repair.sequential import Effort, Sequential, Snap
from onnxprune.repair.teacher import batch_of, positions_of

RIDGE = 0.01
"""Of the mean of the diagonal, added to second moments."""


@dataclass(frozen=True)
class Snapped:
    """``arrays``: tensor -> its numbers, each of a table; ``others``: tensors that make up for that, and their numbers."""

    arrays: Mapping[str, np.ndarray]
    others: Mapping[str, np.ndarray]

    def rounded(self, name: str, array: np.ndarray) -> Rounded:
        found = self.arrays.get(name)
        return Rounded(array, 0.0) if found is None else Rounded(found, distance(array, found))


def snapped(context: Context, storage: Storage) -> Snapped:
    """Return every finite float tensor of two axes or more snapped to at most ``storage.colours`` numbers."""
    facts, arrays, smaller = context.facts, dict[str, np.ndarray](), list[str]()
    opset = facts.graph.versions.get("", 1)
    for name in candidates(facts):
        array = np.asarray(facts.content(name))
        if stays(facts, name) or not np.isfinite(array).all():
            continue
        arrays[name] = to_table(array, fitted_table(array, storage.colours))
        if best_form(storage, array, Rounded(arrays[name], 0.0), opset).form != PLAIN:
            smaller.append(name)
    if context.data.calibration is None or not smaller:
        return Snapped(arrays, {})
    found = _in_order(context, smaller, storage.colours)
    own = {name: array for name, array in arrays.items() if name not in found.others}
    return Snapped({**own, **found.arrays}, found.others)


def _in_order(context: Context, names: list[str], colours: int) -> Snapped:
    """Visit the layers that read ``names`` in order; return what has changed."""
    data = trial(context)[0].data.calibration
    assert data is not None
    analysis, model = context.analysis, context.facts.model
    rows, means = data.take(MOST_ROWS, context.settings.seed), context.means
    visited = set[str]()

    def snap(name: str) -> Snap:
        def carried_out(old: np.ndarray, fitted: np.ndarray, moments: np.ndarray) -> np.ndarray:
            visited.add(name)
            return made_up_for(old, fitted, moments, context.facts.content(name).dtype, colours)

        return carried_out

    walk = Sequential(
        analysis,
        Kept.of(analysis, [np.ones(width, bool) for width in analysis.widths]),
        Batches(rows, batch_of(analysis, rows, means)),
        effort=Effort(positions_of(len(rows))),
        means=means,
        importance={} if context.outputs is None else row_importance(analysis.solution.links, context.outputs),
        everything=True,
        snaps={name: snap(name) for name in names},
    )
    with context.stages("storage"):
        result = walk.run(model)
    context.notes.warn(*walk.warnings)
    after = Graph(result.structure).tensors
    before = context.facts.graph.tensors
    changed = [name for name in before if _differs(name, before, after, (model, result))]
    found = {name: np.array(result.array(after[name])) for name in changed}
    return Snapped(
        {name: array for name, array in found.items() if name in visited},
        {name: array for name, array in found.items() if name not in visited},
    )


def _differs(
    name: str, before: Mapping[str, TensorProto], after: Mapping[str, TensorProto], models: tuple[Model, Model]
) -> bool:
    """Whether a tensor has other content in a model that comes from another one: what is the same is the same object."""
    one, two = models
    if name in one.weights:
        return two.weights[name] is not one.weights[name]
    return before[name].SerializeToString() != after[name].SerializeToString()


def made_up_for(old: np.ndarray, fitted: np.ndarray, moments: np.ndarray, dtype: np.dtype, colours: int) -> np.ndarray:
    """Return ``fitted`` weights float64[groups, o, d] as at most ``colours`` numbers of a type; where ``old`` is zero they are.

    ``moments``: float64[groups, d, d] of what the layer sums over.
    """
    zero = old == 0
    power = np.einsum("gdd->gd", moments)[:, None]
    table = fitted_table(np.where(zero, 0.0, fitted).astype(dtype), colours, power + RIDGE * power.mean())
    return np.stack([_one(*parts, table) for parts in zip(fitted, moments, zero, strict=True)])


def _one(rows: np.ndarray, moments: np.ndarray, zero: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Snap float64[o, d] one input after the other, where ``zero`` says nothing to zero."""

    def near(number: int, values: np.ndarray) -> np.ndarray:
        return np.where(zero[:, number], 0.0, to_table(values, table))

    ridge = RIDGE * max(float(np.trace(moments)) / len(moments), 1e-30)
    return one_by_one(rows, moments, ridge, near)
