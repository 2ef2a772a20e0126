"""What a report says of a model that decides per sample how much is run."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.report.entries import ReportView

ROWS = {"taught": "those that taught its gate", "measured": "those it was measured on"}


def gate_sentences(report: ReportView) -> list[str]:
    """Say what every sample runs, for how many the original runs too, and what a batch does; nothing where there is no gate."""
    return list(_sentences(report.get("dynamic") or {}))


def _sentences(found: ReportView) -> Iterator[str]:
    shares = [f"{share:.1%} of {ROWS[key]}" for key, share in found.get("full_share", {}).items()]
    if not shares:
        return
    macs = found.get("macs")
    if macs:
        whole = max(macs["original"], 1)
        yield (
            f"gate ({found['budget']}): every sample runs the pruned model ({macs['fast'] / whole:.1%} of the MACs), what the original does "
            f"beyond it ({(macs['full'] - macs['fast']) / whole:.1%}) runs for {', '.join(shares)}"
        )
        on_average = f"{macs['share']:.1%} expected"
        if "measured_share" in macs:
            on_average += f", {macs['measured_share']:.1%} on {ROWS['measured']}"
        yield f"MACs of a sample on average: {on_average}"
    else:
        yield f"gate: the original runs too for {', '.join(shares)}"
    yield "a batch runs the original where any of its samples asks for it, and takes its answers for these alone"
