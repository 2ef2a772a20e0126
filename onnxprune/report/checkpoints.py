"""A sliced checkpoint in words: which tensors were told how, and what became of them."""

from __future__ import annotations

from collections import Counter

from onnxprune.report.entries import ReportView

SLICED_TENSORS = ("tensor", "status", "before", "after", "told by", "is")


def slicing_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per tensor of the checkpoint, those that change first."""
    order = {"sliced": 0, "dropped": 1, "copied": 2}
    rows = sorted(report.get("sliced") or (), key=lambda row: order[row["status"]])
    return [
        (
            row["name"],
            row["status"],
            _sizes(row["shape_before"]),
            "-" if row["shape_after"] is None else _sizes(row["shape_after"]),
            row["how"] or row["reason"],
            row["tensor"] or "-",
        )
        for row in rows
    ]


def slicing_sentences(report: ReportView) -> list[str]:
    """Say how many tensors were told how, and what became of them."""
    tensors = report["sliced"]
    status = Counter(row["status"] for row in tensors)
    how = Counter((row["how"] or "not told").split(" ")[0].strip(",") for row in tensors)
    told = ", ".join(f"{count} {word}" for word, count in sorted(how.items(), key=lambda item: (-item[1], item[0])))
    lines = [
        f"{len(tensors)} tensors: {', '.join(f'{status[word]} {word}' for word in ('sliced', 'copied', 'dropped') if status[word])} ({told})"
    ]
    zeros = sum(row["zeros"] for row in tensors)
    if zeros:
        lines.append(f"{zeros:,} numbers are zero by masks")
    if report["unmatched"]:
        names = ", ".join(row["tensor"] for row in report["unmatched"][:4])
        lines.append(
            f"{len(report['unmatched'])} tensors of the model change and are none of the checkpoint's: {names}"
        )
    before, after = report["weights"]["bytes"], report["output"]["bytes"]
    return [*lines, f"{before:,} bytes -> {after:,} bytes, written to {report['output']['path']}"]


def _sizes(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
