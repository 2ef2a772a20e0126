"""Targets of time: what changes is chosen again with a corrected budget until the result is measured to be as fast as asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from onnxprune.allocate import Target
from onnxprune.changes.context import Context
from onnxprune.errors import TargetError
from onnxprune.model.model import Model
from onnxprune.report.gates import measure_latency
from onnxprune.report.latency import OPEN, latency_doubt, way_out

LATENCY_TURNS = 5  # corrections of a latency budget
LATENCY_TRIES = 3  # measurements of a result, if the first ones are too noisy to tell anything
LATENCY_SLACK = 0.93  # a result this much faster than asked is good enough

T = TypeVar("T")


def time_before(context: Context) -> tuple[float, float]:
    """Return the microseconds that the model takes now for one sample, by the clock that measured nodes go by, and its share of the original's."""
    original = context.original
    model = context.facts.model if context.earlier else original
    with context.stages("timing"):
        found = measure_latency(original, model, context.facts, context.settings, context.survey)
    told = found.cpu or found
    assert told.after is not None
    return told.after.p10, told.after.p10 / max(told.before.p10, 1e-9) if context.earlier else 1.0


def within_latency(context: Context, aim: Target, share: float, proposed: Callable[[Target], tuple[T, Model]]) -> T:
    """Return the slowest proposal that meets the aim, as measured.

    ``share``: of the original's time that the model takes now. ``proposed``: budget, a share of what it takes now -> what it
    chooses and the model that makes. Raises TargetError where none meets the aim.
    """
    budget, tried = aim.value / share, list[tuple[float, float, T]]()
    for turn in range(LATENCY_TURNS):
        try:
            chosen, model = proposed(Target("latency", round(min(budget, 0.999), 6)))
        except TargetError:
            break
        with context.stages("timing"):
            context.stages.progress(f"measuring result {turn + 1}", turn, LATENCY_TURNS)
            ratio, clock = _believed_ratio(context, model, aim)
        tried.append((ratio, budget, chosen))
        context.notes.entries.setdefault("latency_search", []).append(
            {"budget": budget, "ratio_p10": ratio, "by": clock}
        )
        if LATENCY_SLACK * aim.value <= ratio <= aim.value:
            break
        budget = next_budget(aim.value, [(ratio, budget) for ratio, budget, _ in tried])
    met = [entry for entry in tried if entry[0] <= aim.value]
    if not met:
        best = min((ratio for ratio, _, _ in tried), default=1.0)
        raise TargetError(
            f"--target {aim} is out of reach: the fastest result measured takes {best:.2f} of the original", best
        )
    return max(met, key=lambda entry: entry[0])[2]


def _believed_ratio(context: Context, small: Model, aim: Target) -> tuple[float, str]:
    """Return what share of the original's time a result takes, and by which clock; raises TargetError where that cannot be told, again and again."""
    for _ in range(LATENCY_TRIES):
        found = measure_latency(context.original, small, context.facts, context.settings, context.survey)
        if found.ratio is not None:
            return found.ratio, "cpu" if found.cpu else "wall"
    facts = {"latency": found.to_json()}
    raise TargetError(
        f"--target {aim} cannot be judged: what is measured is {OPEN} ({latency_doubt(facts)}); {way_out(facts)}"
    )


def next_budget(aim: float, tried: list[tuple[float, float]]) -> float:
    """Between the largest budget that met the aim and the smallest that did not; in proportion while one of them is unknown.

    ``tried``: (measured ratio, budget) of each turn.
    """
    met = max((budget for ratio, budget in tried if ratio <= aim), default=None)
    missed = min((budget for ratio, budget in tried if ratio > aim and (met is None or budget > met)), default=None)
    if met is not None and missed is not None:
        return (met + missed) / 2
    ratio, budget = tried[-1]
    return budget * (1 + LATENCY_SLACK) / 2 * aim / ratio
