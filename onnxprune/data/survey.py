"""What the first rows of data look like: of what sizes feeds are, and which whole numbers occur."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from onnxprune.data.dataset import Dataset, Feed

ROWS = 32
"""Rows that are looked at; sizes of real data that differ at all differ among so many."""
MOST_NUMBERS = 4096
"""Different whole numbers kept of one input."""


@dataclass(frozen=True)
class Survey:
    """``feed``: a real row whose size is the middle one; ``smallest``, ``largest``: shapes of the others, by input.

    ``integers``: whole numbers that occur, by input, each once and in order.
    """

    feed: Feed
    smallest: Mapping[str, tuple[int, ...]]
    largest: Mapping[str, tuple[int, ...]]
    integers: Mapping[str, np.ndarray]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.feed.items()}

    @property
    def constants(self) -> dict[str, tuple[float, ...]]:
        """Inputs without axes that are the same in all rows, with their values: rates, flags."""
        scalars = [name for name, array in self.feed.items() if array.ndim == 0 and name in self.integers]
        return {name: tuple(self.integers[name].tolist()) for name in scalars if len(self.integers[name]) == 1}


def surveyed(dataset: Dataset, rows: int = ROWS) -> Survey:
    """Look at the first rows, one sample at a time (as many as a fixed batch takes)."""
    feeds = list(islice(dataset.batches(1), rows))
    feeds.sort(key=_size)  # stable: the first of equal ones
    integers = {
        name: np.unique(np.concatenate([feed[name].reshape(-1) for feed in feeds]))
        for name, array in feeds[0].items()
        if array.dtype.kind in "iub"
    }
    few = {
        name: found[np.linspace(0, len(found) - 1, min(len(found), MOST_NUMBERS), dtype=int)]
        for name, found in integers.items()
    }
    shapes = [{name: array.shape for name, array in feed.items()} for feed in feeds]
    return Survey(feeds[len(feeds) // 2], shapes[0], shapes[-1], few)


def _size(feed: Feed) -> int:
    return sum(math.prod(array.shape) for array in feed.values())
