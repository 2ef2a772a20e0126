"""Few values for many: the table of so many numbers that is nearest to weights, where each weight counts as much as it matters."""

from __future__ import annotations

import heapq

import numpy as np

HALF = np.float16
GROUPS = 384
MOST_OPTIMAL = (
    32  # centres up to which the start is the optimum of the groups, beyond which spacing by density is as good
)
TURNS = 60


def to_table(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the nearest value of an ascending table for each; of two the lower one."""
    middle = (table[1:].astype(np.float64) + table[:-1]) / 2
    return table[np.searchsorted(middle, values)]


def fitted_table(array: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return at most ``count`` ascending numbers of the array's type with the least weighted squared error to its values.

    ``weights``: float[...] that broadcasts to the array (None: all count the same). Where there is a zero, zero is one of them.
    Values are told apart as float16 of the largest magnitude. Lloyd's iteration from the optimum over ``GROUPS`` runs of
    neighbouring values, found by dynamic programming (Wang and Song 2011, "Ckmeans.1d.dp"); beyond ``MOST_OPTIMAL`` numbers
    from runs alone.
    """
    largest = float(np.abs(array).max(initial=0.0)) or 1.0
    bits = (array / array.dtype.type(largest)).astype(HALF).reshape(-1).view(np.uint16)
    mass = np.broadcast_to(1.0 if weights is None else weights, array.shape).reshape(-1)
    masses = np.bincount(bits, mass, 1 << 16)
    there = np.bincount(bits, minlength=1 << 16) > 0
    values = np.arange(1 << 16, dtype=np.uint16).view(HALF).astype(np.float64)
    zero = bool((array == 0).any())
    there &= values != 0
    order = np.flatnonzero(there)[np.argsort(values[there], kind="stable")]
    points, heavy = values[order], masses[order]
    heavy = heavy + max(heavy.sum(), 1e-30) * 1e-9 / max(len(heavy), 1)  # what no data reaches counts a little too
    found = _centres(points, heavy, count - zero, zero) if len(points) else np.zeros(0)
    table = np.unique((np.append(found, 0.0) if zero else found).astype(np.float64) * largest)
    return np.unique(table.astype(array.dtype)) + array.dtype.type(0)


def _centres(points: np.ndarray, mass: np.ndarray, count: int, zero: bool) -> np.ndarray:
    if len(points) <= count:
        return points
    centres = _start(points, mass, count)
    sums, moments = np.append(0, np.cumsum(mass)), np.append(0, np.cumsum(mass * points))
    for _ in range(TURNS):
        every = np.unique(np.append(centres, 0.0)) if zero else centres
        edges = np.searchsorted(points, (every[1:] + every[:-1]) / 2, side="right")
        ends, starts = np.append(edges, len(points)), np.append(0, edges)
        heavy, moment = sums[ends] - sums[starts], moments[ends] - moments[starts]
        means = np.divide(moment, heavy, out=every.copy(), where=heavy > 0)
        fresh = means[every != 0] if zero else means
        if np.array_equal(fresh, centres):
            break
        centres = fresh
    return centres


def _start(points: np.ndarray, mass: np.ndarray, count: int) -> np.ndarray:
    """Part the points into runs, always the one of the largest error; return the centres of the runs, or of these joined at the least cost."""
    optimal = count <= MOST_OPTIMAL
    sums = np.stack([np.append(0, np.cumsum(mass * np.power(points, power))) for power in range(3)])
    edges = _edges(sums, max(GROUPS, count) if optimal else count)
    heavy, moment, square = np.diff(sums[:, edges])
    return _joined(heavy, moment, square, count) if optimal and len(heavy) > count else moment / heavy


def _edges(sums: np.ndarray, count: int) -> np.ndarray:
    """Return where at most ``count`` runs begin, and the end; ``sums``: running sums of mass, moment and square."""
    waiting, edges = [(-np.inf, 0, sums.shape[1] - 1)], [0, sums.shape[1] - 1]
    while waiting and len(edges) <= count:
        _, low, high = heapq.heappop(waiting)
        if high - low < 2:
            continue
        inner = sums[:, low + 1 : high]
        left, right = _errors(inner - sums[:, low : low + 1]), _errors(sums[:, high : high + 1] - inner)
        best = int((left + right).argmin())
        middle = low + 1 + best
        edges.append(middle)
        heapq.heappush(waiting, (-float(left[best]), low, middle))
        heapq.heappush(waiting, (-float(right[best]), middle, high))
    return np.sort(edges)


def _errors(sums: np.ndarray) -> np.ndarray:
    """Return the squared errors of runs of these sums around their means."""
    mass, moment, square = sums
    return np.maximum(square - np.square(moment) / np.maximum(mass, 1e-300), 0.0)


def _joined(heavy: np.ndarray, moment: np.ndarray, square: np.ndarray, count: int) -> np.ndarray:
    """Return the means of ``count`` runs of neighbouring groups with the least squared error in all."""
    sums, moments, squares = (np.append(0, np.cumsum(part)) for part in (heavy, moment, square))
    cost = np.full((len(sums), len(sums)), np.inf)  # a run has a group at least
    first, last = np.triu_indices(len(sums), 1)
    gone = moments[last] - moments[first]
    cost[first, last] = squares[last] - squares[first] - np.square(gone) / (sums[last] - sums[first])
    best, came = cost[0], []
    for _ in range(count - 1):
        whole = best[:, None] + cost
        came.append(whole.argmin(0))
        best = whole.min(0)
    ends = [len(sums) - 1]
    for start in reversed(came):
        ends.append(int(start[ends[-1]]))
    edges = np.array([0, *reversed(ends)])
    return np.diff(moments[edges]) / np.diff(sums[edges])
