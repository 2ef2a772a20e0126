"""How sure a measured drop is: a paired bootstrap interval, and what a sample of this size can prove at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959964  # of (1 + CONFIDENCE) / 2
RESAMPLES = 2000
CELLS = 1 << 22
"""Multinomial counts drawn at once: 32 MiB."""


def paired_interval(
    before: np.ndarray, after: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of mean(before - after) over resampled samples.

    before, after: float64[samples], of the same samples. How often each distinct difference occurs is drawn, which is
    the same distribution as drawing samples. (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13)
    """
    values, counts = np.unique(before - after, return_counts=True)
    total = int(counts.sum())
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, CELLS // len(values))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        means[start : start + size] = generator.multinomial(total, counts / total, size=size) @ values / total
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def unseen_bound(samples: int) -> float:
    """Return the largest share of samples that may be lost although none was, with 95 % confidence.

    The exact form of the rule of three, 1 - 0.05 ** (1 / n). (Hanley and Lippman-Hand, JAMA 249, 1983)
    """
    return 1 - (1 - CONFIDENCE) ** (1 / samples)


@dataclass(frozen=True)
class Proof:
    """Whether a drop is proven to stay within a budget: ``bound`` is the largest drop the samples do not exclude."""

    budget: float
    drop: float
    bound: float
    samples: int
    samples_needed: int | None

    @property
    def holds(self) -> bool:
        return self.bound <= self.budget

    def warning(self) -> str | None:
        """Say why the samples cannot prove the budget; None where they do, or where it is plainly missed."""
        if self.holds or self.drop > self.budget:
            return None
        needed = f"about {self.samples_needed:,} samples would" if self.samples_needed else "no number of samples would"
        return (
            f"{self.samples:,} samples cannot prove a drop of at most {self.budget:.2%}: measured {self.drop:.2%}, "
            f"but up to {self.bound:.2%} is not excluded; {needed}"
        )


def prove(before: np.ndarray, after: np.ndarray, interval: tuple[float, float], budget: float) -> Proof:
    """Judge a drop against a budget (both shares of 1); before, after: float64[samples], values in [0, 1]."""
    difference = before - after
    samples, drop = len(difference), float(difference.mean())
    bound = max(interval[1], drop + unseen_bound(samples))
    return Proof(budget, drop, bound, samples, _samples_needed(drop, float(difference.std()), budget))


def _samples_needed(drop: float, deviation: float, budget: float) -> int | None:
    """Return the samples at which both bounds would reach the budget if drop and spread stayed the same."""
    margin = budget - drop
    if margin <= 0:
        return None
    unseen = math.log(1 - CONFIDENCE) / math.log1p(-margin) if margin < 1 else 1.0
    normal = (NORMAL_QUANTILE * deviation / margin) ** 2
    return math.ceil(max(unseen, normal))
