"""An order of columns in which the N largest of every M neighbours, row by row, sum up to the most that a search finds.

One column of every block is taken out, and linear assignment puts all of them back where they add most: so no step loses anything
(Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", section 4.2; the problem
is that of Pool & Yu 2021, "Channel Permutations for N:M Sparsity").
"""

from __future__ import annotations

import numpy as np
import scipy

TURNS = 240  # of taking columns out and putting them back, at most
WORK = 4e8  # comparisons of scores at most: wide layers take fewer turns
FEWEST = 24  # turns, however wide
AT_ONCE = 1 << 22  # comparisons held at a time
LEAST = 1e-9  # of the sum: gains below are rounding


def kept_sum(scores: np.ndarray, n: int, m: int) -> float:
    """Return the sum of the n largest of every m neighbours of float[rows, columns], columns being a multiple of m."""
    parts = scores.reshape(len(scores), -1, m)
    return float(np.partition(parts, m - n, axis=2)[:, :, m - n :].sum(dtype=np.float64))


def best_order(scores: np.ndarray, n: int, m: int, seed: int) -> np.ndarray:
    """Return int64[columns]: which column of float32[rows, columns] comes to each place."""
    columns = scores.shape[1]
    blocks, order = columns // m, np.arange(columns)
    if blocks < 2:
        return order
    total, draw, still = kept_sum(scores, n, m), np.random.default_rng(seed), 0
    for turn in range(int(np.clip(WORK / (blocks * blocks * len(scores)), FEWEST, TURNS))):
        places = draw.integers(0, m, blocks) if turn >= m else np.full(blocks, turn)
        fresh, gain = _assigned(scores, order.reshape(blocks, m), places, n)
        still = still + 1 if gain <= LEAST * total else 0
        if still == 4 * m:
            break
        order = order if still else fresh.reshape(-1)
    return order


def _assigned(scores: np.ndarray, blocks: np.ndarray, places: np.ndarray, n: int) -> tuple[np.ndarray, float]:
    """Return int64[blocks, m] with the columns at one place of every block where they add most, and what that adds."""
    count, m = blocks.shape
    every = np.arange(count)
    loose, rest = blocks[every, places], np.delete(blocks, every * m + places).reshape(count, m - 1)
    last = np.partition(scores[:, rest], m - 1 - n, axis=2)[:, :, m - 1 - n]  # the n-th largest of the others
    gains, lost = np.zeros((count, count)), scores[:, loose]
    step = max(1, AT_ONCE // (count * count))
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        gains += np.maximum(last[part, :, None], lost[part, None, :]).sum(0)
    rows, chosen = scipy.optimize.linear_sum_assignment(gains, maximize=True)
    fresh = blocks.copy()
    fresh[rows, places] = loose[chosen]
    return fresh, float(gains[rows, chosen].sum() - np.trace(gains))
