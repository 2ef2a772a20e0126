"""What the linear nodes of a pruned model are to give on every batch: rows of the original, beside what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.kept import Kept
from onnxprune.evidence.rows import Sampler
from onnxprune.model.facts import Facts
from onnxprune.model.runtime import Arrays
from onnxprune.repair.finding import as_map
from onnxprune.repair.fit import TargetRows
from onnxprune.repair.lockstep import Lockstep
from onnxprune.repair.maps import LinearMap, OwnProduct
from onnxprune.repair.stored import Stored
from onnxprune.repair.targets import FitTarget
from onnxprune.repair.teacher import SoughtRows, SoughtSum, Teacher


class _ThereAlready(NamedTuple):
    """One batch: its number, its inputs, how many rows the node reads, and the other operand of the sum that it feeds (None: no sum)."""

    number: int
    inputs: Arrays
    read: int
    other: np.ndarray | None


@dataclass
class Wanted:
    """Rows of what the ``teacher`` knows of the original of ``facts``, of the units in ``left``, ``positions`` of each sample.

    ``stored``: the tensors of the pruned model.
    """

    teacher: Teacher
    facts: Facts
    left: Kept
    stored: Stored
    positions: int
    _sought: dict[LinearMap, SoughtRows] = field(default_factory=dict)
    _whole: Stored | None = None

    def learn(self, pairs: Iterable[tuple[LinearMap, FitTarget]]) -> None:
        """Look at all that these nodes are to give."""
        self._sought = {linear: self._sought_by(linear, target) for linear, target in pairs}
        self.teacher.learn(self._sought.values())

    def _sought_by(self, linear: LinearMap, target: FitTarget) -> SoughtRows:
        """Return the rows of the original that a node is fitted to: of a value, or what the same node there multiplies out."""
        if target.inside:
            added = self.facts.content(target.added).astype(np.float32) if target.added else 0.0
            return SoughtSum(linear.sought(target.value), linear.sought(target.other), target.added, added)
        if not linear.activation:
            return linear.sought(target.value)
        self._whole = self._whole or Stored.of(self.facts.model, self.facts.graph)
        known = as_map(self.facts.graph.producer[linear.output], self._whole, self.facts)
        assert known is not None
        return OwnProduct.of(known, self._whole)

    def sampler(self, number: int, batch: Arrays) -> Sampler:
        """Return which positions of batch ``number`` are looked at."""
        return self.teacher.sampler(number, batch, self.positions)

    def rows(
        self,
        linear: LinearMap,
        target: FitTarget,
        pruned: Lockstep,
        counts: Sequence[int],
        outputs: slice = slice(None),
    ) -> TargetRows:
        """Return per batch what is to come out and what is there, of some of the ``outputs``.

        ``pruned``: has run up to the node; ``counts``: rows that this reads of each batch.
        """
        others: Iterator[np.ndarray | None] = iter([None] * len(counts))
        if target.other:
            others = pruned.values(target.other)
        numbered = zip(range(len(counts)), self.teacher.batches, counts, others, strict=False)
        return [self._rows(linear, target, outputs, _ThereAlready(*there)) for there in numbered]

    def _rows(
        self, linear: LinearMap, target: FitTarget, outputs: slice, there: _ThereAlready
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return float32[rows, channels] twice; None where the two models' rows do not match."""
        sought = self._sought[linear]
        kept = sought.kept(self.left, self.facts)
        wanted = self.teacher.rows(sought, there.number, self.positions, outputs if kept is None else slice(None))
        own = 0.0 if linear.bias else linear.offset(self.stored).reshape(-1)
        offset = (target.shift + target.scale * own).astype(np.float32)[outputs]
        if there.other is not None:
            sampler = self.sampler(there.number, there.inputs)
            offset = offset + linear.sought(target.other).rows(there.other, sampler)[:, outputs]
        if len(wanted) != there.read or (there.other is not None and len(offset) != there.read):
            return None
        wanted = wanted if kept is None else wanted[:, kept][:, outputs]
        return wanted, np.broadcast_to(offset, wanted.shape)

    def left_out(self, rows: TargetRows) -> int:
        """Return how many samples rows do not match of."""
        return sum(size for size, there in zip(self.teacher.sizes, rows, strict=False) if there is None)
