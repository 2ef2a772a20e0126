"""Early weights of which only the signs remain (``--rewind-as signs``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.changes.zeros.layers import WeightLayer, weight_layers
from onnxprune.coupling.groups import Analysis
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS


def signed_constants(model: Model, layers: Sequence[WeightLayer]) -> Model:
    """Return the model whose layers hold the sign of every weight times one number, the root mean square of the layer's weights.

    Zhou et al. 2019, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask", section 4.1 ("signed constant"), with the spread of the
    weights that there are in place of that of the distribution that they were drawn from. Biases and norms stay.
    """
    tensors, arrays = Graph(model.structure).tensors, {}
    for layer in layers:
        if layer.name in tensors and tensors[layer.name].data_type in FLOATS:
            array = model.array(tensors[layer.name])
            constant = np.sqrt(np.square(array, dtype=np.float64).mean())
            arrays[layer.name] = (np.sign(array) * constant).astype(array.dtype)
    return model.replaced(arrays)


def signed_network(analysis: Analysis) -> Model:
    """Return the model of an analysis with signed constants."""
    return signed_constants(analysis.facts.model, weight_layers(analysis)[0])
