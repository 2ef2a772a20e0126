"""What a run says of single weights: how many are zero, and which runtimes gain by that."""

from __future__ import annotations

from onnxprune.report.entries import ReportView

PATTERN = "TensorRT and Ascend are faster with 2:4"
ANY = "Ethos-U, Core ML and AIE-ML read fewer bytes"


def zeros_sentence(report: ReportView) -> str:
    """Say how many weights are zero and who gains ("": none was asked for)."""
    rows = [row for row in report.get("zeros") or () if row["weights"]]
    zeros, weights = (sum(row[key] for row in rows) for key in ("zeros", "weights"))
    if not zeros:
        return ""
    return (
        f"{zeros / weights:.1%} of {weights:,} weights are zero: no less time on ONNX Runtime's CPU kernels; {PATTERN}, {ANY}, and "
        "--storage auto leaves zeros out of the file (docs/targets.md)"
    )
