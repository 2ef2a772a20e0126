"""Depth: removing whole residual branches, one more kind of unit with the same proof."""

from onnxprune.depth.choose import choose_blocks, prunable_blocks
from onnxprune.depth.costs import BlockCosts
from onnxprune.depth.proof import check_blocks
from onnxprune.depth.scores import Effects, Silencing, weight_gains
from onnxprune.depth.surgery import without_blocks

__all__ = [
    "BlockCosts",
    "Effects",
    "Silencing",
    "check_blocks",
    "choose_blocks",
    "prunable_blocks",
    "weight_gains",
    "without_blocks",
]
