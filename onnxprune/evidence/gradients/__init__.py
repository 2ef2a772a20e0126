"""How a loss answers to a model's units: gradient statistics from one backward graph, in constant memory."""

from onnxprune.evidence.gradients.gather import KINDS, curvatures, sensitivities
from onnxprune.evidence.gradients.statistics import Curvature, Gates, Products

__all__ = ["KINDS", "Curvature", "Gates", "Products", "curvatures", "sensitivities"]
