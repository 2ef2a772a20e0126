"""How many units each group keeps, and which: costs, legal widths, rankings and budgets."""

from onnxprune.allocate.budget import allocate
from onnxprune.allocate.cost import Costs
from onnxprune.allocate.legal import Options, legal_widths, literal, matcher, select
from onnxprune.allocate.policies import SCOPES, THRESHOLDS, keep_best
from onnxprune.allocate.profiles import PROFILES, Profile, profile_name, width_step
from onnxprune.allocate.schedule import SCHEDULES, Schedule, parse_schedule
from onnxprune.allocate.selection import SELECTIONS
from onnxprune.allocate.target import Target, parse_expected, parse_ratio, parse_target

__all__ = [
    "PROFILES",
    "SCHEDULES",
    "SCOPES",
    "SELECTIONS",
    "THRESHOLDS",
    "Costs",
    "Options",
    "Profile",
    "Schedule",
    "Target",
    "allocate",
    "keep_best",
    "legal_widths",
    "literal",
    "matcher",
    "parse_expected",
    "parse_ratio",
    "parse_schedule",
    "parse_target",
    "profile_name",
    "select",
    "width_step",
]
