"""What a report says of the experts of mixtures: rows for people."""

from __future__ import annotations

from onnxprune.report.entries import ReportView

EXPERT_COLUMNS = ("experts of", "expert", "routing", "parameters", "status")


def expert_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per expert, and per mixture of which none can go."""
    rows = list[tuple[str, ...]]()
    for row in report.get("experts") or ():
        number = f"all {row['experts']}" if row["expert"] is None else f"{row['expert']} of {row['experts']}"
        routing = "-" if row["routing"] is None else f"{row['routing']:.2%}"
        parameters = "-" if row["parameters"] is None else f"{row['parameters']:,}"
        rows.append((row["layer"], number, routing, parameters, row["reason"] or row["status"]))
    return rows
