"""Where the units of a group are consumed: the value that carries them there and the weight that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.readers import UnitReader, once, unit_of, unit_readers
from onnxprune.evidence.needs import Need, Window, convolution_window
from onnxprune.evidence.probe import observable
from onnxprune.model.graph import Node

UNFOLD_LIMIT = 1152  # inputs per group of a convolution: beyond, its taps share one second moment per channel pair
GRAM_LIMIT = 4096  # inputs per group: beyond, only per-channel moments are kept
CONVOLUTIONS = frozenset(
    {
        *("Conv", "com.microsoft::FusedConv", "com.microsoft::NhwcFusedConv"),
        *("ConvInteger", "QLinearConv", "com.microsoft::QLinearConv"),
    }
)
QUANTISE = frozenset({"QuantizeLinear", "com.microsoft::QuantizeLinear", "DynamicQuantizeLinear"})
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


@once
def sites(analysis: Analysis) -> tuple[tuple[Site, ...], ...]:
    """Return the sites of each group in the order of the nodes; where nothing consumes it, its last carrier."""
    seen = observable(analysis.facts)
    found: list[dict[tuple, Site]] = [{} for _ in analysis.groups]
    for there, of_group in zip(found, unit_readers(analysis), strict=True):
        for site in (site for reader in of_group for site in _sites_of(analysis, reader, seen)):
            there.setdefault((site.value, site.axis, site.weight, site.window), site)
    for group in (g for g, there in enumerate(found) if not there):
        found[group] = {(site.value, site.axis): site for site in _last_carrier(analysis, group, seen)}
    return tuple(tuple(_informed(list(there.values()))) for there in found)


def _informed(found: list[Site]) -> list[Site]:
    """Sites with a weight say how much a unit matters; the others count only where there is no such site."""
    return [site for site in found if site.weight] or found


def _sites_of(analysis: Analysis, reader: UnitReader, seen: set[str]) -> Iterator[Site]:
    """Yield a site per data operand that carries the units, with the stored operand that reads it, if there is one."""
    node, constants = reader.node, analysis.facts.constants
    weight, weight_axis = next((place for place in reader.places if place[0] in constants), ("", 0))
    for name, axis in reader.places:
        if name in seen and name not in constants:
            groups, window = _geometry(analysis, node, name, weight)
            units = unit_of(analysis, name, axis, reader.group)
            yield Site(node, _before_steps(analysis, name, seen), axis, units, weight, weight_axis, groups, window)


def _before_steps(analysis: Analysis, value: str, seen: set[str]) -> str:
    """Return the floats that the integers of a value were made of; the value itself where these are no integers, or nobody sees them."""
    maker = analysis.facts.graph.producer.get(value)
    if maker is None or maker.op not in QUANTISE or value != maker.outputs[0] or maker.inputs[0] not in seen:
        return value
    return maker.inputs[0]


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
