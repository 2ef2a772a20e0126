"""Decisions near one that is there: a few units that went come back, others make room."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.coupling.kept import Kept
from onnxprune.gating import GateScores

SHARES = (1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)  # of the units that went
MOST = 4  # decisions


def exchanges(scores: GateScores, kept: Kept, decide: Callable[[GateScores], Kept]) -> list[Kept]:
    """Return other decisions in which the best of the units outside ``kept`` stay too, ever more of them, and the worst inside make room.

    ``scores``: float64[width] per group, higher is better, None where nothing is known: these groups stay as they are. ``decide``: scores ->
    what stays under the budget.
    """
    pairs = [(own, mask) for own, mask in zip(scores, kept, strict=True) if own is not None]
    gone = np.sort(np.concatenate([np.zeros(0), *(own[~mask] for own, mask in pairs)]))[::-1]
    highest = max((float(np.abs(own).max()) for own, _ in pairs), default=0.0) + 1
    found: list[Kept] = []
    for share in SHARES if len(gone) else ():
        least = gone[int(np.ceil(share * len(gone))) - 1]
        ranked: GateScores = [_ranked(own, mask, least, highest) for own, mask in zip(scores, kept, strict=True)]
        decision = decide(ranked)
        if decision != kept and decision not in found and len(found) < MOST:
            found.append(decision)
    return found


def _ranked(scores: np.ndarray | None, mask: np.ndarray, least: float, highest: float) -> np.ndarray:
    """Return float64[width]: units that went above all others from ``least`` on, below all others where they score less."""
    if scores is None:
        return np.where(mask, 2 * highest, -2 * highest)
    return np.where(mask, scores, np.where(scores >= least, scores + 3 * highest, scores - 3 * highest))
