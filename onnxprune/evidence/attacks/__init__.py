"""Inputs changed a little, by a model's own gradients, so that it answers otherwise; what that shows of models and of their units."""

from onnxprune.evidence.attacks.asked import Attack, parse_attack

__all__ = ["Attack", "parse_attack"]
