"""Units chosen by gates that are trained under the target's budget, with the weights that moved beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from onnxprune.allocate import Target
from onnxprune.allocate.legal import narrower_widths
from onnxprune.changes.context import FITTED, Context
from onnxprune.changes.units.exchanging import exchanges
from onnxprune.changes.units.scored import Chosen, by_scores, rows_for_criterion
from onnxprune.changes.units.written import written_back
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.readers import unit_readers
from onnxprune.criteria.spec import LEARNED
from onnxprune.data import Dataset
from onnxprune.data.repeated import in_batches
from onnxprune.evidence.attacks.attacker import Attacked, attacker_of
from onnxprune.gating import FAMILIES, GatePlan, GateScores, GateStart, Learned, learned_gates
from onnxprune.measure.divergence import Reference
from onnxprune.measure.tasks.choice import Judged, least_lost
from onnxprune.model.model import Model
from onnxprune.recover import Teaching, taught
from onnxprune.recover.recipe import Recipe
from onnxprune.recover.statistics import with_statistics
from onnxprune.search import Reconstruction, SearchEnd

Trained = Callable[[Reconstruction, Recipe], tuple[Learned, Teaching]]
"""From a repaired model and a recipe to gates that began there, and what taught them."""
ROUNDS = 4
"""Of gates that go on from where the default ends: each begins where the last has led, and the first that finds nothing better ends it."""


def by_gates(context: Context, analysis: Analysis, aim: Target) -> Chosen:
    """Train gates until as many are open as the aim allows; raises DataError without data, ModelError without gradients."""
    settings, rows = context.settings, rows_for_criterion(context)
    teaching = taught(context.original, rows, settings.seed, judge=context.data.judge, outputs=context.outputs)
    with context.stages("gates"):
        attacked = _attacked(context, analysis, rows) if settings.attack else None
        plan = _plan(context, analysis, aim)
        found = learned_gates(analysis, teaching, plan, settings.gate_recipe, context.means, attacked)
    kept, warnings = _decided(context, analysis, aim, found.scores)
    context.notes.entries["learned"] = found.to_json()
    context.notes.warn(*warnings)
    if found.model is None:
        return Chosen(kept)
    context.notes.warn(
        "" if teaching.judge is not teaching.dataset else FITTED.format("the training of gates was", len(rows))
    )
    return Chosen(kept, _moved(context, analysis, kept, found.model, teaching))


def gates_onward(context: Context, analysis: Analysis, aim: Target, begun: SearchEnd) -> Reconstruction:
    """Train gates that begin open where units stayed at the end of a search, and shut where they went; return what loses least on rows that judge.

    Never worse than where it began, on these rows.
    """
    teaching = taught(context.original, begun.rows, context.settings.seed, outputs=context.outputs)
    before = begun.judged(begun.start)
    trained = partial(_trained, context, analysis, aim, teaching)
    way = _moving_on if context.settings.moves else _exchanging
    found, best, after = way(context, analysis, aim, begun, trained)
    came = sum(int((new & ~old).sum()) for new, old in zip(best.kept, begun.start.kept, strict=True))
    start = {"divergence": round(before.divergence, 9), "after": round(after.divergence, 9), "exchanged": came}
    context.notes.entries["learned"] = found.to_json() | {"start": start}
    return best


def _moving_on(
    context: Context, analysis: Analysis, aim: Target, begun: SearchEnd, trained: Trained
) -> tuple[Learned, Reconstruction, Judged]:
    """Train the weights beside the gates; the start stays where that is no better."""
    found, teaching = trained(begun.start, context.settings.gate_recipe)
    assert found.model is not None
    kept, warnings = _decided(context, analysis, aim, found.scores)
    context.notes.warn(*warnings)
    ends = (begun.start, _moved(context, analysis, kept, found.model, teaching))
    judged = {number: begun.judged(end) for number, end in enumerate(ends)}
    best = least_lost(judged)
    return found, ends[best], judged[best]


def _exchanging(
    context: Context, analysis: Analysis, aim: Target, begun: SearchEnd, trained: Trained
) -> tuple[Learned, Reconstruction, Judged]:
    """Exchange units as the gates say, round by round, as long as that is better once it is repaired."""
    best, lost, rounds, recipe = begun.start, begun.judged(begun.start), list[Learned](), context.settings.gate_recipe
    part = replace(recipe, steps=-(-recipe.steps // ROUNDS), seconds=recipe.seconds / ROUNDS)
    for number in range(ROUNDS):
        rounds.append(trained(best, replace(part, seed=recipe.seed + number))[0])
        near = exchanges(rounds[-1].scores, best.kept, partial(_kept_by, context, analysis, aim))
        tried = {kept: begun.tried(kept) for kept in near}
        if not tried:
            break
        other = begun.repaired(least_lost(tried))
        judged = {False: lost, True: begun.judged(other)}
        if not least_lost(judged):
            break
        best, lost = other, judged[True]
    steps, seconds = sum(one.steps for one in rounds), round(sum(one.seconds for one in rounds), 3)
    return replace(rounds[-1], steps=steps, seconds=seconds), best, lost


def _trained(
    context: Context, analysis: Analysis, aim: Target, teaching: Teaching, at: Reconstruction, recipe: Recipe
) -> tuple[Learned, Teaching]:
    """Train gates that begin at a repaired model, for as long as a recipe says."""
    whole = written_back(analysis, at.kept, at.carried(analysis, cut(analysis, at.kept)), silent=False)
    plan = _plan(context, analysis, aim, GateStart(at.kept, whole))
    return learned_gates(analysis, teaching, plan, recipe, context.means), teaching


def _plan(context: Context, analysis: Analysis, aim: Target, start: GateStart | None = None) -> GatePlan:
    settings = context.settings
    legal = zip(analysis.groups, narrower_widths(analysis, settings.options), strict=True)
    movable = frozenset(group.index for group, widths in legal if widths != [group.width])
    if not FAMILIES[settings.scorer.learned].held:  # as in residual networks of theirs, sums stay as wide as they are
        movable = frozenset(group for group in movable if len(unit_readers(analysis)[group]) == 1) or movable
    decide = partial(_kept_by, context, analysis, aim)
    return GatePlan(
        settings.scorer.learned, context.per_run(aim), decide, settings.moves, settings.mends, movable, start
    )


def _kept_by(context: Context, analysis: Analysis, aim: Target, scores: GateScores) -> Kept:
    return _decided(context, analysis, aim, scores)[0]


def _decided(context: Context, analysis: Analysis, aim: Target, scores: GateScores) -> tuple[Kept, tuple[str, ...]]:
    """Return what scores of gates leave, and warnings."""
    return by_scores(context, analysis, aim, {LEARNED + context.settings.scorer.learned: scores})


def _attacked(context: Context, analysis: Analysis, rows: Dataset) -> Attacked:
    """Return what attacks the original; raises DataError where it cannot be attacked."""
    attack = context.settings.attacking
    return Attacked(attacker_of(analysis.facts, context.original, attack, rows, context.means, context.outputs))


def _moved(context: Context, analysis: Analysis, kept: Kept, model: Model, teaching: Teaching) -> Reconstruction:
    """Return what stays with the weights that moved, statistics of norms taken anew where held-out rows say so."""
    means = context.means
    small = Reconstruction(model, kept, Kept.whole(analysis)).carried(analysis, cut(analysis, kept))
    judge = in_batches(teaching.judge, analysis.facts, means)
    reference = Reference(context.original, judge, means, outputs=context.outputs)
    fresh = with_statistics(small, teaching.dataset.batches(context.settings.gate_recipe.rows), means)
    found = {id(one): (reference.divergence(one), one) for one in (small, fresh)}
    divergence, best = min(found.values(), key=lambda pair: pair[0])
    return Reconstruction(best, kept, kept, divergence, by="gates")
