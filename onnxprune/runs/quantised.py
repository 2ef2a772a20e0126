"""What a run says of the float model that it quantised in the end: bytes, drift, task and latency between the original and the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxprune.changes.analysing import means_of_runs
from onnxprune.changes.change import NOWHERE
from onnxprune.changes.context import Context
from onnxprune.changes.proven import Step
from onnxprune.changes.quantising.space import Quantising
from onnxprune.errors import ModelError
from onnxprune.model.model import Model
from onnxprune.model.write import stored_bytes
from onnxprune.report.entries import Report
from onnxprune.report.gates import measure_drift, measure_latency

SLOWER = 1.05
"""Times the float model's latency above which the quantised one is called slower."""
TOO_SLOW = "quantize {}: the quantised model takes {:.2f} times as long as the float one on this machine{}"
OTHERWISE = {
    "int8": ", which has no quick kernels for what it does",
    "dynamic": ": values are quantised in every run, and convolutions so have no quick kernel; ranges found on data (--quantize int8) may be quicker",
}


def float_model(steps: Sequence[Step[Any]]) -> Model | None:
    """Return the model that the last step quantised (None: it did not), as it would be written."""
    space = steps[-1].change.space
    return space.base if isinstance(space, Quantising) else None


def float_figures(context: Context, steps: Sequence[Step[Any]], small: Model) -> Report:
    """Return the entry ``quantisation``, with what is measured of the float model beside it; {} where nothing was quantised.

    ``latency``: of the float model (before) and the quantised one (after), in turns.
    """
    floats = float_model(steps)
    if floats is None:
        return {}
    told = steps[-1].change.space.context.notes.entries["quantisation"]
    own: Report = {"bytes": stored_bytes(floats, NOWHERE), "drift": None, "task": None}
    measured, settings = context.data.measured, context.settings
    if measured is not None:
        with context.stages("drift"):
            means = means_of_runs(settings, context.analysis.facts)
            own |= measure_drift(context.original, floats, measured, means, outputs=context.outputs).to_json()
    latency = None
    if settings.latency:
        try:
            with context.stages("latency"):
                latency = measure_latency(floats, small, context.facts, settings, context.survey).to_json()
        except ModelError:
            latency = None  # the run says why it was not measured
    if latency is not None and (latency["ratio"] or 0.0) > SLOWER:
        context.notes.warn(TOO_SLOW.format(settings.quantize, latency["ratio"], OTHERWISE[settings.quantize]))
    return {"quantisation": told | {"float": own, "latency": latency}}
