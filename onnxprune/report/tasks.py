"""What is said of the task: how much of it is left, how that is known, and when nothing says that a model still works."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnxprune.measure.tasks.task import FOUND
from onnxprune.report.entries import ReportView

USUALLY_KILLS = 0.10
"""Share of the MACs or parameters that a choice by weights alone may remove before the report asks for data, see docs/tasks.md."""


def removed_share(before: Mapping[str, int], steps: Sequence[ReportView]) -> float:
    """Return the larger of the shares of MACs and parameters of the original that went in these steps."""
    gone = {key: sum(step["before"][key] - step["after"][key] for step in steps) for key in ("macs", "parameters")}
    return max((lost / before[key] for key, lost in gone.items() if before.get(key)), default=0.0)


def unjudged(before: Mapping[str, int], steps: Sequence[ReportView]) -> tuple[float | None, str]:
    """Return the share that went unseen by any data, and say that nothing says it still works; nothing where little went.

    ``steps``: those that take out what carries something; others leave the outputs what they were.
    """
    share = removed_share(before, steps)
    if share <= USUALLY_KILLS:
        return None, ""
    return share, (
        f"nothing says that this model still works: {share:.0%} of it went and no data was run, which usually kills; "
        "give --calib (real inputs, no labels needed), or at least --eval"
    )


def task_sentence(report: ReportView) -> str:
    """Say in a line how much of the task is left; empty where the report measured nothing."""
    agreement = (report.get("task") or {}).get("agreement")
    if "unjudged" in report and not report.get("drift"):
        return "" if report["unjudged"] else "task: not judged: no data was run"
    if agreement is None:
        unknown = (report.get("drift") or {}).get("task_unknown")
        return (
            f"task: not judged: {unknown}; --task says what the model is for"
            if unknown and not report.get("task")
            else ""
        )
    how = "found from the outputs" if agreement["found"] == FOUND else "as named"
    figure, rows = agreement["figure"], agreement["rows"]
    if agreement["score"] is None:
        return (
            f"task: {figure} not judged: none of {rows:,} rows shows anything to either model ({agreement['reason']})"
        )
    seen = (
        f"{rows:,} rows"
        if agreement["samples"] == rows
        else f"{agreement['samples']:,} of {rows:,} rows that show anything"
    )
    low, high = agreement["interval"]
    more = [f"{name} {part['score']:.2f}" for name, part in _notable(agreement["parts"])]
    found = agreement.get("perplexity")
    if found and found["ratio"] is not None:
        low_, high_ = ("?" if bound is None else f"{bound:.2f}" for bound in found["interval"])
        more.append(f"perplexity {found['ratio']:.2f} times as high ({low_} to {high_})")
    beside = f", {', '.join(more)}" if more else ""
    return f"task: {figure} {agreement['score']:.2f} ({low:.2f} to {high:.2f}) against the original{beside} ({seen}, {how})"


def _notable(parts: Mapping[str, ReportView]) -> Iterator[tuple[str, ReportView]]:
    """Yield the parts that are worth a word in a line: a second figure, or the outputs, where they are few."""
    known = [(name, part) for name, part in parts.items() if part["score"] is not None]
    few = [(name, part) for name, part in known if not name.startswith("class ")]
    yield from few if len(few) <= MOST_PARTS else ()


MOST_PARTS = 3


def task_rows(report: ReportView) -> Iterator[tuple[str, ...]]:
    """Yield (part, score, of how much) of the task's agreement, the worst first."""
    parts = ((report.get("task") or {}).get("agreement") or {}).get("parts") or {}
    for name, part in sorted(parts.items(), key=lambda entry: (entry[1]["score"] is None, entry[1]["score"] or 0.0)):
        yield name, "-" if part["score"] is None else f"{part['score']:.3f}", f"{part['of']:,.0f}"


PARTS = ("part of the task", "agrees with the original", "of")
