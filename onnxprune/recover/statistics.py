"""Running statistics of BatchNormalization, taken anew from data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import ModelProto, numpy_helper

from onnxprune.data.observe import Sums, summed_up
from onnxprune.means import Means
from onnxprune.model.read import Model
from onnxprune.repair.lockstep import Lockstep


def with_statistics(model: Model, batches: Iterable[Mapping[str, np.ndarray]], means: Means = Means()) -> ModelProto:
    """Return the model with the mean and variance that each BatchNormalization sees once those before it are set.

    The same object where there is none. Source: Ioffe and Szegedy 2015, Algorithm 2, step 10.
    """
    result = ModelProto()
    result.CopyFrom(model.proto)
    stored = {tensor.name: tensor for tensor in result.graph.initializer}
    nodes = [n for n in result.graph.node if n.op_type == "BatchNormalization" and {*n.input[3:5]} <= {*stored}]
    if not nodes:
        return model.proto
    walk = Lockstep(Model(result, "", model.path), batches, means)
    for node in nodes:
        walk.advance([node.input[0]])
        (sums,) = summed_up(((len(value), _sums(value)) for value in walk.values(node.input[0])), [Sums()])
        moments = sums.totals
        mean = moments[1] / moments[0]
        for name, array in zip(node.input[3:5], (mean, moments[2] / moments[0] - mean**2), strict=True):
            old = numpy_helper.to_array(stored[name])
            stored[name].CopyFrom(numpy_helper.from_array(array.reshape(old.shape).astype(old.dtype), name))
    return result


def _sums(value: np.ndarray) -> np.ndarray:
    """Return float64[3, channels]: how many values, their sum, the sum of their squares."""
    rows = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]).astype(np.float64)
    return np.stack([np.full(rows.shape[1], len(rows)), rows.sum(0), np.square(rows).sum(0)])
