"""Depth: removing whole residual branches, one more kind of unit with the same proof."""

from onnxprune.changes.branches.choose import choose_blocks, prunable_blocks
from onnxprune.changes.branches.costs import BlockCosts
from onnxprune.changes.branches.scores import Effects, Silencing, weight_gains
from onnxprune.changes.branches.surgery import without_blocks

__all__ = [
    "BlockCosts",
    "Effects",
    "Silencing",
    "choose_blocks",
    "prunable_blocks",
    "weight_gains",
    "without_blocks",
]
