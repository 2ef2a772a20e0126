"""Tensors snapped to the numbers of a table each; with data, the rest of a layer's weights make up for each that is snapped.

A weight counts in the choice of the table as much as its input varies (the diagonal of the second moment of what the layer reads).
Then the weights are snapped one input after the other, so that those still to come make up for what that took off, zeros aside;
the mean that is left then goes into the layer's bias, or into the shift behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.judging import trial
from onnxprune.changes.storage.choose import candidates, stays
from onnxprune.changes.storage.codebook import fitted_table, to_table
from onnxprune.changes.storage.rounding import Rounded, distance
from onnxprune.data import Dataset
from onnxprune.evidence import Cache, Need, gather
from onnxprune.evidence.stats import Gram
from onnxprune.model.memory import room
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.rounding import one_by_one
from onnxprune.repair.stored import Stored

RIDGE = 0.01
"""Of the mean of the diagonal, added to second moments."""
MOST_INPUTS = 4608  # of a layer whose second moments are looked at: 170 MB
TOGETHER = 1 << 28  # bytes of second moments that one pass over the data gathers


@dataclass(frozen=True)
class Snapped:
    """``arrays``: tensor -> its numbers, each of a table; ``shifts``: tensor -> the bias that makes up for it, and its numbers."""

    arrays: Mapping[str, np.ndarray]
    shifts: Mapping[str, tuple[str, np.ndarray]]

    def rounded(self, name: str, array: np.ndarray) -> Rounded:
        found = self.arrays.get(name)
        return Rounded(array, 0.0) if found is None else Rounded(found, distance(array, found))

    def others(self, names: Collection[str]) -> dict[str, np.ndarray]:
        """Return the content of the biases that go with these tensors."""
        return dict(self.shifts[name] for name in names if name in self.shifts)


def snapped(context: Context, colours: int) -> Snapped:
    """Return every finite float tensor of two axes or more snapped to at most ``colours`` numbers."""
    facts, arrays, shifts = context.facts, dict[str, np.ndarray](), dict[str, tuple[str, np.ndarray]]()
    names = [name for name in candidates(facts) if not stays(facts, name)]
    contents = {name: np.asarray(facts.content(name)) for name in names}
    contents = {name: array for name, array in contents.items() if np.isfinite(array).all()}
    if context.data.calibration is not None:
        data = trial(context)[0].data.calibration
        assert data is not None
        stored = Stored.of(facts.model, facts.graph)
        layers = [layer for node in facts.graph.top if (layer := _layer(context, stored, node, contents)) is not None]
        for layer, gram in _seen(context, data, layers):
            array = contents[layer.weight]
            arrays[layer.weight], lost = made_up_for(layer, array, gram, colours)
            if layer.bias:
                change = np.einsum("god,gd->go", lost, gram.mean)
                shifts[layer.weight] = layer.bias, layer.shifted(stored.arrays[layer.bias], change)
    for name in contents.keys() - arrays.keys():
        arrays[name] = to_table(contents[name], fitted_table(contents[name], colours))
    return Snapped(arrays, shifts)


def _layer(context: Context, stored: Stored, node: object, contents: Mapping[str, np.ndarray]) -> Linear | None:
    """Return the layer that a node is where its weight is to be snapped, is stored as it is used, and has not too many inputs."""
    found = as_linear(node, stored, context.facts)  # type: ignore[arg-type]
    if found is None or found.weight not in contents or found.operands.weight.grid is not None:
        return None
    scaled = found.node.op == "Gemm" and found.node.attribute("alpha", 1.0) != 1.0
    array = contents[found.weight]
    return None if scaled or array.size * found.groups // found.channels > MOST_INPUTS * found.groups else found


def _seen(context: Context, data: Dataset, layers: Sequence[Linear]) -> Iterator[tuple[Linear, Gram]]:
    """Yield each layer with the moments of what it reads, as many layers in one pass as memory allows."""
    cache = None if context.data.cache is None else Cache(context.data.cache)
    for part in _parts(layers, room(context.means, TOGETHER), context):
        needs = [need_of(layer) for layer in part]
        with context.stages("evidence"):
            found = gather(context.facts, data, needs, context.means.quiet, cache=cache)
        context.notes.warn(*found.warnings)
        for layer, need in zip(part, needs, strict=True):
            seen = found[need]
            assert isinstance(seen, Gram)
            yield layer, seen


def _parts(layers: Sequence[Linear], most: int, context: Context) -> Iterator[list[Linear]]:
    part, size = list[Linear](), 0
    for layer in layers:
        inputs = context.facts.content(layer.weight).size // layer.channels
        own = 8 * layer.groups * inputs * inputs
        if part and size + own > most:
            yield part
            part, size = [], 0
        part.append(layer)
        size += own
    if part:
        yield part


def need_of(layer: Linear) -> Need:
    """Return the second moments of what a layer sums over, in the order of its stored weight."""
    window = None if layer.by_position else layer.window
    return Need("gram", layer.source, layer.reads, layer.groups, window)


def made_up_for(layer: Linear, array: np.ndarray, gram: Gram, colours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's weight of at most ``colours`` numbers, and float64[groups, o, d]: what it lacks.

    The table is not fitted again to what the layer then gives: on rows held out that came out worse (digits: 0.00047 against 0.00023).
    """
    rows = _rows(layer, array).astype(np.float64)
    moments = gram.covariance if layer.bias else gram.second_moment
    power = np.einsum("gdd->gd", moments)[:, None]
    table = fitted_table(rows.astype(array.dtype), colours, power + RIDGE * power.mean())
    found = np.stack([_one(*parts, table) for parts in zip(rows, moments, strict=True)])
    return _stored(layer, found.astype(array.dtype), array), rows - found


def _one(rows: np.ndarray, moments: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Snap float64[o, d] one input after the other; what is zero stays so."""
    zero = (rows == 0).T

    def near(number: int, values: np.ndarray) -> np.ndarray:
        return np.where(zero[number], 0.0, to_table(values, table))

    ridge = RIDGE * max(float(np.trace(moments)) / len(moments), 1e-30)
    return one_by_one(rows, moments, ridge, near)


def _rows(layer: Linear, array: np.ndarray) -> np.ndarray:
    """Return [groups, o, d] of a stored weight."""
    if layer.window is not None:
        return array.reshape(layer.groups, layer.channels // layer.groups, -1)
    return (array if layer.node.attribute("transB", 0) else array.T)[None]


def _stored(layer: Linear, rows: np.ndarray, like: np.ndarray) -> np.ndarray:
    if layer.window is not None:
        return rows.reshape(like.shape)
    return np.ascontiguousarray(rows[0] if layer.node.attribute("transB", 0) else rows[0].T)
