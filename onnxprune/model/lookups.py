"""Operators that look rows of a stored table up by numbers: where they have the table and the numbers."""

from __future__ import annotations

from typing import NamedTuple

from onnxprune.model.graph import Node


class Lookup(NamedTuple):
    """``table``, ``ids``: numbers of the inputs (``ids`` None: rows are looked up by their place); ``axis``: the attribute that names the table's axis.

    ``beside``: inputs with a slice for every row of the table too. ``refuses``: whether ONNX Runtime ends a run whose numbers
    have no row.
    """

    table: int
    ids: int | None
    axis: str = ""
    beside: tuple[int, ...] = ()
    refuses: bool = True

    def axis_of(self, node: Node, rank: int) -> int:
        """Return the axis of the table that numbers count, of a table of so many axes."""
        return int(node.attribute(self.axis, 0)) % max(rank, 1) if self.axis else 0


LOOKUPS: dict[str, tuple[Lookup, ...]] = {
    "Gather": (Lookup(0, 1, "axis"),),
    "com.microsoft::GatherBlockQuantized": (Lookup(0, 1, "gather_axis", (2, 3), refuses=False),),
    "com.microsoft::EmbedLayerNormalization": (Lookup(2, 0), Lookup(3, 8), Lookup(4, 1)),
    "com.microsoft::QEmbedLayerNormalization": (Lookup(2, 0), Lookup(3, None), Lookup(4, 1)),
}
"""Sources: onnx.ai/onnx/operators (Gather), ContribOperators.md of ONNX Runtime."""
