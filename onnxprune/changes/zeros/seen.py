"""What layers read, as second moments over calibration data, as far as it can be seen without cutting anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.coupling.groups import Analysis
from onnxprune.evidence import Need, gather
from onnxprune.evidence.probe import observable
from onnxprune.evidence.sites import GRAM_LIMIT
from onnxprune.model.read import FLOATS
from onnxprune.repair.linear import Linear

MOST_SAMPLES = 128
HELD = 256 << 20  # bytes of second moments at a time


def moments_read(
    layers: Sequence[WeightLayer], analysis: Analysis, context: Context
) -> Iterator[tuple[WeightLayer, Any]]:
    """Yield the moments (float64[groups, d, d]) of what each layer reads, for those whose inputs are seen; so many at a time as memory has room."""
    data, visible = context.data.calibration, observable(analysis.facts)
    assert data is not None
    needs = {layer: need for layer in layers if (need := _need(layer, analysis, visible)) is not None}
    waiting = list(needs)
    while waiting:
        some, size = list[WeightLayer](), 0
        while waiting and (not some or size + 8 * waiting[0].shape[2] ** 2 <= HELD):
            some.append(waiting.pop(0))
            size += 8 * some[-1].shape[2] ** 2
        rows = data.take(MOST_SAMPLES, context.settings.seed)
        evidence = gather(analysis.facts, rows, [needs[layer] for layer in some], context.means.quiet)
        for layer in some:
            yield layer, evidence[needs[layer]]


def _need(layer: WeightLayer, analysis: Analysis, visible: frozenset[str] | set[str]) -> Need | None:
    linear, facts = layer.linear, analysis.facts
    if not isinstance(linear, Linear) or linear.operands.reads is not None or layer.shape[2] > GRAM_LIMIT:
        return None
    known = linear.source in visible or linear.source in facts.graph.inputs
    if not known or facts.dtype(linear.source) not in FLOATS:
        return None
    axis = linear.reads % len(facts.shape(linear.source) or ())
    window = None if linear.by_position else linear.window
    return Need("gram", linear.source, axis, linear.groups, window)
