"""Statistics of fixed size: batches are added, shards are merged, sums are float64 whatever the data's type."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from onnxprune.model.scratch import kept, zeros

BINS = 1024  # dyadic bins that are kept
ENTROPY_BINS = 100  # equal bins the entropy is taken over
FINEST = -64  # exponent of the narrowest bin


def _zero() -> np.ndarray:
    """Sums start as a scalar; the first batch gives them their shape."""
    return np.asarray(0.0)


def _above() -> np.ndarray:
    return np.asarray(np.inf)


def _below() -> np.ndarray:
    return np.asarray(-np.inf)


@dataclass
class Statistic:
    """Base: a record of float64 or integer arrays, the whole state; ``form`` names the rows it is fed (see rows.py)."""

    form: ClassVar[str] = "rows"

    def arrays(self) -> dict[str, np.ndarray]:
        return {entry.name: np.asarray(getattr(self, entry.name)) for entry in fields(self)}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Raises KeyError where an array is missing."""
        return cls(**{entry.name: arrays[entry.name] for entry in fields(cls)})

    def update(self, batch: Any) -> None:
        raise NotImplementedError

    def merge(self, other: Any) -> None:
        raise NotImplementedError


def _count(rows: np.ndarray) -> np.ndarray:
    return np.asarray(len(rows), np.float64)


