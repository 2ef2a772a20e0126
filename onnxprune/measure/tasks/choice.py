"""Which of several models has lost least: by the task where rows tell them apart, by how far they diverge where not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Judged:
    """``divergence`` from the original; ``scores``: float64[samples], what is left of the task (None: not known), NaN: nothing is said.

    ``softened``: the divergence with class scores at a temperature above 1 (None: there are none).
    """

    divergence: float
    scores: np.ndarray | None = None
    softened: float | None = None

    @property
    def cost(self) -> float:
        """What tells models apart of which the task does not."""
        return self.divergence if self.softened is None else self.softened

    @property
    def score(self) -> float | None:
        """The mean over samples that say something; None without any."""
        known = np.zeros(0) if self.scores is None else self.scores[~np.isnan(self.scores)]
        return float(known.mean()) if len(known) else None


def least_lost(found: Mapping[T, Judged]) -> T:
    """Return the one that has lost least, all judged on the same samples.

    Of those whose task score is within one standard error of the best one's (of the paired differences, with one sample that was
    won or lost thrown in, so that few samples decide nothing) the one of least cost; ties go to the first.
    """
    able = [name for name in found if np.isfinite(found[name].divergence)] or list(found)
    scores = [found[name].scores for name in able]
    known = [each for each in scores if each is not None]
    if len(known) < len(able) or len({len(each) for each in known}) > 1:
        return min(able, key=lambda name: found[name].cost)
    table = np.stack(known)
    table = np.where(np.isnan(table), 1.0, table)[:, ~np.isnan(table).all(axis=0)]
    if table.shape[1]:
        best = table[int(np.argmax(table.mean(axis=1)))]
        able = [name for name, row in zip(able, table, strict=True) if _close(best - row)]
    return min(able, key=lambda name: found[name].cost)


def _close(lost: np.ndarray) -> bool:
    """Whether the mean of differences [samples] is within a standard error of nothing."""
    spread = np.square(lost - lost.mean()).sum() + 1
    return bool(lost.mean() <= np.sqrt(spread) / len(lost))
