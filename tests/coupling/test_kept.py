"""A decision as one value: what it says of values is what its masks say, worked out once."""

from __future__ import annotations

import numpy as np
import pytest
from support.networks import network

import onnxprune
from onnxprune.coupling.cut import cut
from onnxprune.coupling.kept import Kept

NET = """a = Conv<pads=[1,1,1,1]>(x, %6x3x3x3, %6); b = Relu(a); c = Conv(b, %4x6x1x1, %4); d = Relu(c)
k = Conv(b, %4x6x1x1); s = Add(d, k); y = Conv(s, %2x4x1x1)"""


@pytest.fixture(scope="module")
def analysis() -> onnxprune.Analysis:
    return onnxprune.analyze(network(NET))


def test_it_is_a_sequence_of_masks(analysis: onnxprune.Analysis) -> None:
    masks = [np.arange(group.width) % 2 == 0 for group in analysis.groups]
    kept = Kept(analysis, masks)
    assert len(kept) == len(masks) and all(map(np.array_equal, kept, masks))
    assert kept.widths.tolist() == [mask.sum() for mask in masks] and kept.narrowed == tuple(range(len(masks)))
    masks[0][:] = True
    assert not kept[0].all()  # its own
    with pytest.raises(ValueError, match="read-only"):
        kept[0][:] = True


def test_whole_only_and_without(analysis: onnxprune.Analysis) -> None:
    whole = Kept.whole(analysis)
    assert whole.is_whole and whole.widths.tolist() == analysis.widths.tolist()
    one = whole.without(0, [1, 3])
    assert one.narrowed == (0,) and one[0].tolist() == [True, False, True, False, *[True] * (len(one[0]) - 4)]
    both = one.without(1, [0])
    assert both.narrowed == (0, 1) and both.only([1]).narrowed == (1,) and both.only([]).is_whole
    assert Kept.of(analysis, one) is one and all(map(np.array_equal, Kept.of(analysis, list(one)), one))
    assert Kept.of(onnxprune.analyze(network(NET)), one) is not one


def test_masks_of_values_are_those_of_their_units(analysis: onnxprune.Analysis) -> None:
    """By hand: the first convolution's six channels reach its weight's rows, both readers' columns, and what is between."""
    group = next(group for group in analysis.groups if group.width == 6)
    kept = Kept.whole(analysis).without(group.index, [2])
    want = [True, True, False, True, True, True]
    assert kept.mask("b", 1).tolist() == want and kept.mask("b", 0) is None and kept.mask("x", 1) is None
    assert {axis: positions.tolist() for axis, positions in kept.positions("a").items()} == {1: [0, 1, 3, 4, 5]}
    assert kept.masks("s") == {} and kept.mask("b", 1) is kept.mask("b", 1)  # worked out once
    ops = [node.op for index, (node, _) in enumerate(analysis.solution.links.specs) if kept.reaches(index)]
    assert ops == ["Conv", "Relu", "Conv", "Conv"]
    small = cut(analysis, kept)
    assert cut(analysis, list(kept)).structure == small.structure
