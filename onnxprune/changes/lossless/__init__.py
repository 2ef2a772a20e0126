"""Units that carry nothing of their own: nobody reads them, they are constant, or another unit says the same."""

from onnxprune.changes.lossless.find import REASONS, Found, Redundant, redundant_units
from onnxprune.changes.lossless.fold import folded

__all__ = ["REASONS", "Found", "Redundant", "folded", "redundant_units"]
