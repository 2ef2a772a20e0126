"""The lower convex hull of what can be had: steps of least damage per cost saved."""

from __future__ import annotations

from collections.abc import Sequence


def lower_hull(costs: Sequence[float], damages: Sequence[float]) -> list[int]:
    """Return the numbers of the points on the lower convex hull, ends and points on its edges included.

    ``costs`` descend strictly. One pass over the points (Andrew 1979, the lower half).
    """
    hull: list[int] = []
    for point in range(len(costs)):
        while len(hull) > 1 and _price(costs, damages, hull[-1], point) < _price(costs, damages, hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _price(costs: Sequence[float], damages: Sequence[float], before: int, after: int) -> float:
    """Return the damage of a step per what it saves."""
    return (damages[after] - damages[before]) / (costs[before] - costs[after])
