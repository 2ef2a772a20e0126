"""The way of a run: one leg per kind of change and step of a schedule, each from a model to a proven smaller one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from operator import methodcaller
from typing import Any

from onnxprune.allocate import Schedule, Target
from onnxprune.allocate.target import KINDS
from onnxprune.changes.aims import SLACK
from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.change import NOWHERE, Change, Space, Totals
from onnxprune.changes.context import Context, Notes
from onnxprune.changes.judging import smallest_within
from onnxprune.changes.plan import Plan
from onnxprune.changes.proven import Step, in_final_form, recovered, step_of
from onnxprune.changes.units.steps import part_of_training
from onnxprune.errors import PlanError
from onnxprune.model.model import Model
from onnxprune.model.write import stored_bytes
from onnxprune.settings import Settings, space_of

ONE_SHOT = Schedule("one-shot", 1)
Shares = Mapping[str, float]
"""Kind, as module:class -> its share of what is to be saved."""


@dataclass(frozen=True)
class Leg:
    """One kind of change, how it is decided, and for what (None: a plan says), with the settings of this part of the way."""

    space: type[Space[Any]]
    decide: Callable[[Space[Any]], Change[Any]]
    settings: Settings
    aim: Target | None = None


def to_target(settings: Settings, whole: Totals, shares: Shares) -> list[Leg]:
    """Return the legs to the target, each kind saving its share in the steps of the schedule; ``whole``: the original's totals."""
    legs, done = list[Leg](), 0.0
    for path in settings.spaces:
        space, share = space_of(path), shares.get(path, 0.0)
        if not space.aims:
            recover = settings.recover if space.recovers else 0
            legs.append(Leg(space, methodcaller("choose", settings.aim), replace(settings, recover=recover)))
        if share <= 0:
            continue
        start, done = done, done + share
        schedule = ONE_SHOT if space.stepwise else settings.steps
        alone = (
            schedule.steps == 1
            and share > 1 - SLACK
            and not (settings.vocabulary or any(leg.space.saves for leg in legs))
        )
        aims = [settings.aim] if alone else _aims(settings.aim, whole, schedule, start, share)
        last = done > 1 - SLACK and not any(space_of(other).recovers for other in settings.spaces)
        recover = part_of_training(settings.recover, len(aims)) if last else 0
        own = replace(settings, recover=recover)
        if settings.max_divergence is not None and not space.stepwise:
            legs.append(Leg(space, partial(smallest_within, limit=settings.max_divergence), own))
        else:
            legs += [Leg(space, methodcaller("choose", aim), own, aim) for aim in aims]
    return legs


def _aims(aim: Target, whole: Totals, schedule: Schedule, start: float, share: float) -> list[Target]:
    """Return what each step of a schedule is to reach, from ``start`` of the saving on to ``share`` more of it."""
    if aim.kind == "ratio":
        gone = [0.0, *schedule.shares(aim.value)]
        return [Target("ratio", (now - before) / (1 - before)) for before, now in pairwise(gone)]
    if aim.kind == "latency":
        return [Target("latency", 1 - (start + share) * (1 - aim.value))]
    all_of_it = float(whole[KINDS[aim.kind]])
    saving = all_of_it - aim.budget(all_of_it)
    final = max(saving / all_of_it, SLACK)
    reached = [start + share * part / final for part in schedule.shares(final)]
    return [Target(aim.kind, all_of_it - r * saving, relative=False) for r in reached]


def by_plan(plan: Plan, settings: Settings) -> list[Leg]:
    """Return the legs that a plan records; raises PlanError for a kind that its settings do not name."""
    kinds = {space_of(path).kind: space_of(path) for path in settings.spaces}
    if len(kinds) == 1 and len(plan.steps) == 1:
        kinds = {plan.steps[0].kind: next(iter(kinds.values()))}
    for step in plan.steps:
        if step.kind not in kinds:
            raise PlanError(f"the plan has a step of {step.kind!r}, which its settings (granularity) do not name")
    last = max((n for n, step in enumerate(plan.steps) if kinds[step.kind].trains), default=-1)
    return [
        Leg(
            kinds[step.kind],
            methodcaller("read", step.record),
            settings if n == last else replace(settings, recover=0),
        )
        for n, step in enumerate(plan.steps)
    ]


def taken(context: Context, legs: Sequence[Leg], before: Sequence[Step[Any]] = ()) -> list[Step[Any]]:
    """Take one leg after the other, each on the model that the last one led to, ``before`` all of them; raises TargetError."""
    steps = list(before)
    for leg in legs:
        space = leg.space(reached(context, leg, steps))
        if steps and leg.aim is not None and _is_met(space, leg.aim):
            steps[-1] = _trained(steps[-1], leg.settings)
            continue
        step = step_of(space, leg.decide)
        steps.append(in_final_form(step))
    return steps


def reached(context: Context, leg: Leg, steps: Sequence[Step[Any]]) -> Context:
    """Return the context of a leg after some steps."""
    here = replace(context, settings=leg.settings, notes=Notes(), earlier=tuple(step.change for step in steps))
    if not steps:
        return here
    with context.stages("analyze"):
        return here.on(analyse_model(as_read(steps[-1].model), leg.settings))


def _trained(step: Step[Any], settings: Settings) -> Step[Any]:
    """Return a step with the recovery that was meant for the one behind it, which is not needed."""
    if settings.recipe is None or step.change.space.context.settings.recipe is not None:
        return step
    own = replace(step.change.space.context, settings=settings)
    return replace(step, model=recovered(step.change, step.model, own))


def _is_met(space: Space[Any], aim: Target) -> bool:
    """Whether an earlier leg has gone as far already."""
    return aim.kind not in ("ratio", "latency") and space.totals()[KINDS[aim.kind]] <= aim.value * (1 + SLACK)


def as_read(model: Model) -> Model:
    """Return a result as a model that the next leg may prepare anew."""
    return replace(model, copies={}, sparse=(), widened=(), size=stored_bytes(model, model.path or NOWHERE))
