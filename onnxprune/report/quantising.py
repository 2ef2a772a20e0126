"""What a report says of a model that was quantised in the end: rows for people, and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from onnxprune.report.entries import ReportView, some

FORMS_OF_MODEL = ("", "before", "pruned", "quantised")
RECIPES_TRIED = ("recipe", "distance from float", "task", "")
WEIGHING_NODES = ("node", "operator", "bytes of weights", "status")


def form_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return what the original, the float model that was quantised and the result have: bytes, latency, how near they are."""
    found = report.get("quantisation")
    if not found or "float" not in found:
        return []
    floats, rows = found["float"], list[tuple[str, ...]]()
    sizes = report["before"]["bytes"], floats["bytes"], report["after"]["bytes"]
    rows.append(("bytes", *(f"{size:,}" for size in sizes)))
    rows += _latencies(report, found)
    for name, drift in ((report.get("drift") or {}).get("outputs") or {}).items():
        own = ((floats["drift"] or {}).get("outputs") or {}).get(name) or {}
        both = (own.get("cosine"), drift.get("cosine"))
        if None not in both:
            rows.append((f"cosine of {name}", "1", *(f"{value:.4f}" for value in both)))
    task, own = report.get("task") or {}, floats["task"] or {}
    if None not in (task.get("before"), task.get("after"), own.get("after")):
        rows.append((task["metric"], *(f"{value:.2%}" for value in (task["before"], own["after"], task["after"]))))
    return rows


def _latencies(report: ReportView, found: ReportView) -> Iterator[tuple[str, ...]]:
    """Yield the medians of both measurements: original and result in turns, float model and result in turns."""
    whole, last = report.get("latency"), found["latency"]
    if not whole or not last:
        return
    for key, title in (("cpu", "CPU time p50 (µs)"), ("", "latency p50 (µs)")):
        one, two = (taken.get(key) if key else taken for taken in (whole, last))
        if one and two:
            yield title, *(f"{each['p50']:,.0f}" for each in (one["before"], two["before"], one["after"]))


def recipe_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per recipe that was tried."""
    return [
        (
            row["recipe"],
            "-" if row["cost"] is None else f"{row['cost']:.3g}",
            "-" if row["score"] is None else f"{row['score']:.2%}",
            "chosen" if row["chosen"] else row["reason"] or "",
        )
        for row in (report.get("quantisation") or {}).get("candidates", ())
    ]


def weighing_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per node with weights, those that stay float first."""
    rows = sorted(report.get("quantised") or (), key=lambda row: row["status"] == "quantised")
    return [(row["name"], row["op"], f"{row['bytes']:,}", row["reason"] or row["status"]) for row in rows]


def quantised_sentences(report: ReportView) -> list[str]:
    """Say by which recipe, what of the model stays float, and what was proven of it; nothing where it was not quantised."""
    found, nodes = report.get("quantisation"), report.get("quantised") or ()
    if not found:
        return []
    done = sum(row["status"] == "quantised" for row in nodes)
    judged = sum(row["divergence"] is not None for row in found["candidates"])
    by = f", the best of {judged} recipes on {found['rows']['judged']} rows held out" if found["rows"]["judged"] else ""
    told = [f"quantised ({found['mode']}): {done} of {len(nodes)} nodes with weights; {found['recipe']}{by}"]
    reasons = Counter(row["reason"] for row in nodes if row["reason"])
    if reasons:
        told.append("stay float: " + "; ".join(f"{count} ({reason})" for reason, count in reasons.most_common(3)))
    if found["float_operators"]:
        names = [f"{count} {op}" for op, count in found["float_operators"].items()]
        told.append(f"computed in float: {some(names, 8)}")
    told.append(
        "the proof is of the float model, before numbers were rounded; drift, gates and latency are of the quantised one"
    )
    return told
