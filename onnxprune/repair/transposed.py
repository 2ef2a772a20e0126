"""Transposed convolutions as rows times a matrix: what every tap reads where it meets an output position, and zero where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from onnxprune.evidence.rows import Sampler
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.repair.maps import MAX_INPUTS, LinearMap, WeightBlock
from onnxprune.repair.operands import floats_of
from onnxprune.repair.stored import Stored


class TransposedWindow(NamedTuple):
    """How a transposed convolution spreads its input: one entry per spatial axis.

    ``pads``: what is cut off before; ``more``: what the output is longer, beside what is cut off behind; ``made``: the output's size where it is told.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    more: tuple[int, ...]
    mode: str
    told: tuple[int, ...] = ()

    @classmethod
    def of(cls, node: Node, kernel: Sequence[int]) -> TransposedWindow:
        rank = len(kernel)
        pads, added = node.attribute("pads") or [0] * (2 * rank), node.attribute("output_padding") or [0] * rank
        told = tuple(node.attribute("output_shape") or ())[-rank:]
        mode = node.attribute("auto_pad", "NOTSET")
        strides, dilations = (tuple(node.attribute(name) or [1] * rank) for name in ("strides", "dilations"))
        behind = [0] * rank if mode == "VALID" else pads[rank:]
        before = (0,) * rank if mode == "VALID" else tuple(pads[:rank])
        more = tuple(extra - end for extra, end in zip(added, behind, strict=True))
        if mode.startswith("SAME") or told:
            before, more = (0,) * rank, tuple(added)
        return cls(tuple(kernel), strides, dilations, before, more, mode, told)

    def placed(self, space: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the output's spatial shape for an input's, and how much is cut off before along each axis."""
        ends = zip(space, self.kernel, self.strides, self.dilations, self.more, strict=True)
        full = [(size - 1) * s + (k - 1) * d + 1 + more for size, k, s, d, more in ends]
        if self.told or self.mode.startswith("SAME"):
            made = self.told or tuple(size * s for size, s in zip(space, self.strides, strict=True))
            totals = [max(whole - size, 0) for whole, size in zip(full, made, strict=True)]
            upper = self.mode == "SAME_UPPER"
            return made, tuple(total // 2 if upper else total - total // 2 for total in totals)
        return tuple(whole - cut for whole, cut in zip(full, self.pads, strict=True)), self.pads


@dataclass(frozen=True)
class Transposed(LinearMap):
    """A transposed convolution: output p is the sum over taps k of what stands at (p + pad - k dilation) / stride, where that is a position."""

    window: TransposedWindow

    @property
    def reads(self) -> int:
        return self.axis

    @property
    def by_position(self) -> bool:
        return False

    def counts_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        size = int(np.prod(self.window.placed(values[0].shape[2:])[0], dtype=np.int64))
        return np.full(len(values[0]), min(size, sampler.positions))

    def rows_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        """Return float32[groups, rows, taps * c]; taps of other phases than that of the output position read zeros."""
        (x,) = values
        count, channels, *space = x.shape
        window = self.window
        made, pads = window.placed(space)
        places = sampler.choose(int(np.prod(made, dtype=np.int64)), count)
        corner = np.stack(np.unravel_index(places, made), axis=-1) + np.array(pads)  # [samples, positions, axes]
        taps = np.array(list(product(*map(range, window.kernel)))) * np.array(window.dilations)
        ahead = corner[:, :, None] - taps  # [samples, positions, taps, axes]
        steps, left = np.divmod(ahead, np.array(window.strides))
        met = ((left == 0) & (steps >= 0) & (steps < np.array(space))).all(axis=-1)
        size = int(np.prod(space, dtype=np.int64))
        flat = np.ravel_multi_index(tuple(np.moveaxis(np.where(met[..., None], steps, 0), -1, 0)), space)
        flat = np.where(met, flat + size * np.arange(count)[:, None, None], size * count)
        padded = np.zeros((count * size + 1, channels), np.float32)
        padded[:-1] = np.moveaxis(x, 1, -1).reshape(-1, channels)
        found = padded[flat.reshape(-1)].reshape(-1, len(taps), self.groups, channels // self.groups)
        return np.ascontiguousarray(np.moveaxis(found, 2, 0)).reshape(self.groups, len(found), -1)


def transposed(node: Node, stored: Stored, facts: Facts) -> Transposed | None:
    """Return a transposed convolution with a weight of its own; None where it has none, or is too wide."""
    operands = floats_of(node, stored)
    if operands is None or operands.source in facts.constants:
        return None
    after = facts.shape(operands.output)
    shape, groups = stored.arrays[operands.weight.name].shape, int(node.attribute("group", 1))
    taps = int(np.prod(shape[2:], dtype=np.int64))
    sizes, along = (groups, shape[0] // groups, shape[1], taps), 0 if groups == 1 else None
    block = WeightBlock(operands.weight, sizes, ((0,), (2,), (3, 1)), taps=taps, along=along)
    if after is None or block.shape[2] > MAX_INPUTS:
        return None
    window = TransposedWindow.of(node, shape[2:])
    return Transposed(node, operands, groups, 1, groups * shape[1], (block,), window).taking(stored, len(after))
