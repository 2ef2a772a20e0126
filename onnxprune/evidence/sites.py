"""Where the units of a group are consumed: the value that carries them there and the weight that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.spec import Operand, Spec
from onnxprune.evidence.needs import Need, Window, convolution_window
from onnxprune.evidence.probe import observable
from onnxprune.model.graph import Node

UNFOLD_LIMIT = 1152  # inputs per group of a convolution: beyond, its taps share one second moment per channel pair
GRAM_LIMIT = 4096  # inputs per group: beyond, only per-channel moments are kept
CONVOLUTIONS = frozenset(
    {"Conv", "com.microsoft::FusedConv", "com.microsoft::NhwcFusedConv", "ConvInteger", "QLinearConv"}
)
GROUPED = CONVOLUTIONS | {"ConvTranspose"}


@dataclass(frozen=True, eq=False)
class Site:
    """One place where a node (None: nobody) consumes a group's units on axis ``axis`` of ``value``.

    ``units``: int64[axis size], the group's unit of each position (-1: none). ``weight``, ``weight_axis``: the constant
    operand that reads them ("": none). ``groups``, ``window``: of a convolution.
    """

    node: Node | None
    value: str
    axis: int
    units: np.ndarray
    weight: str = ""
    weight_axis: int = 0
    groups: int = 1
    window: Window | None = None

    @property
    def inputs(self) -> int:
        """Columns of the second moment per group of the axis."""
        return len(self.units) // self.groups * (self.window.taps if self.window else 1)

    def need(self, kind: str) -> Need:
        return Need(kind, self.value, self.axis)

    @property
    def gram(self) -> Need | None:
        """The second moments of what the node reads; None where they would be too large."""
        if self.inputs > GRAM_LIMIT:
            return None
        return Need("gram", self.value, self.axis, self.groups, self.window)


_KNOWN: WeakKeyDictionary[Analysis, tuple[tuple[Site, ...], ...]] = WeakKeyDictionary()


def sites(analysis: Analysis) -> tuple[tuple[Site, ...], ...]:
    """Return the sites of each group in the order of the nodes; where nothing consumes it, its last carrier."""
    if analysis not in _KNOWN:
        _KNOWN[analysis] = _find_sites(analysis)
    return _KNOWN[analysis]


def _find_sites(analysis: Analysis) -> tuple[tuple[Site, ...], ...]:
    seen = observable(analysis.facts)
    found: list[dict[tuple, Site]] = [{} for _ in analysis.groups]
    for index, (node, spec) in enumerate(analysis.solution.links.specs):
        for letter in sorted(spec.sinks() | set(spec.lossy)):
            for group in _groups_of(analysis, index, letter):
                for site in _sites_of(analysis, node, spec, letter, group, seen):
                    found[group].setdefault((site.value, site.axis, site.weight, site.window), site)
    for group in (g for g, there in enumerate(found) if not there):
        found[group] = {(site.value, site.axis): site for site in _last_carrier(analysis, group, seen)}
    return tuple(tuple(_informed(list(there.values()))) for there in found)


def _informed(found: list[Site]) -> list[Site]:
    """Sites with a weight say how much a unit matters; the others count only where there is no such site."""
    return [site for site in found if site.weight] or found


def _groups_of(analysis: Analysis, index: int, letter: str) -> list[int]:
    if (index, letter) not in analysis.solution.links.letters:
        return []
    units = analysis.unit[analysis.solution.links.letter(index, letter)]
    return np.unique(np.searchsorted(analysis.starts, units[units >= 0], "right") - 1).tolist()


def _sites_of(analysis: Analysis, node: Node, spec: Spec, letter: str, group: int, seen: set[str]) -> Iterator[Site]:
    """Yield a site per data operand that carries the letter, with the stored operand that reads it, if there is one."""
    mentions = [*zip(node.inputs, spec.inputs, strict=False), *spec.extra]
    placed = [(name, axis) for name, operand in mentions if name for axis in _axes(operand, letter)]
    stored = [(name, axis) for name, axis in placed if name in analysis.facts.constants]
    for name, axis in placed:
        if name in seen and name not in analysis.facts.constants:
            weight, weight_axis = stored[0] if stored else ("", 0)
            groups, window = _geometry(analysis, node, name, weight)
            yield Site(node, name, axis, unit_of(analysis, name, axis, group), weight, weight_axis, groups, window)


def _axes(operand: Operand, letter: str) -> list[int]:
    return [axis for axis, term in enumerate(operand or ()) if letter in term.letters]


def _geometry(analysis: Analysis, node: Node, value: str, weight: str) -> tuple[int, Window | None]:
    """Return (groups, window or None where channels alone are looked at) of a convolution; (1, None) of other nodes."""
    if node.op not in GROUPED or not weight:
        return 1, None
    groups = int(node.attribute("group", 1))
    shape, kernel = analysis.facts.shape(value) or (), (analysis.facts.shape(weight) or ())[2:]
    if node.op not in CONVOLUTIONS:
        return groups, None
    window = convolution_window(node, kernel, shape[2:])
    if window.is_point or shape[1] // groups * window.taps > UNFOLD_LIMIT:
        return groups, None
    return groups, window


def unit_of(analysis: Analysis, value: str, axis: int, group: int) -> np.ndarray:
    """Return int64[axis size]: the group's unit of each position of a value's axis, -1 where none."""
    units = analysis.unit[analysis.solution.links.axis(value, axis)]
    start, stop = analysis.starts[group], analysis.starts[group + 1]
    return np.where((units >= start) & (units < stop), units - start, -1)


def _last_carrier(analysis: Analysis, group: int, seen: set[str]) -> Iterator[Site]:
    """Yield the last value that carries the units where no node consumes them (they reach what cannot be observed)."""
    links, facts = analysis.solution.links, analysis.facts
    for node in reversed(facts.graph.top):
        for name in node.outputs:
            for axis in range(len(facts.shape(name) or ()) if name in seen else 0):
                if (name, axis) in links.axes and (units := unit_of(analysis, name, axis, group)).max(initial=-1) >= 0:
                    yield Site(None, name, axis, units)
                    return


def _moments(site: Site) -> Iterator[Need]:
    yield site.need("moments")


def _grams(site: Site) -> Iterator[Need]:
    yield site.gram or site.need("moments")


REQUESTS: dict[str, Callable[[Site], Iterator[Need]]] = {
    "moments": _moments,
    "gram": _grams,
    "range": lambda site: iter([site.need("range")]),
    "histogram": lambda site: iter([site.need("histogram")]),
    "ranks": lambda site: iter([site.need("ranks")]),
}
"""Kinds of evidence a criterion can ask for -> what that means at one site."""


def requested(analysis: Analysis, kinds: tuple[str, ...]) -> list[Need]:
    """Return what the named kinds of evidence ask for at every site of every group; unknown kinds ask for nothing."""
    chosen = [REQUESTS[kind] for kind in kinds if kind in REQUESTS]
    return [need for there in sites(analysis) for site in there for request in chosen for need in request(site)]
