"""What a run says of a gate that it wrote: for how many samples it lets everything run, on rows that taught it and on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxprune.changes.analysing import means_of_runs
from onnxprune.changes.context import Context
from onnxprune.changes.proven import Step
from onnxprune.data import Dataset
from onnxprune.means import Means
from onnxprune.measure.by_rows import asking_share
from onnxprune.model.gated import asking_value
from onnxprune.model.model import Model
from onnxprune.report.entries import Report

FAR = 0.05
OVERSPENT = (
    "on the rows it was measured on the gate lets the full pass run for {:.1%} of the samples, on those that taught it for {:.1%}: "
    "{:.1%} of the MACs are spent, not {:.1%}"
)


def macs_spent(steps: Sequence[Step[Any]]) -> dict[str, int]:
    """Return ``macs``, what a sample takes on average, where one of the steps wrote a gate: later ones change no work; else {}."""
    found = [step.change.space.context.notes.entries.get("dynamic") for step in steps]
    return next(({"macs": told["macs"]["expected"]} for told in found if told), {})


def asked_entry(model: Model, rows: Dataset, means: Means) -> Report:
    """Return the entry ``dynamic`` of a file that was written before: for which share of the rows its gate lets everything run; else {}."""
    return {"dynamic": {"full_share": {"measured": asking_share(model, rows, means)}}} if asking_value(model) else {}


def gate_entry(context: Context, told: Report, small: Model) -> Report:
    """Return the entry ``dynamic`` with what the gate does on the rows that are measured on; {} where there is no gate."""
    found, measured = told.get("dynamic"), context.data.measured
    if not found or measured is None or not asking_value(small):
        return {}
    with context.stages("drift"):
        share = asking_share(small, measured, means_of_runs(context.settings, context.analysis.facts))
    macs, taught = found["macs"], found["full_share"]["taught"]
    spent = (macs["fast"] + share * (macs["full"] - macs["fast"])) / max(macs["original"], 1)
    if spent > macs["share"] + FAR:
        context.notes.warn(OVERSPENT.format(share, taught, spent, macs["share"]))
    return {
        "dynamic": found
        | {"full_share": {"taught": taught, "measured": share}, "macs": macs | {"measured_share": spent}}
    }
