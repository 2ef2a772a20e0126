"""What a model costs without some of its branches."""

from __future__ import annotations

from collections.abc import Collection

from onnxprune.coupling.blocks import Block, Flow
from onnxprune.coupling.groups import Analysis


class BlockCosts:
    """Totals by the values that are still needed: parameters, macs (of one run), weight_bytes, bytes, channels."""

    def __init__(self, analysis: Analysis, flow: Flow):
        widths, stored = analysis.widths, analysis.facts.graph.tensors
        self.flow = flow
        self._macs = [(flow.place[id(v.node)], v.at(widths)) for v in analysis.macs]
        self._parameters = [(v.name, v.at(widths), v.itemsize * (v.name in stored)) for v in analysis.parameters]
        self._channels = [(g.writer.parameter, g.width * g.multiplicity) for g in analysis.groups]
        self._overhead = analysis.facts.model.size - sum(size * item for _, size, item in self._parameters)

    def totals(self, removed: Collection[Block] = ()) -> dict[str, int]:
        """Return all totals without the branches ``removed``."""
        needed = self.flow.needed(removed)
        runs = [not needed.isdisjoint(node.outputs) for node in self.flow.top]
        weight_bytes = sum(size * item for name, size, item in self._parameters if name in needed)
        return {
            "parameters": sum(size for name, size, _ in self._parameters if name in needed),
            "macs": sum(macs for place, macs in self._macs if runs[place]),
            "weight_bytes": round(weight_bytes),
            "bytes": round(weight_bytes + self._overhead),
            "channels": sum(width for name, width in self._channels if name in needed),
        }

    def saved(self, block: Block) -> dict[str, int]:
        """Return what goes with one branch alone."""
        before, after = self.totals(), self.totals([block])
        return {kind: before[kind] - after[kind] for kind in before}
