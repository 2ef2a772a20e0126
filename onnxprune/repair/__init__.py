"""Changes surviving weights in closed form so that the outputs come back: no labels, no training."""

from onnxprune.repair.auto import MOST_ROWS, Method, Repaired, repair
from onnxprune.repair.moments import Subspace
from onnxprune.repair.sequential import Effort, Sequential
from onnxprune.repair.spectrum import isometric

__all__ = ["MOST_ROWS", "Effort", "Method", "Repaired", "Sequential", "Subspace", "isometric", "repair"]
