"""How zeros are shared out over layers: one threshold for all, or by the sizes of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.allocate.policies import THRESHOLDS
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.changes.zeros.patterns import Pattern, largest

SizeLaw = Callable[[WeightLayer], float]


def shares_of_layers(
    scores: Mapping[str, np.ndarray], pattern: Pattern, threshold: str = "class-blind"
) -> dict[str, float]:
    """Return the share of zeros of each layer where all share one threshold on scores float64[groups, o, d].

    ``threshold``: how scores of several layers become comparable; with class-distribution it is the same multiple of each one's
    standard deviation (Han et al. 2015, "Learning both Weights and Connections", section 3.1; See et al. 2016, section 3.2).
    """
    keys = [THRESHOLDS[threshold](each.reshape(-1)) for each in scores.values()]
    every = np.concatenate(keys)
    left = largest(every, len(every) - round(pattern.share * len(every)))
    ends = np.cumsum([len(each) for each in keys])
    return {name: 1 - float(part.mean()) for name, part in zip(scores, np.split(left, ends[:-1]), strict=True)}


def _erdos_renyi(layer: WeightLayer) -> float:
    outputs, inputs = layer.shape[1], layer.inputs
    return (outputs + inputs) / (outputs * inputs)


def _erdos_renyi_kernel(layer: WeightLayer) -> float:
    outputs, inputs, kernel = layer.shape[1], layer.inputs, layer.kernel
    return (outputs + inputs + sum(kernel)) / (outputs * inputs * int(np.prod(kernel, dtype=np.int64)))


SPREADS: dict[str, SizeLaw] = {"erdos-renyi": _erdos_renyi, "erdos-renyi-kernel": _erdos_renyi_kernel}
"""Names of ``scope`` -> what the density of each layer is in proportion to.

Source: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", section 3, (1).
"""


def shares_by_size(layers: Sequence[WeightLayer], share: float, name: str) -> dict[str, float]:
    """Return the share of zeros of each layer, ``share`` of all weights together: densities by a row of ``SPREADS``, at most one."""
    sizes = np.array([layer.size for layer in layers], np.float64)
    wanted, left = np.array([SPREADS[name](layer) for layer in layers]), (1 - share) * float(sizes.sum())
    whole = np.zeros(len(layers), bool)
    while True:
        rest = left - float(sizes[whole].sum())
        density = np.where(whole, 1.0, wanted * rest / float((wanted * sizes)[~whole].sum()))
        if (density <= 1).all():
            return {layer.name: 1 - float(own) for layer, own in zip(layers, density, strict=True)}
        whole |= density >= 1
