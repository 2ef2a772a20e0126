"""Gradients from an ONNX file by ONNX nodes alone: rules, the reverse walk, losses, the check against differences."""

from onnxprune.grad import losses
from onnxprune.grad.builder import backward, gradient_name
from onnxprune.grad.check import GradCheck, check_grads
from onnxprune.grad.losses import Loss

__all__ = ["GradCheck", "Loss", "backward", "check_grads", "gradient_name", "losses"]
