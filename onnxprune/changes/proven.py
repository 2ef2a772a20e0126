"""Carrying out a change: proven part by part, with those at fault found, so that the rest is decided anew; then made good again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from onnxprune.changes.change import Change, Refuted, Space
from onnxprune.changes.context import FITTED, Context
from onnxprune.coupling.absorb import absorbed
from onnxprune.coupling.links import Barrier
from onnxprune.coupling.prepare import restore
from onnxprune.errors import DataError, ModelError, SurgeryError, UnprovenError
from onnxprune.model.early import NO_EARLY_DATA, EarlyData
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck, bisect
from onnxprune.recover import recover, taught

REFUTED = "cutting it is not exact on this model"
"""How the reason begins of what the surgery check keeps whole."""

P = TypeVar("P")


@dataclass(frozen=True)
class Step(Generic[P]):
    """A change that was carried out: the ``model`` it led to, repaired and recovered, and the proof."""

    change: Change[P]
    model: Model
    check: SurgeryCheck


def step_of(space: Space[P], decide: Callable[[Space[P]], Change[P]]) -> Step[P]:
    """Decide and carry out; where the proof refuses a part, decide anew from the rest.

    Raises TargetError where what is left cannot meet the target.
    """
    while True:
        try:
            return carried_out(decide(space))
        except Refuted as refuted:
            space = space.without(refuted)


def carried_out(change: Change[P]) -> Step[P]:
    """Make, prove, repair and recover; raises Refuted with the parts that cannot be changed exactly."""
    made, check = proven(change)
    context = change.space.context
    small = change.space.repaired(change, made)
    if not change.space.trained(change):
        small = recovered(change, small, context)
    names = tuple(change.space.label(owner) for owner in change.space.barred)
    return Step(change, small, replace(check, frozen_by_check=names))


def proven(change: Change[P]) -> tuple[Model, SurgeryCheck]:
    """Carry out a change of several parts and prove it; return the model and the proof.

    Raises Refuted with the parts at fault, SurgeryError where none can be found, UnprovenError where not everything could be
    seen and the settings do not allow that, ModelError where the original itself cannot be run.
    """
    context = change.space.context

    def attempt(some: Change[P]) -> tuple[Model | None, SurgeryCheck]:
        try:
            with context.stages("cut"):
                model = some.made()
            with context.stages("check"):
                return _checked(some, model, context.early if some is change else NO_EARLY_DATA)
        except SurgeryError as error:
            return None, SurgeryCheck(False, np.inf, np.inf, 0.0, problem=str(error))

    try:
        model, check = attempt(change)
    except ModelError as error:
        if not context.settings.allow_unproven:
            raise
        return change.made(), SurgeryCheck(False, 0.0, 0.0, 0.0, unproven=str(error))
    if check.agrees and model is not None:
        _admit(check, context)
        return model, check
    at_fault = bisect(change.parts, lambda some: not attempt(change.only(some))[1].agrees)
    if not at_fault:
        raise SurgeryError(f"the pruned model does not compute what it should ({check.problem}); nothing was written")
    alone = {part: attempt(change.only([part]))[1] for part in at_fault}
    raise Refuted({part: _barrier(check if found.agrees else found) for part, found in alone.items()})


def _checked(change: Change[P], model: Model, early: EarlyData) -> tuple[Model, SurgeryCheck]:
    """Prove a change; of a large model first in the form in which it is written in the end, which then takes no proof of its own."""
    if not change.space.context.prover.by_segments:
        return model, change.checked(model)
    if (final := absorbed(model)) is not model:
        early.begin(final)
        check = change.checked(final)
        if check.agrees:
            return final, check
    early.begin(model)
    return model, change.checked(model)


def _barrier(check: SurgeryCheck) -> Barrier:
    return Barrier(check.where, f"{REFUTED}: {check.problem}", "check")


def _admit(check: SurgeryCheck, context: Context) -> None:
    """Refuse what was not seen; raises UnprovenError."""
    if check.unproven and not context.settings.allow_unproven:
        raise UnprovenError(
            f"the cut agrees with the original wherever that could be compared, but not everything was seen: {check.unproven}. "
            "Give real inputs that show it (--calib), or accept it as it is (--allow-unproven). Nothing was written"
        )


def recovered(change: Change[Any], small: Model, context: Context) -> Model:
    """Train as the recipe says, towards the original."""
    recipe, calibration = context.settings.recipe, context.data.calibration
    if recipe is None:
        return small
    if calibration is None:
        raise DataError("--recover trains on data; give calibration data (--calib)")
    with context.stages("recover"):
        judge, outputs = context.data.judge, context.outputs
        teaching = taught(context.original, calibration, recipe.seed, judge=judge, outputs=outputs)
        found = recover(
            small,
            teaching,
            recipe,
            context.means,
            masks=dict(change.space.masks(change)) or None,
            positions=partial(positions_left, (*context.earlier, change)),
            checkpoint=context.checkpoint,
        )
    context.notes.entries["recover"] = found.to_json()
    context.notes.warn("" if found.held_out else FITTED.format("the training was", len(calibration)), *found.left_out)
    return found.model


def in_final_form(step: Step[P]) -> Step[P]:
    """Undo what was done for the analysis alone, and let stored tensors take in the scales that a cut added, if that is exact."""
    context = step.change.space.context
    known = context.facts.model
    model = restore(step.model, replace(known, copies={**known.copies, **step.model.copies}))
    small = absorbed(model)
    if small is model:
        return replace(step, model=model)
    with context.stages("check"):
        agrees = context.prover.compare(model, small, None).agrees
    return replace(step, model=small if agrees else model)


def positions_left(changes: Sequence[Change[Any]], value: str) -> dict[int, np.ndarray]:
    """Return axis -> the original's positions of a value that are left after several changes, for axes that lose some."""
    found: dict[int, np.ndarray] = {}
    for change in changes:
        for axis, stay in change.positions(value).items():
            found[axis] = found[axis][stay] if axis in found else stay
    return found
