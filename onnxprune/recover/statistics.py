"""Running statistics of BatchNormalization, taken anew from data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxprune.data.observe import Sums, summed_up
from onnxprune.means import Means
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model, overwritten
from onnxprune.repair.lockstep import Lockstep


def with_statistics(model: Model, batches: Iterable[Mapping[str, np.ndarray]], means: Means = Means()) -> Model:
    """Return the model with the mean and variance that each BatchNormalization sees once those before it are set.

    The same object where there is none. Source: Ioffe and Szegedy 2015, Algorithm 2, step 10.
    """
    working = model.derived(model.draft())
    graph = Graph(working.structure)
    nodes = [n for n in graph.top if n.op == "BatchNormalization" and working.weights.keys() >= {*n.inputs[3:5]}]
    if not nodes:
        return model
    walk = Lockstep(working, batches, means)
    for node in nodes:
        walk.advance([node.inputs[0]])
        (sums,) = summed_up(((len(value), _sums(value)) for value in walk.values(node.inputs[0])), [Sums()])
        moments = sums.totals
        mean = moments[1] / moments[0]
        for name, array in zip(node.inputs[3:5], (mean, moments[2] / moments[0] - mean**2), strict=True):
            old = working.weights[name].read()
            fresh = array.reshape(old.shape).astype(old.dtype)
            walk.use(overwritten(graph, walk.model.weights, {name: fresh}))
    return walk.model


def _sums(value: np.ndarray) -> np.ndarray:
    """Return float64[3, channels]: how many values, their sum, the sum of their squares."""
    rows = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]).astype(np.float64)
    return np.stack([np.full(rows.shape[1], len(rows)), rows.sum(0), np.square(rows).sum(0)])
