"""Units chosen by gates that are trained under the target's budget, with the weights that moved beside them."""

from __future__ import annotations

from onnxprune.allocate import Target
from onnxprune.allocate.legal import narrower_widths
from onnxprune.changes.context import FITTED, Context
from onnxprune.changes.units.scored import Chosen, by_scores, rows_for_criterion
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.criteria.spec import LEARNED
from onnxprune.data import Dataset
from onnxprune.data.repeated import in_batches
from onnxprune.evidence.attacks.attacker import Attacked, attacker_of
from onnxprune.gating import GatePlan, GateScores, learned_gates
from onnxprune.measure.divergence import Reference
from onnxprune.model.model import Model
from onnxprune.recover import Teaching, taught
from onnxprune.recover.statistics import with_statistics
from onnxprune.search import Reconstruction


def by_gates(context: Context, analysis: Analysis, aim: Target) -> Chosen:
    """Train gates until as many are open as the aim allows; raises DataError without data, ModelError without gradients."""
    settings, rows = context.settings, rows_for_criterion(context)
    kind = settings.scorer.learned

    def decided(scores: GateScores) -> tuple[Kept, tuple[str, ...]]:
        return by_scores(context, analysis, aim, {LEARNED + kind: scores})

    teaching = taught(context.original, rows, settings.seed, judge=context.data.judge, outputs=context.outputs)
    legal = zip(analysis.groups, narrower_widths(analysis, settings.options), strict=True)
    movable = frozenset(group.index for group, widths in legal if widths != [group.width])
    plan = GatePlan(
        kind, context.per_run(aim), lambda scores: decided(scores)[0], settings.moves, settings.mends, movable
    )
    with context.stages("gates"):
        attacked = _attacked(context, analysis, rows) if settings.attack else None
        found = learned_gates(analysis, teaching, plan, settings.gate_recipe, context.means, attacked)
    kept, warnings = decided(found.scores)
    context.notes.entries["learned"] = found.to_json()
    context.notes.warn(*warnings)
    if found.model is None:
        return Chosen(kept)
    context.notes.warn(
        "" if teaching.judge is not teaching.dataset else FITTED.format("the training of gates was", len(rows))
    )
    return Chosen(kept, _moved(context, analysis, kept, found.model, teaching))


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
