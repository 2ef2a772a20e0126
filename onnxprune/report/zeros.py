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


def order_sentence(report: ReportView) -> str:
    """Say how many groups have their channels in another order, and what the pattern keeps by that ("": none)."""
    rows = [row for row in report.get("permuted") or () if row["status"] == "reordered"]
    known = [(row["kept_before"], row["kept_after"]) for row in rows if row["kept_after"] is not None]
    if not rows:
        return ""
    before, after = (sum(side) / max(len(known), 1) for side in zip(*known, strict=True)) if known else (0, 0)
    kept = f", so that the pattern keeps {after:.1%} of what weights say instead of {before:.1%}" if known else ""
    return f"the channels of {len(rows)} groups stand in another order{kept}; no output changes by that (--no-permute: as they were)"
