"""Products with very many outputs, as a head of a language model has: what is solved for depends on its own inputs alone, so some at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.repair.linear import Linear
from onnxprune.repair.maps import LinearMap, WeightBlock
from onnxprune.repair.targets import FitTarget

WIDE = 1 << 28  # bytes of weights as float64 from which on outputs are solved for in parts
PART = 1 << 26  # bytes of them in one part


@dataclass(frozen=True)
class OutputPart:
    """Some outputs of a product with a matrix that is stored as floats."""

    block: WeightBlock
    outputs: slice

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Return float64[1, o, d], the weights of these outputs."""
        return self.block.encoding.read(self.block.arranged(stored)[:, self.outputs]) * self.block.factor

    def put(self, weights: np.ndarray, stored: np.ndarray) -> None:
        """Write float64[1, o, d] into the stored matrix, in its type."""
        self.block.arranged(stored)[:, self.outputs] = weights / self.block.factor


def output_parts(linear: LinearMap, target: FitTarget) -> list[OutputPart]:
    """Return the parts in which a node is solved for; none where it is not wide, or its outputs depend on each other."""
    _, outputs, inputs = linear.shape
    alone = isinstance(linear, Linear) and linear.window is None and linear.operands.weight.grid is None
    if not alone or target.normalised or 8 * outputs * inputs <= WIDE:
        return []
    step = max(PART // (8 * inputs), 1)
    (block,) = linear.blocks
    return [OutputPart(block, slice(start, min(start + step, outputs))) for start in range(0, outputs, step)]
