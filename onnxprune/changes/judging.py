"""Changes judged where it matters: by the divergence of the outputs from the original's, on rows that decided nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import methodcaller
from typing import Any

from onnxprune.allocate import Target
from onnxprune.changes.change import Change, Space
from onnxprune.changes.context import Context, Notes
from onnxprune.changes.proven import step_of
from onnxprune.data.repeated import held_out, in_batches
from onnxprune.errors import DataError, TargetError
from onnxprune.means import mapped
from onnxprune.measure.divergence import Reference
from onnxprune.model.model import Model
from onnxprune.model.threads import load_blas, one_blas_thread
from onnxprune.search import HELD_OUT, JUDGE
from onnxprune.search.curves import Curve


@dataclass(frozen=True)
class Judge:
    """How far the outputs of a model are from the original's."""

    reference: Reference

    def __call__(self, model: Model) -> float:
        load_blas()
        with one_blas_thread:
            return self.reference.divergence(model)


TURNS = 6  # of the search for the smallest result: a sixty-fourth of the whole


def trial(context: Context, most: int = 0) -> tuple[Context, Reference]:
    """Return the context in which changes are tried, and what judges them; ``most``: rows that decide (0: all that do not judge)."""
    calibration, settings = context.data.calibration, context.settings
    if calibration is None:
        raise DataError("what a change costs is judged on data; give calibration data (--calib)")
    fit, judge = held_out(calibration, HELD_OUT, JUDGE, settings.seed)
    batches = in_batches(judge, context.analysis.facts, settings.means)
    reference = Reference(context.original, batches, context.means.quiet, outputs=context.outputs)
    data = replace(context.data, calibration=fit.take(most, settings.seed) if most else fit)
    own = replace(context, settings=replace(settings, recover=0), data=data, memory={}, notes=Notes())
    return own, reference


def smallest_within(space: Space[Any], limit: float) -> Change[Any]:
    """Return the change that leaves least and, once repaired, diverges by no more than ``limit``; raises TargetError for none."""
    kind = "macs" if "macs" in space.aims else space.aims[-1]
    context = space.context
    trying, reference = trial(context)
    trying_space = type(space)(trying)
    trying_space.barred = space.barred
    within, beyond = 1.0, 0.0
    for turn in range(TURNS):
        aim = Target(kind, (within + beyond) / 2)
        context.stages.progress(f"{aim}: held-out divergence", turn, TURNS)
        try:
            step = step_of(trying_space, methodcaller("choose", aim))
            fits = reference.divergence(step.model) <= limit
        except TargetError:
            fits = False
        within, beyond = (aim.value, beyond) if fits else (within, aim.value)
    if within == 1.0:
        raise TargetError(f"no {space.noun} can change within a divergence of {limit:g}; allow more (--max-divergence)")
    return space.choose(Target(kind, within))


def part_curves(kind: type[Space[Any]], context: Context) -> Iterator[Curve]:
    """Yield how far the outputs move when each part alone changes as far as it can, or step by step."""
    trying, reference = trial(context)
    for name, width, changes in kind(trying).probes():
        context.stages.progress(name)
        lefts = sorted(changes, reverse=True)
        models = [changes[left].made() for left in lefts]
        yield Curve.fit(name, width, lefts, mapped(context.means.spread, Judge(reference), models))
