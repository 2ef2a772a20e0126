"""A copy of a model in which every consumer of a unit reads it through a node of its own.

The gradient at such a tap is what reaches the unit through that one consumer, not through others that read the same value. For a
consumer with a weight, sum(h * dL/dh) per input channel is sum(W * dL/dW) over the weights that read the channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, helper

from onnxprune.coupling.groups import Analysis
from onnxprune.evidence.sites import GROUPED, Site, sites
from onnxprune.model.graph import Names, Node
from onnxprune.model.read import FLOATS, Model

PRODUCTS = ("Gemm", "MatMul")
"""Operators whose output has the rows of the weight on its last axis, or where the weight comes first on the one before."""


@dataclass(frozen=True, eq=False)
class Tap:
    """``value``: holds what the site reads; ``output``, ``output_axis``: what its weight makes of it ("": no such weight)."""

    site: Site
    value: str
    output: str = ""
    output_axis: int = 0


@dataclass(frozen=True)
class Tapped:
    """``model``: the copy; ``taps``: per group, one for each site whose gradient can be asked for."""

    model: Model
    taps: tuple[tuple[Tap, ...], ...]


def tapped(analysis: Analysis) -> Tapped:
    """Return the model with a tap at every site on a float value that a node of the main graph reads."""
    facts = analysis.facts
    proto = facts.model.draft()
    place = {node: index for index, node in enumerate(facts.graph.top)}
    names: dict[tuple[Node | None, str], str] = {}
    free = Names(proto.graph)
    taps = []
    for there in sites(analysis):
        usable = [s for s in there if facts.dtype(s.value) in FLOATS and can_be_tapped(s, place)]
        for site in usable:
            key = (site.node, site.value)
            if key not in names:
                names[key] = site.value if site.node is None else free.fresh(f"{site.value}:tap")
        taps.append(tuple(Tap(s, names[s.node, s.value], *_output(analysis, s)) for s in usable))
    put_before(
        proto,
        {
            (place[node], value): [helper.make_node("Identity", [value], [tap], name=tap)]
            for (node, value), tap in names.items()
            if node is not None
        },
    )
    return Tapped(facts.model.derived(proto), tuple(taps))


def can_be_tapped(site: Site, place: dict[Node, int]) -> bool:
    """Whether the site's node reads the value as an input: what a recurrent layer feeds back to itself is none."""
    return site.node is None or (site.node in place and site.value in site.node.inputs)


def put_before(proto: ModelProto, through: Mapping[tuple[int, str], Sequence[NodeProto]]) -> None:
    """Put nodes in front of the node at each place, which then reads the value as the last of them gives it."""
    nodes: list[NodeProto] = []
    at: dict[int, dict[str, str]] = defaultdict(dict)
    for (place, value), own in through.items():
        at[place][value] = own[-1].output[0]
    for index, node in enumerate(proto.graph.node):
        nodes.extend(fresh for value in at[index] for fresh in through[index, value])
        node.input[:] = [at[index].get(name, name) for name in node.input]
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def _output(analysis: Analysis, site: Site) -> tuple[str, int]:
    """Return the output of a site's node and its channel axis, where these are the rows of the weight that reads the site."""
    facts = analysis.facts
    if site.node is None or not site.weight or facts.dtype(site.node.outputs[0]) not in FLOATS:
        return "", 0
    weight, shape = facts.shape(site.weight) or (), facts.shape(site.node.outputs[0]) or ()
    if site.node.op in GROUPED:
        return site.node.outputs[0], 1
    if len(weight) != 2 or weight[site.weight_axis] != len(site.units) or len(shape) < 2:
        return "", 0
    if site.node.op in PRODUCTS:
        return site.node.outputs[0], len(shape) - (2 if site.node.inputs[0] == site.weight else 1)
    axes = _written(analysis, site.node, site.weight, 1 - site.weight_axis)
    return (site.node.outputs[0], axes[0]) if len(axes) == 1 else ("", 0)


def _written(analysis: Analysis, node: Node, weight: str, axis: int) -> list[int]:
    """Return the axes of a node's output that are an axis of its weight, by its signature."""
    spec = next(spec for own, spec in analysis.solution.links.specs if own is node)
    operand, result = spec.inputs[node.inputs.index(weight)] or (), spec.outputs[0] or ()
    letters = operand[axis].letters if axis < len(operand) else ()
    return [place for place, term in enumerate(result) if letters and term.letters == letters]
