"""Nodes in layers: Sugiyama, Tagawa and Toda (1981), "Methods for visual understanding of hierarchical system structures".

Layers by longest path, edges over several layers through places of their own, few crossings by barycentres (up and down in
turns), then every node near the middle of its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 6
GAP, LANE = 14.0, 18.0
"""Between two boxes; the width of an edge that passes a layer."""

Edge = tuple[int, int]


@dataclass
class Layering:
    """``x`` is the middle of every node, ``layer`` its number from above; ``routes``: edge -> the middles that it passes, one a layer."""

    x: list[float]
    layer: list[int]
    width: float
    layers: int
    routes: dict[Edge, list[float]] = field(default_factory=dict)


@dataclass
class _Net:
    """Nodes, and behind them places that edges pass; neighbours above and below; the order in every layer."""

    layer: list[int]
    sizes: list[float]
    gap: float
    lane: float
    above: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    below: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    passed: dict[Edge, list[int]] = field(default_factory=dict)
    rows: list[list[int]] = field(default_factory=list)

    def lead(self, edge: Edge) -> None:
        """Lead an edge from layer to layer."""
        source, target = edge
        before, through = source, []
        for layer in range(self.layer[source] + 1, self.layer[target]):
            self.layer.append(layer)
            self.sizes.append(self.lane)
            through.append(len(self.layer) - 1)
            self._join(before, through[-1])
            before = through[-1]
        self._join(before, target)
        self.passed[edge] = through

    def _join(self, one: int, two: int) -> None:
        self.below[one].append(two)
        self.above[two].append(one)


def layout(sizes: Sequence[float], edges: Iterable[Edge], gap: float = GAP, lane: float = LANE) -> Layering:
    """Place nodes of given widths; every edge leads from a lower number to a higher one."""
    unique = list(dict.fromkeys(edges))
    net = _Net(_layers(len(sizes), unique), list(sizes), gap, lane)
    for edge in unique:
        net.lead(edge)
    net.rows = [[] for _ in range(max(net.layer, default=-1) + 1)]
    for node, layer in enumerate(net.layer):
        net.rows[layer].append(node)
    for sweep in range(SWEEPS):
        _ordered(net, downwards=sweep % 2 == 0)
    x = _middles(net)
    left = min((x[n] - net.sizes[n] / 2 for n in range(len(x))), default=0.0)
    right = max((x[n] + net.sizes[n] / 2 for n in range(len(x))), default=0.0)
    moved = [value - left for value in x]
    routes = {edge: [moved[node] for node in through] for edge, through in net.passed.items()}
    return Layering(moved[: len(sizes)], net.layer[: len(sizes)], right - left, len(net.rows), routes)


def _layers(count: int, edges: Sequence[Edge]) -> list[int]:
    """Return the layer of every node: below all that it reads; what reads nothing stands just above its first reader."""
    layer, read, reading = [0] * count, [False] * count, defaultdict(list)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        reading[source].append(target)
        read[target] = True
        layer[target] = max(layer[target], layer[source] + 1)
    for node in reversed(range(count)):
        if not read[node] and reading[node]:
            layer[node] = min(layer[target] for target in reading[node]) - 1
    return layer


def _ordered(net: _Net, *, downwards: bool) -> None:
    """Order every layer by the mean place of neighbours in the layer before."""
    rows, neighbours = (net.rows, net.above) if downwards else (net.rows[::-1], net.below)
    place: dict[int, float] = {}
    for row in rows:
        for at, node in enumerate(row):
            place.setdefault(node, float(at))
        means = {node: _mean([place[n] for n in neighbours[node]], place[node]) for node in row}
        row.sort(key=lambda node: means[node])
        place.update((node, float(at)) for at, node in enumerate(row))


def _middles(net: _Net) -> list[float]:
    """Return x of the middle of every node, in the given order, near the mean of its neighbours."""
    x = [0.0] * len(net.layer)
    for row in net.rows:
        _set(net, row, dict.fromkeys(row, 0.0), x)
    for sweep in range(2 * SWEEPS):
        rows, neighbours = (net.rows, net.above) if sweep % 2 == 0 else (net.rows[::-1], net.below)
        for row in rows:
            _set(net, row, {node: _mean([x[n] for n in neighbours[node]], x[node]) for node in row}, x)
    return x


def _set(net: _Net, row: Sequence[int], wanted: Mapping[int, float], x: list[float]) -> None:
    """Move the nodes of a row to where they are wanted, as far as their sizes let them: half way from both sides."""
    sizes = net.sizes
    apart = [(sizes[one] + sizes[two]) / 2 + net.gap for one, two in pairwise(row)]
    right = [wanted[node] for node in row]
    left = list(right)
    for at in range(1, len(row)):
        right[at] = max(right[at], right[at - 1] + apart[at - 1])
    for at in reversed(range(len(row) - 1)):
        left[at] = min(left[at], left[at + 1] - apart[at])
    for node, one, two in zip(row, left, right, strict=True):
        x[node] = (one + two) / 2


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
