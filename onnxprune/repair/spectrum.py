"""Data-free repair: layers whose inputs were cut pass signals on as evenly, and as strongly, as they did before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.readers import reading_weights
from onnxprune.measure.isometry import as_matrix, weights_of
from onnxprune.model.graph import Graph
from onnxprune.model.read import NATIVE_FLOATS, Model

NONE = 1e-7  # of the largest singular value: a direction that the weight does not have


def isometric(analysis: Analysis, kept: Sequence[np.ndarray], small: Model) -> Model:
    """Return ``small`` with the singular values that the surviving outputs of each cut layer had while all inputs were there.

    Lee et al. 2020, "A Signal Propagation Perspective for Pruning Neural Networks at Initialization", pull what survives
    towards an isometry, all of whose singular values are one. A trained layer is none, so its own values take their place.
    """
    left_of = Kept.of(analysis, kept)
    tensors, arrays = Graph(small.structure).tensors, {}
    before = weights_of(analysis.facts.model)
    reads = {(m.parameter, m.axis) for there in reading_weights(analysis).values() for _, m in there}
    for name, cut in weights_of(small).items():
        left = left_of.positions(name)
        if tensors[name].data_type not in NATIVE_FLOATS or not any((name, axis) in reads for axis in left):
            continue
        whole = before[name]
        for axis, positions in left.items():
            whole = whole if (name, axis) in reads else np.take(whole, positions, axis)
        fresh = with_values(cut, np.linalg.svd(as_matrix(whole), compute_uv=False))
        arrays[name] = fresh
    return small.replaced(arrays)


def with_values(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the nearest weight whose singular values are the largest of ``values``: on the same singular vectors.

    Source: the orthogonal case is the polar factor (Fan & Hoffman 1955); in general von Neumann's trace inequality. A
    direction that the weight does not have stays without a value.
    """
    left, own, right = np.linalg.svd(as_matrix(weight), full_matrices=False)
    chosen = np.where(own > NONE * own.max(initial=0.0), values[: len(own)], 0.0)
    return np.ascontiguousarray(((left * chosen) @ right).reshape(weight.shape), weight.dtype)
