"""Layer-wise dynamical isometry: how evenly each layer passes signals on, before and after pruning.

Lee et al. 2020, "A Signal Propagation Perspective for Pruning Neural Networks at Initialization": a layer is the more isometric the closer
together the singular values of its Jacobian are, which for a linear layer are those of its weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.model.graph import Graph
from onnxprune.model.read import Model

READERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a layer's weight as [outputs, inputs]: mean, standard deviation, largest and smallest."""

    mean: float
    deviation: float
    largest: float
    smallest: float

    @property
    def spread(self) -> float:
        """Standard deviation over mean: 0 for an isometry up to scale."""
        return self.deviation / self.mean if self.mean > 0 else np.inf


@dataclass(frozen=True)
class LayerIsometry:
    """One weight in both models; ``after`` None: it is gone."""

    weight: str
    before: Spectrum
    after: Spectrum | None


def isometry(before: Model, after: Model) -> list[LayerIsometry]:
    """Return the spectra of all stored weights of convolutions and products, in the order of the first model's nodes."""
    first, second = weights_of(before), weights_of(after)
    return [
        LayerIsometry(name, spectrum(weight), spectrum(second[name]) if name in second else None)
        for name, weight in first.items()
    ]


def spectrum(weight: np.ndarray) -> Spectrum:
    """Return the singular values of a weight whose first axis is one side of the matrix and all others the other."""
    values = np.linalg.svd(as_matrix(weight), compute_uv=False)
    return Spectrum(float(values.mean()), float(values.std()), float(values.max()), float(values.min()))


def as_matrix(weight: np.ndarray) -> np.ndarray:
    """Return float64[first axis, all others]."""
    return weight.reshape(len(weight), -1).astype(np.float64)


def weights_of(model: Model) -> dict[str, np.ndarray]:
    """Return the stored weights of all convolutions and products, by name in the order of the nodes."""
    graph = Graph(model.structure)
    names = dict.fromkeys(node.input(1) for node in graph.nodes if node.op in READERS)
    tensors = {name: graph.tensors[name] for name in names if name in graph.tensors}
    arrays = {name: model.array(tensor) for name, tensor in tensors.items()}
    return {name: array for name, array in arrays.items() if array.ndim > 1 and array.size}
