"""A narrow model's weights in the shapes that they had before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.search.tables import fitted_tensors

SILENCED = ("reads", "writes")  # roles of the weights that are zero while their unit is gone


def written_back(analysis: Analysis, kept: Kept, small: Model, *, silent: bool) -> Model:
    """Return the model of ``analysis`` with the weights of ``small`` where units stay; ``silent``: zero where they are gone.

    Of integers that stand for weights nothing is made zero: what scales them or reads them is.
    """
    model, gone, left = analysis.facts.model, [~mask for mask in kept], Kept.of(analysis, kept)
    sources, arrays, fitted = Graph(small.structure).tensors, {}, fitted_tensors(analysis)
    silenced = {
        (member.parameter, member.axis, group.index): gone[group.index][member.units] & (member.units >= 0)
        for group in analysis.groups
        for member in group.members
        if silent and member.role in SILENCED and gone[group.index].any()
    }
    for name, tensor in analysis.facts.graph.tensors.items():
        is_float = tensor.data_type in FLOATS
        if not (is_float or name in fitted) or name not in sources:
            continue
        array = model.array(tensor).copy()
        masks = [left.mask(name, axis) for axis in range(array.ndim)]
        places = [
            np.arange(size) if mask is None else np.flatnonzero(mask)
            for mask, size in zip(masks, array.shape, strict=True)
        ]
        array[np.ix_(*places)] = small.array(sources[name])
        for (parameter, axis, _), positions in silenced.items():
            if parameter == name and is_float:
                array[(slice(None),) * axis + (positions,)] = 0
        arrays[name] = array
    return replace(model.replaced(arrays), copies={}, sparse=())
