"""The width of heads in another basis: which heads can lose width, in which order their directions stand, and what data says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.heads.spaces import HeadBlock, Heads, HeadSpace, heads_of
from onnxprune.coupling.heads.turning import balanced_basis, stored_moment
from onnxprune.coupling.links import Links
from onnxprune.evidence import Cache, gather
from onnxprune.evidence.needs import Need
from onnxprune.evidence.probe import observable
from onnxprune.model.read import FLOATS

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


@dataclass(frozen=True)
class _View:
    """Where the channels of one side of a block can be seen: a value and an axis of it."""

    value: str
    axis: int
    places: np.ndarray  # int64[copies, width]


def head_bases(heads: Heads, spaces: Sequence[HeadSpace], context: Context) -> HeadBases:
    """Return a basis for every block: by what the data shows of both sides, else by the weights that write and read them."""
    blocks = [block for space in spaces for block in space.blocks]
    views = {} if context.data.calibration is None else {block: _views(heads, block) for block in blocks}
    seen = _second_moments(heads, [view for own in views.values() for view in own.values()], context)

    def moment(block: HeadBlock, inverse: bool) -> np.ndarray:
        view = views.get(block, {}).get(inverse)
        if view is None:
            return stored_moment(heads, block, inverse)
        whole = seen[view.value, view.axis]
        return np.sum([whole[np.ix_(copy, copy)] for copy in view.places], axis=0)

    return {block: balanced_basis(moment(block, False), moment(block, True)) for block in blocks}


def _views(heads: Heads, block: HeadBlock) -> Mapping[bool, _View]:
    """Return the last value that has all channels of a side along one axis, for each side that has any."""
    found: dict[bool, _View] = {}
    for value, axis, labels in _along_one_axis(heads):
        for side, places in heads.places(labels, block).items():
            found.setdefault(side, _View(value, axis, places))
        if len(found) == 2:
            break
    return found


def _along_one_axis(heads: Heads) -> Iterator[tuple[str, int, np.ndarray]]:
    facts = heads.links.facts
    visible = observable(facts)
    for value, sets in reversed(heads.trace.labels.items()):
        for labels in sets:
            axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
            if len(axes) == 1 and value in visible and facts.dtype(value) in FLOATS:
                yield value, axes[0], labels


def _second_moments(heads: Heads, views: Sequence[_View], context: Context) -> Mapping[tuple[str, int], np.ndarray]:
    """Return (value, axis) -> float64[channels, channels]."""
    data = context.data
    if data.calibration is None or not views:
        return {}
    needs = {(view.value, view.axis): Need("gram", view.value, view.axis) for view in views}
    cache = None if data.cache is None else Cache(data.cache)
    with context.stages("evidence"):
        seen = gather(heads.links.facts, data.calibration, list(needs.values()), context.means.quiet, cache=cache)
    context.notes.warn(*seen.warnings)
    return {place: seen[need].second_moment[0] for place, need in needs.items()}
