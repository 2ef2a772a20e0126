"""How many units each group keeps, and which: costs, legal widths, rankings and budgets."""

from onnxprune.allocate.budget import allocate
from onnxprune.allocate.cost import Costs
from onnxprune.allocate.legal import Options, alignment, legal_widths, matcher, select
from onnxprune.allocate.policies import SCOPES, THRESHOLDS
from onnxprune.allocate.target import Target, parse_ratio, parse_target

__all__ = [
    "SCOPES",
    "THRESHOLDS",
    "Costs",
    "Options",
    "Target",
    "alignment",
    "allocate",
    "legal_widths",
    "matcher",
    "parse_ratio",
    "parse_target",
    "select",
]
