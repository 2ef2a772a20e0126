"""What a run says of products that are written in another operator."""

from __future__ import annotations

from onnxprune.report.entries import ReportView

CALLED = {"gemm": "Gemm", "conv": "convolutions of one position"}


def products_sentence(report: ReportView) -> str:
    """Say how many products are written in another form, and how many stay ("": none is)."""
    rows = report.get("rewritten") or ()
    done = sum(row["status"] == "rewritten" for row in rows)
    if not done:
        return ""
    form = CALLED[report["settings"]["matmul_as"]]
    rest = f", {len(rows) - done} stay as they were" if done < len(rows) else ""
    return f"{done} products with stored weights are written as {form}{rest}; they compute what they did"
