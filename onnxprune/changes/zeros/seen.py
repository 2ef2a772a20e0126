"""What layers read, as second moments over calibration data, as far as it can be seen without cutting anything."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.coupling.groups import Analysis
from onnxprune.evidence import Need, gather
from onnxprune.evidence.probe import observable
from onnxprune.evidence.rows import taps_first
from onnxprune.evidence.sites import GRAM_LIMIT
from onnxprune.evidence.stats import Gram
from onnxprune.model.read import FLOATS
from onnxprune.repair.linear import Linear
from onnxprune.repair.maps import LinearMap

MOST_SAMPLES = 128
HELD = 256 << 20  # bytes of second moments at a time


def moments_read(
    layers: Sequence[WeightLayer], analysis: Analysis, context: Context, *, centred: bool = False
) -> Iterator[tuple[WeightLayer, np.ndarray]]:
    """Yield float64[groups, d, d], taps as in ``matrix``, of what the nodes of each layer read together, for layers whose inputs are seen.

    So many layers at a time as memory has room. ``centred``: around the means, where the layer has a bias to make up for these.
    """
    visible = frozenset(observable(analysis.facts))
    needs = {layer: found for layer in layers if (found := _needs(layer, analysis, visible))}
    waiting, sums = [(layer, need) for layer, own in needs.items() for need in own], dict[WeightLayer, Gram]()
    while waiting:
        some = _some(waiting)
        seen = _gathered(some, analysis, context)
        for layer, need in some:
            waiting.remove((layer, need))
            sums.setdefault(layer, Gram()).merge(seen[need])
        done = [layer for layer in sums if all(layer is not other for other, _ in waiting)]
        for layer in done:
            read = sums.pop(layer)
            around = centred and layer.linear is not None and layer.linear.bias
            yield layer, taps_first(read.covariance if around else read.second_moment, layer.block.taps)


def _gathered(some: Sequence[tuple[WeightLayer, Need]], analysis: Analysis, context: Context) -> Mapping[Need, Gram]:
    data = context.data.calibration
    assert data is not None
    rows = data.take(MOST_SAMPLES, context.settings.seed)
    needs = [need for _, need in some]
    seen = gather(analysis.facts, rows, needs, context.means.quiet)
    return {need: seen[need] for need in needs}


def _some(waiting: Sequence[tuple[WeightLayer, Need]]) -> list[tuple[WeightLayer, Need]]:
    """Return the first ones whose moments fit into memory together, one at least."""
    some, size = list[tuple[WeightLayer, Need]](), 0
    for layer, need in waiting:
        size += 8 * layer.shape[2] ** 2
        if some and size > HELD:
            break
        some.append((layer, need))
    return some


def _needs(layer: WeightLayer, analysis: Analysis, visible: Collection[str]) -> list[Need]:
    """Return what each node of a layer reads; nothing where one of them is not seen, or the moments would be too large."""
    maps = layer.shared or ((layer.linear,) if layer.linear is not None else ())
    found = [_need(one, layer, analysis, visible) for one in maps]
    return [need for need in found if need is not None] if all(found) else []


def _need(linear: LinearMap, layer: WeightLayer, analysis: Analysis, visible: Collection[str]) -> Need | None:
    facts = analysis.facts
    if not isinstance(linear, Linear) or linear.operands.reads is not None or layer.shape[2] > GRAM_LIMIT:
        return None
    known = linear.source in visible or linear.source in facts.graph.inputs
    if not known or facts.dtype(linear.source) not in FLOATS:
        return None
    axis = linear.reads % len(facts.shape(linear.source) or ())
    window = None if linear.by_position else linear.window
    return Need("gram", linear.source, axis, linear.groups, window)
