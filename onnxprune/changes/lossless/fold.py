"""A model in which what reads a redundant unit has taken over for it, so that the unit can be cut without loss."""

from __future__ import annotations

import numpy as np

from onnxprune.changes.lossless.find import Found, Redundant
from onnxprune.changes.lossless.readings import Reading, stored_tensors
from onnxprune.coupling.groups import Analysis
from onnxprune.criteria.tensors import unit_positions
from onnxprune.model.read import Model
from onnxprune.repair.linear import Linear
from onnxprune.repair.stored import Stored


def folded(analysis: Analysis, found: Found) -> Model:
    """Return the model with constants moved into the bias behind or into one of them, duplicates' weights added up.

    What reads and what writes the units is zero then, so that what only they read is seen to be unread.
    """
    model = analysis.facts.model
    stored = stored_tensors(model, analysis.facts.graph)
    for unit in found.units:
        for reading in found.readings[unit.group]:
            if reading.linear is not None and unit.reason in ("constant", "duplicate"):
                _take_over(analysis, found, unit, reading, reading.linear, stored)
        _silence_writers(analysis, unit, stored)
    return model.replaced(stored.arrays.fresh)


def _silence_writers(analysis: Analysis, unit: Redundant, stored: Stored) -> None:
    for member in analysis.groups[unit.group].members:
        if member.role == "writes" and member.parameter in stored.arrays:
            array = stored.arrays[member.parameter].copy()
            np.moveaxis(array, member.axis, 0)[member.units == unit.unit] = 0
            stored.arrays[member.parameter] = array


def _take_over(
    analysis: Analysis, found: Found, unit: Redundant, reading: Reading, linear: Linear, stored: Stored
) -> None:
    matrix = linear.matrix(stored.arrays[linear.weight])
    per_group = len(reading.units) // linear.groups
    taps = matrix.shape[2] // per_group
    places = unit_positions(analysis.groups[unit.group], reading.units)
    for number, place in enumerate(places[unit.unit]):
        group, columns = place // per_group, place % per_group + per_group * np.arange(taps)
        value = found.observed[reading.value, reading.axis][0, place]
        if unit.twin >= 0:
            other = places[unit.twin][number]
            ratio = value / found.observed[reading.value, reading.axis][0, other] if unit.reason == "constant" else 1.0
            matrix[group][:, other % per_group + per_group * np.arange(taps)] += ratio * matrix[group][:, columns]
        else:
            _shift(linear, stored, int(group), matrix[group][:, columns].sum(axis=1) * value)
        matrix[group][:, columns] = 0.0
    stored.arrays[linear.weight] = linear.stored(matrix, stored.arrays[linear.weight])


def _shift(linear: Linear, stored: Stored, group: int, intercept: np.ndarray) -> None:
    """Add float64[outputs of the group] to what the node gives."""
    if not intercept.any():
        return
    whole = np.zeros((linear.groups, linear.channels // linear.groups))
    whole[group] = intercept
    old = stored.arrays[linear.bias]
    stored.arrays[linear.bias] = (old + (linear.sign * whole).reshape(old.shape)).astype(old.dtype)
