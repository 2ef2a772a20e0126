"""Time as a cost: what each node takes at the widths it may get, read off a measured table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy


@dataclass(frozen=True, eq=False)
class Width:
    """The size of a letter with ``kept[g]`` units left in each group: ``fixed + sum_g slopes[g] * kept[g]``."""

    fixed: int
    slopes: Mapping[int, int]

    def at(self, kept: np.ndarray) -> np.ndarray:
        """Return float64[] or float64[n] for ``kept``: int64[groups] or int64[groups, n]."""
        return self.fixed + sum((n * kept[g] for g, n in self.slopes.items()), np.zeros(kept.shape[1:]))


@dataclass(frozen=True, eq=False)
class NodeTime:
    """Microseconds of one node on a grid of its letters' widths: ``table`` float64[len(grid[0]), len(grid[1]), ...]."""

    name: str
    widths: tuple[Width, ...]
    grid: tuple[tuple[int, ...], ...]
    table: np.ndarray

    def at(self, kept: np.ndarray) -> np.ndarray:
        """Return the time, linear between measured widths and beyond them, never below zero."""
        if not self.widths:
            return np.full(kept.shape[1:], float(self.table))
        points = np.stack([width.at(kept) for width in self.widths], axis=-1)
        read = scipy.interpolate.RegularGridInterpolator(self.grid, self.table, bounds_error=False, fill_value=None)
        return np.maximum(read(points).reshape(kept.shape[1:]), 0.0)


@dataclass(frozen=True, eq=False)
class Times:
    """A whole model: the nodes with a table, and ``rest`` microseconds that follow the number of channels."""

    nodes: tuple[NodeTime, ...]
    rest: float
    scale: float = 1.0

    def at(self, kept: np.ndarray, channels: np.ndarray) -> np.ndarray:
        """Return microseconds; ``channels``: the share of all channels that is left."""
        return self.scale * sum((node.at(kept) for node in self.nodes), np.zeros(kept.shape[1:])) + self.rest * channels
