"""What a report says of latency: the factor that can be believed, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPEN = "too noisy to say"
"""In place of a factor of which nothing can be concluded."""


def believed_ratio(report: Mapping[str, Any]) -> float | None:
    """Return after / before by the clock that is believed; None where nothing can be concluded, or nothing was measured.

    Reports of earlier versions have a ratio of wall times, conclusive or not.
    """
    latency = report.get("latency") or {}
    return (
        latency["ratio"]
        if "ratio" in latency
        else latency.get("ratio_p10")
        if latency.get("conclusive", True)
        else None
    )


def latency_doubt(report: Mapping[str, Any]) -> str:
    """Say why two models were measured and there is no factor; empty where there is one, and where two were not measured."""
    latency = report.get("latency") or {}
    if not latency.get("after") or believed_ratio(report) is not None:
        return ""
    believed = latency.get("cpu") or latency
    return "; ".join(believed["reasons"])


def way_out(report: Mapping[str, Any]) -> str:
    """Say what to do where there is no factor."""
    alone = (report.get("latency") or {}).get("threads") == 1
    return (
        "run again on a quieter machine"
        if alone
        else "run with --threads 1, where CPU time tells, or on a quieter machine"
    )


def latency_rows(report: Mapping[str, Any]) -> list[tuple[str, float, float, bool]]:
    """Return (what, before, after, whether a factor can be taken from them) of the 10th percentiles in microseconds."""
    latency = report.get("latency") or {}
    if not latency.get("after"):
        return []
    threads, cpu = latency["threads"], latency.get("cpu")
    of = f"mean of {latency['rows']} samples" if "rows" in latency else "p10"
    what = f"µs, {threads} thread{'s' * (threads > 1)}"
    rows = [(f"latency {of} ({what})", latency, latency["conclusive"])]
    if cpu:
        rows.append((f"CPU time {of} (µs)", cpu, cpu["conclusive"]))
    return [(title, found["before"]["p10"], found["after"]["p10"], told) for title, found, told in rows]
