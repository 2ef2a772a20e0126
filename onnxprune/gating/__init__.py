"""Learned gates: a factor for every unit, trained on calibration data until a budget's worth of them is closed."""

from onnxprune.gating.families import FAMILIES
from onnxprune.gating.learning import Learned, learned_gates
from onnxprune.gating.training import GatePlan, GateScores, GateStart

__all__ = ["FAMILIES", "GatePlan", "GateScores", "GateStart", "Learned", "learned_gates"]
