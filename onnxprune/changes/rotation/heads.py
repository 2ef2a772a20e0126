"""The width of heads in another basis: which heads can lose width, in which order their directions stand, and what data says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.rotation.sights import block_moments
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.heads.spaces import HeadBlock, Heads, HeadSpace, heads_of
from onnxprune.coupling.heads.turning import balanced_basis, stored_moment
from onnxprune.coupling.links import Links

NO_WIDTH = "its width is not cut: its heads go whole, or stay"
HeadBases = Mapping[HeadBlock, np.ndarray]
"""Block -> float64[width, width]."""


def narrowing_heads(analysis: Analysis, links: Links) -> Heads:
    """Return the heads of a model with the width of ``analysis``, their channels in the order in which they are units of it."""
    found = heads_of(links)
    for space in found.spaces:
        able = [block for block in space.blocks if _put_in_order(analysis, found, block)]
        if space.blocks and not able:
            space.reason = NO_WIDTH
        space.blocks = able
    return found


def _put_in_order(analysis: Analysis, heads: Heads, block: HeadBlock) -> bool:
    """Let a block's channels stand in the order of their units; return whether it has several."""
    axes = analysis.solution.links.axes
    for source, labels, places in heads.sources(block):
        position = np.unravel_index(next(iter(places.values()))[0], labels.shape)
        for axis in source.axes:
            if (source.name, axis) not in axes:
                continue
            units = analysis.unit[analysis.solution.links.axis(source.name, axis)][position[axis]]
            if len(np.unique(units[units >= 0])) > 1:
                block.roots = block.roots[np.argsort(units, kind="stable")]
                return True
    return False


# --- bases ------------------------------------------------------------------------------------------------------------


def head_bases(heads: Heads, spaces: Sequence[HeadSpace], context: Context) -> HeadBases:
    """Return a basis for every block: by what the data shows of both sides, else by the weights that write and read them."""
    blocks = [block for space in spaces for block in space.blocks]
    seen = {} if context.data.calibration is None else block_moments(heads, blocks, context)

    def moment(block: HeadBlock, inverse: bool) -> np.ndarray:
        known = seen.get((block, inverse))
        return stored_moment(heads, block, inverse) if known is None else known

    return {block: balanced_basis(moment(block, False), moment(block, True)) for block in blocks}
