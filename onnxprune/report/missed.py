"""What to try where a result is too far from the original for a gate."""

from __future__ import annotations

from onnxprune.report.entries import ReportView
from onnxprune.report.gates import QUALITY


def way_on(report: ReportView) -> str:
    """Say what to try where a gate of the outputs was missed; empty where none was."""
    if not any(gate["name"] in QUALITY and not gate["passed"] for gate in report.get("gates", ())):
        return ""
    judged = (report.get("drift") or {}).get("rows")
    if "repair" not in report and judged == "evaluation" and report["settings"].get("repair") != "none":
        return "too far from the original: nothing was repaired, since no data decides; give --calib (real inputs, no labels needed)"
    return (
        "too far from the original: take a smaller --ratio or give more rows, train what is left (--recover 5m), "
        "or let 'onnxprune sweep' with the same data and --max-drop find how much may go"
    )
