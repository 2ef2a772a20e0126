"""What single weights count, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxprune.criteria.curvature import damped, inverse
from onnxprune.criteria.weight import share_of_stronger

DAMPING = 1e-2  # of the mean diagonal, where moments are inverted
Of = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class WeightScore:
    """``of``: (weights float64[groups, o, d], second moments of the inputs float64[groups, d, d]) -> scores like the weights.

    ``data``: whether it looks at the moments, which are None otherwise.
    """

    of: Of
    data: bool
    about: str


def _magnitude(weight: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    return np.abs(weight)


def _lamp(weight: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    """Source: Lee et al. 2021, "WeightLayer-adaptive Sparsity for the Magnitude-based Pruning", equation 1."""
    return share_of_stronger(np.square(weight).reshape(-1)).reshape(weight.shape)


def _loudness(gram: np.ndarray | None) -> np.ndarray:
    assert gram is not None
    return np.sqrt(np.maximum(np.einsum("gdd->gd", gram), 0))[:, None]


def _wanda(weight: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    """Source: Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models", equation 1."""
    return np.abs(weight) * _loudness(gram)


def _ria(weight: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    """Source: Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", equation 4."""
    size = np.abs(weight)
    least = np.finfo(np.float64).tiny
    share = size / np.maximum(size.sum(2, keepdims=True), least) + size / np.maximum(size.sum(1, keepdims=True), least)
    return share * np.sqrt(_loudness(gram))


def _obs(weight: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    """Source: Hassibi & Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon", equation 5."""
    assert gram is not None
    inverses = [inverse(damped(own, DAMPING)).diagonal() for own in gram]
    return np.square(weight) / (2 * np.stack(inverses)[:, None])


def _obd(weight: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    """Source: LeCun et al. 1990, "Optimal Brain Damage", equation 5, with the diagonal of the layer's own squared error."""
    return np.square(weight * _loudness(gram)) / 2


SCORES: dict[str, WeightScore] = {
    "l1": WeightScore(_magnitude, False, "magnitude"),
    "l2": WeightScore(_magnitude, False, "magnitude: for one weight the same as l1"),
    "lamp": WeightScore(_lamp, False, "squared magnitude over that of all larger weights of the layer"),
    "wanda": WeightScore(_wanda, True, "magnitude times the norm of the input"),
    "ria": WeightScore(
        _ria, True, "share of the row's and the column's magnitudes, times the root of the input's norm"
    ),
    "obd": WeightScore(_obd, True, "squared error of the layer without the weight"),
    "obs": WeightScore(_obs, True, "squared error of the layer without the weight, the others refitted"),
}
