"""Recovery by gradient steps: distillation from the original model and, where labels are given, the task loss."""

from onnxprune.recover.hints import Positions
from onnxprune.recover.lessons import Teaching
from onnxprune.recover.recipe import Recipe, parse_length
from onnxprune.recover.run import Recovered, recover, split_judge, taught

__all__ = ["Positions", "Recipe", "Recovered", "Teaching", "parse_length", "recover", "split_judge", "taught"]
