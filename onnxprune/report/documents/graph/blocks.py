"""A graph of many nodes as a chain of blocks, found by its shape alone: no name says where one ends.

A block ends where one value alone leads on. Values that are read far behind (the skips of a U-Net, a mask that every layer reads)
are taken for ports, the longest first, until no block is too large to be seen at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LARGEST = 36
"""Nodes of a block."""
MOST_PORTS = 500
"""Values that are taken for ports; what is too large then is cut into pieces."""
SMALL = 8
"""Nodes of a block that is put together of nodes which follow one another."""
LONGEST_PERIOD = 6
FEWEST = 3
"""Times from which on blocks that are built alike are shown as one."""


@dataclass(frozen=True)
class Repeat:
    """Blocks, as ranges of node numbers, that follow one another; ``period`` of them are built as the next ones are."""

    blocks: tuple[range, ...]
    period: int = 1

    @property
    def times(self) -> int:
        return len(self.blocks) // self.period


def blocks(reads: Sequence[Sequence[int]]) -> list[range]:
    """Part nodes (``reads``: numbers of earlier ones, inputs of the graph below 0) into blocks, in order."""
    count = len(reads)
    last = np.arange(count)
    for node, sources in enumerate(reads):
        for source in sources:
            if source >= 0:
                last[source] = max(last[source], node)
    found = _between(_waists(last), count)
    for _ in range(MOST_PORTS):
        largest = max(found, key=len, default=range(0))
        if len(largest) <= LARGEST:
            break
        inside = np.minimum(last, largest[-1]) - np.maximum(np.arange(count), largest[0])
        longest = int(inside.argmax())
        last[longest] = longest
        found = _between(_waists(last), count)
    pieces = [range(at, min(at + LARGEST, one.stop)) for one in found for at in range(one.start, one.stop, LARGEST)]
    return _joined_small(pieces)


def _waists(last: np.ndarray) -> np.ndarray:
    """Return the numbers of nodes before which at most one value leads on; ``last``: by whom each is read last."""
    count = len(last)
    crossing = np.zeros(count + 1, np.int64)
    np.add.at(crossing, np.arange(count) + 1, 1)
    np.add.at(crossing, np.minimum(last + 1, count), -1)
    return np.flatnonzero(np.cumsum(crossing)[:count] <= 1)


def _between(waists: np.ndarray, count: int) -> list[range]:
    ends = sorted({0, *waists.tolist(), count})
    return [range(start, end) for start, end in pairwise(ends)]


def _joined_small(found: Sequence[range]) -> list[range]:
    """Join single nodes that follow one another."""
    joined: list[range] = []
    single = False
    for block in found:
        follows = single and len(block) == 1 and len(joined[-1]) < SMALL
        if follows:
            joined[-1] = range(joined[-1].start, block.stop)
        else:
            joined.append(block)
        single = len(block) == 1
    return joined


def repeats(parts: Sequence[range], built: Sequence[Hashable]) -> list[Repeat]:
    """Put blocks together that repeat, alone or in turns; ``built``: per node, equal for nodes that are built alike."""
    shapes = [tuple(built[node] for node in block) for block in parts]
    found, place = [], 0
    while place < len(parts):
        period, times = max(
            ((period, _times(shapes, place, period)) for period in range(1, LONGEST_PERIOD + 1)),
            key=lambda one: (one[0] * one[1] if one[1] >= FEWEST else 1, -one[0]),
        )
        if times < FEWEST:
            period, times = 1, 1
        found.append(Repeat(tuple(parts[place : place + period * times]), period))
        place += period * times
    return found


def _times(shapes: Sequence[Hashable], place: int, period: int) -> int:
    times = 1
    while shapes[place : place + period] == shapes[place + times * period : place + (times + 1) * period]:
        times += 1
    return times if place + period <= len(shapes) else 0
