"""Statistics of fixed size that batches are added to and that can be merged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

MANTISSA_BITS = 6
SHIFT = 23 - MANTISSA_BITS
BINS = 1 << (8 + MANTISSA_BITS)
INFINITY_BITS = 0x7F800000


@dataclass
class Mean:
    """A mergeable mean."""

    total: float = 0.0
    count: int = 0

    def add(self, values: np.ndarray) -> None:
        self.total += float(values.sum(dtype=np.float64))
        self.count += values.size

    def merge(self, other: Mean) -> None:
        self.total += other.total
        self.count += other.count

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class ErrorHistogram:
    """Counts of magnitudes in bins of 1/64 octave: the exponent and six mantissa bits of the value as float32.

    Quantiles are upper edges of bins: never below the exact value, at most 1/64 (1.6 %) above it.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, magnitudes: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            bits = np.ascontiguousarray(magnitudes, np.float32).view(np.uint32)
        self.counts += np.bincount((bits >> SHIFT).ravel(), minlength=BINS)

    def merge(self, other: ErrorHistogram) -> None:
        self.counts += other.counts

    def quantile(self, share: float) -> float:
        """Return the smallest bin edge below which at least ``share`` of the values lie; 0 for values that are zero."""
        rank = math.ceil(share * int(self.counts.sum()))
        position = int(np.searchsorted(self.counts.cumsum(), rank))
        edge = np.array(min(position + 1, INFINITY_BITS >> SHIFT) << SHIFT, np.uint32).view(np.float32)
        return float(edge) if position else 0.0
