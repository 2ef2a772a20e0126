"""Whether streams are turned before they are cut: as given, or as both ways are judged on held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.allocate import Target
from onnxprune.changes.change import Change, Space, Totals
from onnxprune.changes.context import Context, Notes
from onnxprune.changes.judging import trial
from onnxprune.changes.proven import Step
from onnxprune.changes.units.space import Narrowing
from onnxprune.errors import OnnxPruneError, TargetError
from onnxprune.runs.legs import Leg, reached, taken, to_target
from onnxprune.settings import PLAIN_STORAGE, ROTATION, UNITS, Settings, space_of

ROWS = 128  # that decide and repair where what is tried cannot be what is written, at most, and half of all
TYPICAL = Target("macs", 0.6)
"""What is tried where a run has no number of its own for what is to be left."""


@dataclass(frozen=True)
class Begun:
    """A way that was tried: the ``steps`` taken, the ``legs`` to come, the first of which is decided, and its ``divergence``."""

    steps: tuple[Step[Any], ...]
    legs: tuple[Leg, ...]
    divergence: float


def turned_or_not(context: Context, whole: Totals) -> tuple[Context, Begun | None]:
    """Return the context whose settings say whether streams are turned first, and the way to go on with (None: from the start).

    Where they leave that open, the widths are decided both ways, and what diverges less from the original on held-out rows is
    taken; ``whole``: the original's totals. Nothing is turned where there is no data to judge by or the run decides by scores.
    """
    settings = context.settings
    if settings.rotate is not None:
        return context, None
    if not _is_open(context):
        return replace(context, settings=replace(settings, rotate=False)), None
    same = _is_final(settings)
    with context.stages("rotation"):
        tried = {way: _begun(context if same else _brief(context), whole, way) for way in (False, True)}
    reached_by = {way: found.divergence for way, found in tried.items() if found is not None}
    best = min(reached_by, key=lambda way: reached_by[way], default=False)
    context.notes.entries["rotation"] = [
        {"rotate": way, "divergence": reached_by.get(way), "chosen": way == best} for way in tried
    ]
    return replace(context, settings=replace(settings, rotate=best)), tried[best] if same else None


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


def _is_final(settings: Settings) -> bool:
    """Whether what is tried may be what is written: one decision, to a target that is not measured, without a longer search."""
    measured = settings.max_divergence is not None or settings.aim.kind == "latency"
    return not measured and settings.steps.steps == 1 and not settings.search


def _begun(context: Context, whole: Totals, way: bool) -> Begun | None:
    """Go one way as far as the decision on widths; None where the target is out of reach."""
    context.stages.progress(f"streams {'turned first' if way else 'as they are'}")
    own = replace(context, settings=replace(context.settings, rotate=way), memory={})
    legs = to_target(own.settings, whole, {UNITS: 1.0})
    at = next(number for number, leg in enumerate(legs) if leg.aim is not None)
    steps = taken(own, legs[:at])
    try:
        change = legs[at].decide(legs[at].space(reached(own, legs[at], steps)))
    except TargetError:
        return None
    assert isinstance(change, Narrowing) and change.chosen.start is not None
    decided = replace(legs[at], decide=_first(change, legs[at].decide))
    return Begun(tuple(steps), (decided, *legs[at + 1 :]), change.chosen.start.divergence)


def _first(change: Change[Any], decide: Callable[[Space[Any]], Change[Any]]) -> Callable[[Space[Any]], Change[Any]]:
    """Return a decision that is made already; where a proof refuses a part of it, it is decided anew."""
    left = [change]
    return lambda space: left.pop() if left else decide(space)


def _brief(context: Context) -> Context:
    """Return the context of a trial: in one step, to a target that is not measured, without a search beyond its starting points."""
    rows = 0 if context.data.calibration is None else len(context.data.calibration)
    trying, _ = trial(context, max(min(ROWS, rows // 2), 1))
    plain: dict[str, Any] = {
        "schedule": "one-shot",
        "may_return": False,
        "search": 0.0,
        "search_recover": 0,
        "storage": PLAIN_STORAGE,
        "sparsity": "",
        "quantize": "",
        "keep_float": (),
        "dynamic": "",
        "embeddings": False,
        "permute": None,
        "matmul_as": "",
    }
    settings = context.settings
    if settings.max_divergence is not None:
        plain |= {"max_divergence": None, "target": str(TYPICAL)}
    elif settings.aim.kind == "latency":
        plain |= {"target": str(Target("macs", settings.aim.value) if settings.aim.relative else TYPICAL)}
    return replace(trying, settings=replace(trying.settings, **plain))