def _shift(count: np.ndarray, mean: np.ndarray, more: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (mean of both, weight of the squared difference of means); Chan et al. 1983, eq. 2.1."""
    total = count + more
    share = more / total if total > 0 else 0.0
    return mean + (other - mean) * share, count * share


@dataclass
class Moments(Statistic):
    """Per channel: count, mean float64[c], sum of squared deviations float64[c]. Rows: [r, c]."""

    count: np.ndarray = field(default_factory=_zero)
    mean: np.ndarray = field(default_factory=_zero)
    squares: np.ndarray = field(default_factory=_zero)
    form: ClassVar[str] = "all"

    def update(self, batch: np.ndarray) -> None:
        rows = batch.astype(np.float64)
        if len(rows):
            mean = rows.mean(axis=0)
            rows -= mean
            self.merge(Moments(_count(rows), mean, np.einsum("rc,rc->c", rows, rows)))

    def merge(self, other: Moments) -> None:
        gap = other.mean - self.mean
        self.mean, weight = _shift(self.count, self.mean, other.count, other.mean)
        self.squares = self.squares + other.squares + weight * gap * gap
        self.count = self.count + other.count

    @property
    def variance(self) -> np.ndarray:
        """float64[c], divided by the count."""
        return self.squares / np.maximum(self.count, 1.0)

    @property
    def power(self) -> np.ndarray:
        """float64[c]: the mean square."""
        return self.variance + np.square(self.mean)


@dataclass
class Gram(Statistic):
    """Per group of inputs: count, mean float64[g, n], sum of centred products float64[g, n, n]. Rows: [g, r, n]."""

    count: np.ndarray = field(default_factory=_zero)
    mean: np.ndarray = field(default_factory=_zero)
    products: np.ndarray = field(default_factory=_zero)

    def update(self, batch: np.ndarray) -> None:
        rows = batch.astype(np.float64)
        if rows.shape[1]:
            mean = rows.mean(axis=1)
            rows -= mean[:, None]
            self._add(np.concatenate([rows, self._step(_count(rows[0]), mean)], axis=1))

    def merge(self, other: Gram) -> None:
        if other.count > 0:
            self._add(self._step(other.count, other.mean))
            self.products += other.products

    def _step(self, more: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Move the mean and return [g, 1, n]: the row whose products make up for that."""
        gap = mean - self.mean
        self.mean, weight = _shift(self.count, self.mean, more, mean)
        self.count = self.count + more
        return (np.sqrt(weight) * gap)[:, None]

    def _add(self, rows: np.ndarray) -> None:
        if not self.products.ndim:
            self.products = zeros((len(rows), rows.shape[2], rows.shape[2]))
        for own, group in zip(self.products, rows, strict=True):
            own += group.T @ group

    @property
    def covariance(self) -> np.ndarray:
        """float64[g, n, n], divided by the count."""
        return kept(self.products / np.maximum(self.count, 1.0))

    @property
    def second_moment(self) -> np.ndarray:
        """float64[g, n, n]: E[h h^T]."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]


@dataclass
class Cross(Statistic):
    """Two values seen together: means float64[a], float64[b], centred products float64[a, b]. Rows: [r, a], [r, b]."""

    count: np.ndarray = field(default_factory=_zero)
    mean: np.ndarray = field(default_factory=_zero)
    other_mean: np.ndarray = field(default_factory=_zero)
    products: np.ndarray = field(default_factory=_zero)
    form: ClassVar[str] = "pair"

    def update(self, batch: tuple[np.ndarray, np.ndarray]) -> None:
        left, right = (rows.astype(np.float64) for rows in batch)
        if len(left):
            means = left.mean(axis=0), right.mean(axis=0)
            self.merge(Cross(_count(left), *means, (left - means[0]).T @ (right - means[1])))

    def merge(self, other: Cross) -> None:
        gaps = other.mean - self.mean, other.other_mean - self.other_mean
        self.mean, weight = _shift(self.count, self.mean, other.count, other.mean)
        self.other_mean, _ = _shift(self.count, self.other_mean, other.count, other.other_mean)
        self.products = self.products + other.products
        if np.any(weight):
            self.products = self.products + weight * np.outer(*gaps)
        self.count = self.count + other.count

    @property
    def covariance(self) -> np.ndarray:
        """float64[a, b], divided by the count."""
        return self.products / np.maximum(self.count, 1.0)


@dataclass
class Range(Statistic):
    """Per channel: smallest and largest value and the share of exact zeros. Rows: [r, c]."""

    count: np.ndarray = field(default_factory=_zero)
    low: np.ndarray = field(default_factory=_above)
    high: np.ndarray = field(default_factory=_below)
    zeros: np.ndarray = field(default_factory=_zero)
    form: ClassVar[str] = "all"

    def update(self, batch: np.ndarray) -> None:
        if len(batch):
            zeros = np.count_nonzero(batch == 0, axis=0).astype(np.float64)
            ends = batch.min(axis=0).astype(np.float64), batch.max(axis=0).astype(np.float64)
            self.merge(Range(_count(batch), *ends, zeros))

    def merge(self, other: Range) -> None:
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.zeros, self.count = self.zeros + other.zeros, self.count + other.count

    @property
    def zero_share(self) -> np.ndarray:
        """float64[c]."""
        return self.zeros / np.maximum(self.count, 1.0)


@dataclass
class Ranks(Statistic):
    """Per channel: the mean rank of its feature maps. Fed [samples, c, h, w]."""

    count: np.ndarray = field(default_factory=_zero)
    total: np.ndarray = field(default_factory=_zero)
    form: ClassVar[str] = "maps"

    def update(self, batch: np.ndarray) -> None:
        ranks = np.linalg.matrix_rank(batch.astype(np.float32))
        self.merge(Ranks(_count(batch), ranks.sum(axis=0, dtype=np.float64)))

    def merge(self, other: Ranks) -> None:
        self.total, self.count = self.total + other.total, self.count + other.count

    @property
    def mean(self) -> np.ndarray:
        """float64[c]."""
        return self.total / np.maximum(self.count, 1.0)


@dataclass
class Histogram(Statistic):
    """Per channel: counts in BINS bins of width 2^level that start at ``first`` * 2^level. Rows: [samples, c].

    A bin is always [k, k + 1) * 2^level and the level the lowest at which all values fit, so that what is kept depends
    on the set of values alone, not on their order, batches or shards.
    """

    counts: np.ndarray | None = None
    level: np.ndarray | None = None
    first: np.ndarray | None = None
    low: np.ndarray = field(default_factory=_above)
    high: np.ndarray = field(default_factory=_below)
    form: ClassVar[str] = "means"

    def update(self, batch: np.ndarray) -> None:
        rows = batch.astype(np.float64)
        if not len(rows):
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        level, first = _fitting(low, high)
        places = _bin(rows, level) - first
        counts = np.zeros((rows.shape[1], BINS), np.int64)
        np.add.at(counts, (np.arange(rows.shape[1]), places.astype(np.int64)), 1)
        self.merge(Histogram(counts, level, first, low, high))

    def merge(self, other: Histogram) -> None:
        if other.counts is None:
            return
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        level, first = _fitting(low, high)
        parts = [part._at(level, first) for part in (self, other) if part.counts is not None]
        self.counts, self.level, self.first, self.low, self.high = np.sum(parts, axis=0), level, first, low, high

    def _at(self, level: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Return int64[c, BINS]: the counts at a coarser level."""
        assert self.counts is not None and self.level is not None and self.first is not None
        result = np.zeros_like(self.counts)
        channels, bins = np.nonzero(self.counts)
        places = _bin(self.first[channels] + bins, (level - self.level)[channels]) - first[channels]
        np.add.at(result, (channels, places.astype(np.int64)), self.counts[channels, bins])
        return result

    @property
    def entropy(self) -> np.ndarray:
        """float64[c] in nats, over ENTROPY_BINS equal bins between the smallest and the largest value."""
        assert self.counts is not None and self.level is not None and self.first is not None
        channels, bins = np.nonzero(self.counts)
        centres = np.ldexp(self.first[channels] + bins + 0.5, self.level[channels])
        width = (self.high - self.low)[channels]
        share = (centres - self.low[channels]) / np.where(width > 0, width, np.inf)
        places = np.clip(np.floor(share * ENTROPY_BINS), 0, ENTROPY_BINS - 1).astype(np.int64)
        counts = np.zeros((len(self.counts), ENTROPY_BINS))
        np.add.at(counts, (channels, places), self.counts[channels, bins])
        p = counts / counts.sum(axis=1, keepdims=True)
        return -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)


def _bin(values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return floor(values / 2^level) as float64; what is too small below zero to divide is still below zero."""
    places = np.floor(np.ldexp(values, -level))
    return np.where((places == 0) & (values < 0), -1.0, places)


def _fitting(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (level int64[c], first bin float64[c]): the lowest level at which [low, high] lies within BINS bins."""
    width = np.maximum(np.maximum(high - low, np.maximum(abs(low), abs(high)) * 2.0**-40), 2.0**FINEST)
    level = np.maximum(np.frexp(width / BINS)[1] - 1, FINEST).astype(np.int64)
    for _ in range(2):
        level = level + (_bin(high, level) - _bin(low, level) >= BINS)
    return level, _bin(low, level)


STATISTICS: dict[str, type[Statistic]] = {
    "cross": Cross,
    "gram": Gram,
    "histogram": Histogram,
    "moments": Moments,
    "range": Range,
    "ranks": Ranks,
}
