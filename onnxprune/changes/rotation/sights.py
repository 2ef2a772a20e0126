"""Where the channels of heads can be seen: values that have them along one axis, laid out so beside the model where none does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.changes.analysing import facts_of
from onnxprune.changes.context import Context
from onnxprune.coupling.heads.spaces import HeadBlock, Heads, Holders
from onnxprune.coupling.heads.tracing import HiddenValue
from onnxprune.evidence import Cache, gather
from onnxprune.evidence.needs import Need
from onnxprune.evidence.probe import observable
from onnxprune.model.graph import Graph, Names
from onnxprune.model.model import Model
from onnxprune.model.read import FLOATS


@dataclass(frozen=True, eq=False)
class ChannelSight:
    """A value, the axes along which it has channels, and these: int64, a dimension for each; or a value inside of an operator."""

    value: str
    axes: tuple[int, ...]
    labels: np.ndarray
    hidden: HiddenValue | None = None


def block_moments(
    heads: Heads, blocks: Sequence[HeadBlock], context: Context
) -> Mapping[tuple[HeadBlock, bool], np.ndarray]:
    """Return (block, side) -> float64[width, width]: second moments on the calibration rows, summed up over heads that share a basis.

    Layers that share weights share bases as well: what all of them show counts.
    """
    if context.data.calibration is None:
        return {}
    chosen = _chosen(heads, blocks)
    whole = _second_moments(heads, list(dict.fromkeys(sight for own in chosen.values() for sight, _ in own)), context)
    return {
        key: np.sum([whole[sight][np.ix_(copy, copy)] for sight, places in own for copy in places], axis=0)
        for key, own in chosen.items()
    }


def _chosen(
    heads: Heads, blocks: Sequence[HeadBlock]
) -> Mapping[tuple[HeadBlock, bool], list[tuple[ChannelSight, np.ndarray]]]:
    """Return (block, side) -> where it is seen best, and where: int64[copies, width]; at every layer that has the same weights there."""
    every = list(_sights(heads))
    holders = Holders(heads.root, [sight.labels for sight in every])
    chosen: dict[tuple[HeadBlock, bool], list[tuple[ChannelSight, np.ndarray]]] = {}
    for block in blocks:
        for sight in (every[number] for number in holders.of(block)):
            for side, places in heads.places(sight.labels, block).items():
                known = chosen.setdefault((block, side), [])
                if not known or (_stored_beside(heads, sight) or {""}) == _stored_beside(heads, known[0][0]):
                    known.append((sight, places))
    return chosen


def _stored_beside(heads: Heads, sight: ChannelSight) -> set[str]:
    """Return the weights between which a value stands."""
    if sight.hidden is not None:
        return {sight.hidden.weight, sight.hidden.bias} - {""}
    graph = heads.links.facts.graph
    nodes = [graph.producer[sight.value], *(node for node, _ in graph.consumers.get(sight.value, ()))]
    return {name for node in nodes for name in map(heads.trace.origin, node.inputs) if name in heads.stored}


def _second_moments(heads: Heads, used: Sequence[ChannelSight], context: Context) -> Mapping[ChannelSight, np.ndarray]:
    """Return sight -> float64[channels, channels]."""
    data = context.data
    if data.calibration is None or not used:
        return {}
    beside = _Beside(heads.links.facts.model)
    needs = {sight: Need("gram", *beside.along_one_axis(sight, heads)) for sight in used}
    facts = facts_of(beside.made(), context.settings)
    cache = None if data.cache is None else Cache(data.cache)
    with context.stages("evidence"):
        seen = gather(facts, data.calibration, list(needs.values()), context.means.quiet, cache=cache)
    context.notes.warn(*seen.warnings)
    return {sight: seen[need].second_moment[0] for sight, need in needs.items()}


def _sights(heads: Heads) -> Iterator[ChannelSight]:
    """Yield where channels can be seen: what operators hide first, then the last values, those with one axis of channels before others."""
    facts, trace = heads.links.facts, heads.trace
    visible = observable(facts)
    yield from (ChannelSight(own.data, (), own.labels, own) for own in trace.hidden)
    split = []
    for value, sets in reversed(trace.labels.items()):
        for labels in sets:
            axes = tuple(axis for axis, size in enumerate(labels.shape) if size > 1)
            fixed = all(facts.static(value, axis) for axis in axes)
            if axes and fixed and value in visible and facts.dtype(value) in FLOATS:
                sight = ChannelSight(value, axes, labels)
                if len(axes) == 1:
                    yield sight
                else:
                    split.append(sight)
    yield from split


class _Beside:
    """Adds nodes to a model that lay values out with all channels along the last axis."""

    def __init__(self, model: Model):
        self.model, self.graph = model, Graph(model.draft())
        self.names = Names(self.graph.model.graph)

    def made(self) -> Model:
        return self.model.derived(self.graph.model)

    def along_one_axis(self, sight: ChannelSight, heads: Heads) -> tuple[str, int]:
        """Return a value and its axis of channels, added where there is none yet."""
        if sight.hidden is not None:
            return self._shown(sight.hidden, heads)
        if len(sight.axes) == 1:
            return sight.value, sight.axes[0]
        rank = sight.labels.ndim
        rest = [axis for axis in range(rank) if axis not in sight.axes]
        moved = self._node("Transpose", [sight.value], perm=[*rest, *sight.axes])
        sizes = self._tensor(np.array([0] * len(rest) + [-1], np.int64))
        return self._node("Reshape", [moved, sizes]), len(rest)

    def _shown(self, hidden: HiddenValue, heads: Heads) -> tuple[str, int]:
        facts, value = heads.links.facts, hidden.data
        for op, name in (("MatMul", hidden.weight), ("Add", hidden.bias)):
            if name:
                part = np.ascontiguousarray(facts.content(name)[..., hidden.columns])
                value = self._node(op, [value, self._tensor(part)])
        return value, len(facts.shape(hidden.data) or ()) - 1

    def _node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        result = self.names.fresh(f"{inputs[0]}_seen")
        self.graph.model.graph.node.append(helper.make_node(op, inputs, [result], **attributes))
        return result

    def _tensor(self, array: np.ndarray) -> str:
        name = self.names.fresh("seen")
        self.graph.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name
