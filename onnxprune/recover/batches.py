"""Random batches of a dataset, epoch after epoch, in bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.inputs import Rows

Complete = Callable[[Rows, np.ndarray | None], Rows]

MEMORY = 1 << 28  # bytes of rows that are held, and shuffled, at once


class Shuffled:
    """Batches of ``size`` rows in an order that ``seed`` decides; rows that do not fill one wait for another epoch.

    ``complete`` makes what is held of inputs and labels, ``part`` rows at a time. Data beyond ``memory`` bytes is read anew in every epoch and
    shuffled within blocks of that size. Where a row is a whole feed of the model, only the order of feeds is random.
    """

    def __init__(
        self, dataset: Dataset, size: int, seed: int, complete: Complete, memory: int = MEMORY, part: int | None = None
    ):
        self.dataset, self.size, self.seed, self.complete, self.memory = dataset, size, seed, complete, memory
        self.part = part or size
        self._held: list[list[Rows]] = []

    def __iter__(self) -> Iterator[Rows]:
        for epoch in itertools.count():
            for number, block in enumerate(self._held or self._blocks()):
                random = np.random.default_rng([self.seed, epoch, number])
                if self.dataset.schema.samples:
                    yield from _batches(block[0], self.size, self.dataset.schema.fixed_batch or 1, random)
                else:
                    yield from (block[place] for place in random.permutation(len(block)))

    def _blocks(self) -> Iterator[list[Rows]]:
        """Yield what fits into memory at once, joined where rows can be; a single block is kept."""
        blocks = self._read()
        first = self._joined(next(blocks))
        second = next(blocks, None)
        yield first
        if second is None:
            self._held = [first]
        else:
            yield from map(self._joined, itertools.chain([second], blocks))

    def _read(self) -> Iterator[list[Rows]]:
        pieces: list[Rows] = []
        used = 0
        for inputs, labels in self.dataset.labelled(self.part):
            piece = self.complete(inputs, labels)
            weight = sum(array.nbytes for array in piece.values())
            if pieces and (used + weight > self.memory or not self._alike(pieces[0], piece)):
                yield pieces
                pieces, used = [], 0
            pieces.append(piece)
            used += weight
        yield pieces

    def _alike(self, a: Rows, b: Rows) -> bool:
        return not self.dataset.schema.samples or all(a[name].shape[1:] == b[name].shape[1:] for name in a)

    def _joined(self, pieces: Sequence[Rows]) -> list[Rows]:
        if not self.dataset.schema.samples:
            return list(pieces)
        return [{name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}]


def _batches(rows: Rows, size: int, unit: int, random: np.random.Generator) -> Iterator[Rows]:
    """Yield batches of ``size`` rows, or as many units of rows as there are."""
    count = len(next(iter(rows.values())))
    size = min(size, count // unit * unit)
    order = random.permutation(count)
    for start in range(0, count - size + 1, size):
        chosen = order[start : start + size]
        yield {name: array[chosen] for name, array in rows.items()}
