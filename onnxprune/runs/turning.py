"""Whether streams are turned before they are cut: as given, or as both ways are judged on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxprune.allocate import Target
from onnxprune.changes.change import Totals
from onnxprune.changes.context import Context, Notes
from onnxprune.changes.judging import trial
from onnxprune.errors import OnnxPruneError, TargetError
from onnxprune.measure.tasks.choice import Judged, least_lost
from onnxprune.runs.legs import taken, to_target
from onnxprune.settings import PLAIN_STORAGE, ROTATION, UNITS, Settings, space_of

ROWS = 128  # that decide and repair in a trial, at most, and half of all
TYPICAL = Target("macs", 0.6)
"""What is tried where a run has no number of its own for what is to be left."""


def turned_or_not(context: Context, whole: Totals) -> Context:
    """Return the context whose settings say whether streams are turned first.

    Where they leave that open, the model is cut both ways, repaired on a few rows, and what loses least on others is taken (see
    ``least_lost``); ``whole``: the original's totals. Nothing is turned where there is no data to judge by or the run decides by scores.
    """
    settings = context.settings
    if settings.rotate is not None:
        return context
    if not _is_open(context):
        return replace(context, settings=replace(settings, rotate=False))
    with context.stages("rotation"):
        judged = _judged(context, whole)
    best = least_lost(judged) if judged else False
    context.notes.entries["rotation"] = [
        {"rotate": way, "divergence": judged[way].divergence if way in judged else None, "chosen": way == best,
         "score": judged[way].score if way in judged else None}
        for way in (False, True)
    ]  # fmt: skip
    return replace(context, settings=replace(settings, rotate=best))


def _is_open(context: Context) -> bool:
    """Whether data decides on the repaired model, and there is something to turn."""
    settings = context.settings
    by_data = context.data.calibration is not None and settings.reconstructs and context.rewind is None
    if not by_data or settings.aimed != (UNITS,) or settings.lossless or not _goes_with(settings):
        return False
    quiet = replace(context, notes=Notes(), memory={})
    return bool(space_of(ROTATION)(quiet).open)


def _goes_with(settings: Settings) -> bool:
    try:
        replace(settings, rotate=True)
    except OnnxPruneError:
        return False
    return True


def _judged(context: Context, whole: Totals) -> Mapping[bool, Judged]:
    """Return what came of each way that reaches the target."""
    rows = 0 if context.data.calibration is None else len(context.data.calibration)
    trying, reference = trial(context, max(min(ROWS, rows // 2), 1))
    found: dict[bool, Judged] = {}
    for way in (False, True):
        context.stages.progress(f"streams {'turned first' if way else 'as they are'}")
        own = replace(trying, settings=_brief(trying.settings, way), notes=Notes(), memory={})
        try:
            step = taken(own, to_target(own.settings, whole, {UNITS: 1.0}))[-1]
        except TargetError:
            continue
        judged = reference.judged(step.model)
        if np.isfinite(judged.divergence):
            found[way] = judged
    return found


def _brief(settings: Settings, rotate: bool) -> Settings:
    """Return settings for a trial: in one step, to a target that is not measured, without a search beyond its starting points."""
    plain = replace(settings, rotate=rotate, schedule="one-shot", may_return=False, search=0.0, search_recover=0)
    plain = replace(plain, storage=PLAIN_STORAGE)
    aim = settings.aim
    if settings.max_divergence is not None:
        return replace(plain, max_divergence=None, ratio=None, target=str(TYPICAL))
    if aim.kind == "latency":
        return replace(plain, ratio=None, target=str(Target("macs", aim.value) if aim.relative else TYPICAL))
    return plain
