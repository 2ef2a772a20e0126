"""What is said of attacked models: how often both answer as they should, on rows as they are and as their own gradients make them."""

from __future__ import annotations

from onnxprune.report.entries import ReportView

ROBUSTNESS = ("answered as", "before", "after")
FIGURES = {
    "clean_agreement": "the original answers",
    "robust_agreement": "the original answers, attacked too",
    "clean_accuracy": "the labels say",
    "robust_accuracy": "the labels say, attacked too",
}


def robustness_rows(report: ReportView) -> list[tuple[str, ...]]:
    """Return a row per figure, of both models."""
    found = report.get("robustness")
    if not found:
        return []
    return [
        (what, f"{found['before'][name]:.2%}", f"{found['after'][name]:.2%}")
        for name, what in FIGURES.items()
        if name in found["before"]
    ]


def robustness_sentence(report: ReportView) -> str:
    """Say what the attack was; empty where there was none."""
    found = report.get("robustness")
    if not found:
        return ""
    ranges = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in found["range"])
    size = f"{found['size']:.4g} of the range ({ranges}) in {found['norm']}"
    low, high = found["interval"]
    return (
        f"attacked: each model by its own gradients at {found['input']!r}, away from {_aim(found['against'])}, {found['method']} of {size}, "
        f"steps: {found['steps']}, {found['samples']:,} samples; attacked, {found['drop']:.2%} less is right than of the original "
        f"({low:.2%} to {high:.2%})"
    )


def _aim(against: str) -> str:
    return "the labels" if against == "labels" else "the class that it chooses"
