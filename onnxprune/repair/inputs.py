"""What nodes that read the same value in the same way sum over: rows and their moments, taken once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from onnxprune.data.repeated import Remembered
from onnxprune.evidence.needs import Window
from onnxprune.repair.linear import Linear
from onnxprune.repair.moments import CrossMoments, in_blocks

ROWS_IN_MEMORY = 5 << 25  # bytes of a value's rows that are kept while its readers are fitted

RowWeights = Sequence[np.ndarray] | None
"""float32[rows] of every batch: how often each row counts; None: all count alike."""


class Reads(NamedTuple):
    """What tells whether two nodes sum over the same rows."""

    value: str
    axis: int
    groups: int
    window: Window | None

    @classmethod
    def of(cls, linear: Linear) -> Reads:
        return cls(linear.source, linear.reads, linear.groups, linear.window)


class InputRows:
    """Rows of every batch less ``origin`` float32[groups, d], and their moments.

    ``make(start)`` yields the rows themselves, float32[groups, rows, d] that nobody else holds, from batch number ``start`` on.
    """

    def __init__(self, make: Callable[[int], Iterator[np.ndarray]], limit: int = ROWS_IN_MEMORY):
        first = next(make(0))
        rows = first if first.shape[1] else np.zeros_like(first, shape=(len(first), 1, first.shape[2]))
        self.origin = rows.mean(1, np.float64).astype(np.float32)
        centre = partial(
            _centred, self.origin
        )  # a bound method would hold these rows in a cycle, long after their last reader
        self._rows = Remembered(lambda start: map(centre, make(start)), lambda rows: rows.nbytes, limit)
        self._known: dict[frozenset[int], CrossMoments] = {}

    @cached_property
    def counts(self) -> list[int]:
        """How many rows each batch has."""
        return [centred.shape[1] for centred in self]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield float32[groups, rows, d] of every batch, less the origin."""
        return iter(self._rows)

    def moments(self, left_out: frozenset[int], weights: RowWeights = None) -> CrossMoments:
        """Return the moments, without targets, of all batches but those numbered in ``left_out``.

        ``weights``: how often the rows of each batch count.
        """
        if weights is not None:
            return self._summed(left_out, weights)
        if left_out not in self._known:
            self._known[left_out] = self._summed(left_out, None)
        return self._known[left_out]

    def _summed(self, left_out: frozenset[int], weights: RowWeights) -> CrossMoments:
        found = CrossMoments.zeros(len(self.origin), self.origin.shape[1], 0, self.origin)
        counted = (
            (centred,) if weights is None else (centred, weights[number])
            for number, centred in enumerate(self)
            if number not in left_out
        )
        for rows in in_blocks(counted):
            found.add_inputs(*rows)
        return found


def _centred(origin: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take ``origin`` float32[groups, d] off rows float32[groups, rows, d], in place."""
    rows -= origin[:, None]
    return rows
