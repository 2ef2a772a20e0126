"""What the rows of an output look like: mergeable sums per channel, and what holds for all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

CLOSE = 1e-3  # by which a sum of probabilities may miss 1
EMBEDDING = 8  # channels at least of rows whose length of 1 is no chance


@dataclass
class Seen:
    """What the rows of one output looked like; float64[channels] each, over finite values."""

    count: np.ndarray
    total: np.ndarray
    square: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sums_to_one: bool = True
    logarithms: bool = True
    unit_rows: bool = True

    @classmethod
    def of(cls, rows: np.ndarray) -> Seen:
        """Look at [rows, channels]."""
        finite = np.isfinite(rows)
        values = np.where(finite, rows, 0.0).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            sums, logs = rows.sum(axis=1, dtype=np.float64), scipy.special.logsumexp(rows.astype(np.float64), axis=1)
            lengths = np.sqrt(np.square(values).sum(axis=1))
        return cls(
            finite.sum(0).astype(np.float64),
            values.sum(0),
            np.square(values).sum(0),
            np.min(np.where(finite, rows, np.inf), axis=0, initial=np.inf),
            np.max(np.where(finite, rows, -np.inf), axis=0, initial=-np.inf),
            bool((rows >= 0).all() and np.allclose(sums, 1, atol=CLOSE)),
            bool((rows <= CLOSE).all() and np.allclose(logs, 0, atol=CLOSE)),
            bool(rows.shape[1] >= EMBEDDING and np.allclose(lengths, 1, atol=CLOSE)),
        )

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.count + other.count,
            self.total + other.total,
            self.square + other.square,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.sums_to_one and other.sums_to_one,
            self.logarithms and other.logarithms,
            self.unit_rows and other.unit_rows,
        )

    def joined(self) -> Seen:
        """Return the same with all channels taken for one."""
        count, total, square = (np.array([part.sum()]) for part in (self.count, self.total, self.square))
        low, high = np.array([self.low.min(initial=np.inf)]), np.array([self.high.max(initial=-np.inf)])
        return Seen(count, total, square, low, high, False, False, False)

    @property
    def mean(self) -> np.ndarray:
        return self.total / np.maximum(self.count, 1)

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.square / np.maximum(self.count, 1) - np.square(self.mean), 0.0))

    @property
    def unit(self) -> np.ndarray:
        """bool[channels]: whether all values lie between 0 and 1."""
        return (self.count > 0) & (self.low >= 0) & (self.high <= 1)
