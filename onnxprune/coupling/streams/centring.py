"""Streams of layer norms without their mean: taken out of what writes them, so that a layer norm is an RMS norm.

Every layer norm takes the mean of its stream away. Where all that writes a stream is linear in stored weights, these can give
results without a mean, and no output changes (Ashkboos et al. 2024, SliceGPT, section 3.1). A cut of such a stream is exact with
a norm that runtimes fuse, where that of any other is spelled out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from onnxprune.coupling.absorb import absorbed
from onnxprune.coupling.beside import splice_in
from onnxprune.coupling.edits import KeptPositions
from onnxprune.coupling.groups import Analysis, groups_on
from onnxprune.coupling.links import Links
from onnxprune.coupling.readers import once
from onnxprune.coupling.spec import RULES, View
from onnxprune.coupling.streams.residual import ROOT, ResidualStream, mean_free, streams
from onnxprune.model.facts import Fact, Facts
from onnxprune.model.graph import Graph, Names
from onnxprune.model.model import Model
from onnxprune.model.surgeon import Splicer

CONTENTLESS = frozenset({"Shape", "Size"})
"""Operators that read no content."""


@dataclass(frozen=True, eq=False)
class NormedStream:
    """A stream of layer norms, and the groups, by number, whose units are positions of it."""

    stream: ResidualStream
    groups: frozenset[int]


@once
def normed_streams(analysis: Analysis) -> tuple[NormedStream, ...]:
    """Return the streams that have a norm which takes a mean away, in the order of the nodes."""
    links, found = analysis.solution.links, list[NormedStream]()
    for stream in streams(links):
        units = [analysis.unit[links.axis(value, axis)] for value, axis in stream.places]
        groups = frozenset(group for own in units for group in groups_on(own, analysis.starts))
        if any(norm.kind != ROOT for norm in stream.norms.values()):
            found.append(NormedStream(stream, groups))
    return tuple(found)


def centrable_streams(analysis: Analysis) -> tuple[NormedStream, ...]:
    """Return the streams that can lose units, and whose writers can be rid of their mean."""
    return tuple(one for one in normed_streams(analysis) if one.groups and not one.stream.not_centrable)


def with_other_weights(facts: Facts, model: Model, names: Iterable[str]) -> Facts:
    """Return the facts of a model in which these stored tensors hold something else: nothing computed of them is followed by value."""
    changed = set(names)
    for node in facts.graph.nodes:
        if node.op not in CONTENTLESS and not changed.isdisjoint(node.inputs):
            changed.update(node.outputs)

    def unknown(values: Mapping[str, Fact]) -> dict[str, Fact]:
        return {name: fact._replace(array=None) if name in changed else fact for name, fact in values.items()}

    first = unknown(facts.first)
    second = first if facts.second is facts.first else unknown(facts.second)
    return replace(facts, model=model, first=first, second=second)


def centred(analysis: Analysis, groups: Collection[int]) -> Analysis:
    """Return the analysis of the model in which the streams that these groups are in have mean zero; units and groups are the same."""
    chosen = [one.stream for one in centrable_streams(analysis) if not one.groups.isdisjoint(groups)]
    if not chosen:
        return analysis
    writers = {name: axis for stream in chosen for name, axis in stream.writers.items()}
    facts = analysis.facts
    model = facts.model.replaced({name: mean_free(facts.content(name), axis) for name, axis in writers.items()})
    norms = frozenset(result for stream in chosen for result in stream.norms)
    fresh = replace(with_other_weights(facts, model, writers), mean_free=norms)
    links = replace(analysis.solution.links, facts=fresh)
    return replace(analysis, facts=fresh, solution=replace(analysis.solution, links=links))


def with_root_mean_squares(links: Links) -> Model:
    """Return the model in which every layer norm of what has mean zero is an RMS norm, spelled out as runtimes fuse it."""
    facts = links.facts
    graph = Graph(facts.model.draft())
    splicer = Splicer(graph, Names(graph.model.graph))
    for (original, spec), node in zip(links.specs, list(graph.nodes), strict=True):
        rewrite = RULES[original.op].rewrite if original.op in RULES else None
        if rewrite is None or not spec.statistics or original.outputs[0] not in facts.mean_free:
            continue
        splice_in(
            rewrite(View(original, facts), KeptPositions(_everything, spec.sizes.__getitem__)),
            node,
            facts.dtype(original.outputs[0]),
            splicer,
        )
    splicer.carry_out()
    return absorbed(facts.model.derived(graph.model))


def _everything(value: str, axis: int) -> None:
    """Say of every axis that it stays whole."""
