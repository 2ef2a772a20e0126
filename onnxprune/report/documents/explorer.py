"""A report as node data of Google's Model Explorer: a number per node, laid over the graph of the original.

The format is that of its ``node_data_builder``: ``results`` by the name of a node, or of a value that it writes, each with a
``value`` and the colours of its box.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onnxprune.report.documents.graph.picture import look_of
from onnxprune.report.documents.tables import parts
from onnxprune.report.visible import visible_json

COLOURS = {"pruned": "#bcd6fb", "kept": "#e1e6eb", "frozen": "#f6d9b8", "gone": "#f3bdb9", "changed": "#e2cdf6"}
INK = "#1b2430"
GRADIENT = ({"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#7fb0f5"})


def render(report: Mapping[str, Any]) -> str:
    """Return how many percent of what it writes every node with weights keeps, coloured by what became of it."""
    graph, decided = _graph(report)
    results = {}
    for row in graph:
        if row["status"] is None:
            continue
        before, after = row["width_before"], row["width_after"]
        kept = 100 * after / before if before and after is not None else 0.0 if row["status"] == "removed" else 100.0
        colour = COLOURS.get(look_of(row, decided), COLOURS["changed"])
        results[row["node"]] = {"value": round(kept, 2), "bgColor": colour, "textColor": INK}
    return _dumped({"results": results})


def render_macs(report: Mapping[str, Any]) -> str:
    """Return the MACs that are left in every node that has any; of layers that hold others the sum is shown."""
    graph, _ = _graph(report)
    results = {row["node"]: {"value": row["macs_after"]} for row in graph if row["macs_before"]}
    return _dumped({"results": results, "gradient": list(GRADIENT)})


def _graph(report: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], bool]:
    """Return the nodes of the first job that has a graph, and whether anything was decided about them."""
    for _, part in parts(report):
        if part.get("graph"):
            return part["graph"]["nodes"], "after" in part
    return [], False


def _dumped(found: Mapping[str, Any]) -> str:
    return visible_json(json.dumps({"generator": "onnxprune"} | dict(found), indent=1, ensure_ascii=False) + "\n")
