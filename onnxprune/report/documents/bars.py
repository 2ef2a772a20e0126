"""Rows with bars: what is left of every layer, each in its own scale, and of how many MACs; how far every tensor moved."""

from __future__ import annotations

from typing import NamedTuple

from onnxprune.report.documents.graph.picture import counted, look_of, share_left, short
from onnxprune.report.entries import ReportView
from onnxprune.report.visible import visible


class Meter(NamedTuple):
    """A share of a bar that is full (``now``), the share that was (``was``), and what stands beside it."""

    now: float
    was: float
    text: str


class MeterRow(NamedTuple):
    """A row of bars; ``title``: the whole name."""

    name: str
    kind: str
    look: str
    title: str
    bars: tuple[Meter, ...]


class MeterTable(NamedTuple):
    """Rows of bars below a head."""

    title: str
    head: tuple[str, ...]
    rows: tuple[MeterRow, ...]

    def first(self, count: int) -> tuple[tuple[MeterRow, ...], int]:
        """Return at most ``count`` rows and how many were left out."""
        return self.rows[:count], max(0, len(self.rows) - count)


def bar_tables(report: ReportView) -> list[MeterTable]:
    """Return the tables of bars that a report gives rise to."""
    return [table for table in (_layers(report), _tensors(report)) if table.rows]


def _layers(report: ReportView) -> MeterTable:
    """Return a row per node with weights, in the order of the graph, named by the node that writes."""
    rows = [row for row in (report.get("graph") or {}).get("nodes", ()) if row["status"] is not None]
    decided, most = "after" in report, max((row["macs_before"] for row in rows), default=0) or 1
    found = []
    for row in rows:
        look = look_of(row, decided)
        share = share_left(row)
        before, after = row["width_before"], row["width_after"]
        if share is None:
            told = {"pruned": "inputs cut" if decided else "its inputs"}.get(look, row["status"])
            width = Meter(1.0, 1.0, told)
        else:
            width = Meter(share, 1.0, f"{after} of {before}" if decided else str(before))
        macs = counted(row["macs_before"])
        left = f"{counted(row['macs_after'])} of {macs}" if row["macs_after"] != row["macs_before"] else macs
        cost = Meter(row["macs_after"] / most, row["macs_before"] / most, left)
        title = visible(row["node"]) + (f": {visible(row['reason'])}" if row["reason"] else "")
        found.append(MeterRow(short(row), row["op"], look, title, (width, cost)))
    kept = "kept" if decided else "width"
    return MeterTable("Layers in the order of the graph", ("node", kept, "MACs"), tuple(found))


def _tensors(report: ReportView) -> MeterTable:
    """Return a row per tensor inside that was compared; those that are equal have no bar's worth of difference."""
    rows = (report.get("layers") or {}).get("tensors", ())
    most = max((row["sqnr_db"] for row in rows if row["sqnr_db"] is not None), default=0.0) or 1.0
    found = []
    for row in rows:
        decibels = row["sqnr_db"]
        share = 1.0 if decibels is None else min(max(decibels / most, 0.0), 1.0)
        text = "equal" if decibels is None else f"{decibels:.1f} dB"
        found.append(
            MeterRow(visible(row["name"]), row["op"], "pruned", visible(row["name"]), (Meter(share, 1.0, text),))
        )
    return MeterTable("Divergence per tensor", ("tensor", "SQNR, higher is closer"), tuple(found))
