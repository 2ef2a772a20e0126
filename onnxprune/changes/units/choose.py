"""Which units stay: by a criterion's scores, on the repaired model, in the steps of a schedule, or as latency is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from onnxprune.allocate import SELECTIONS, Target, allocate
from onnxprune.allocate.timing import with_times
from onnxprune.changes.context import FITTED, Context
from onnxprune.changes.repairing import fitted_rows
from onnxprune.coupling.absorb import absorbed
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.criteria import score
from onnxprune.data import Dataset
from onnxprune.errors import DataError, TargetError
from onnxprune.evidence import Cache, collect
from onnxprune.evidence.ablation import ablate
from onnxprune.evidence.gradients import sensitivities
from onnxprune.model.model import Model
from onnxprune.recover import recover, taught
from onnxprune.report.gates import measure_latency
from onnxprune.report.latency import OPEN, latency_doubt, way_out
from onnxprune.search import Goal, Reconstruction, SearchResult, search_units
from onnxprune.settings import AUTO

LATENCY_TURNS = 5  # corrections of a latency budget
LATENCY_TRIES = 3  # measurements of a result, if the first ones are too noisy to tell anything
LATENCY_SLACK = 0.93  # a result this much faster than asked is good enough


@dataclass(frozen=True)
class Chosen:
    """``kept``: the units that stay. ``start``: a model with these units that was repaired on the way (None: none).

    ``searched``: what led there; ``final``: the weights of ``start`` are those to be written.
    """

    kept: Kept
    start: Reconstruction | None = None
    searched: SearchResult | None = None
    final: bool = False


def choose(context: Context, analysis: Analysis, aim: Target) -> Chosen:
    """Decide what stays for ``aim``; raises TargetError where that is out of reach, DataError where it takes data."""
    return (_within_latency if aim.kind == "latency" else _chosen)(context, analysis, aim)


def _chosen(context: Context, analysis: Analysis, aim: Target) -> Chosen:
    """Decide on the repaired model where calibration data is there to, else by the criterion's scores."""
    settings, calibration = context.settings, context.data.calibration
    if settings.max_divergence is not None and calibration is None:
        raise DataError("--max-divergence is judged on data; give calibration data (--calib)")
    if (settings.search or settings.search_recover) and calibration is None:
        raise DataError("--search judges widths on data; give calibration data (--calib)")
    if settings.reconstructs and calibration is not None:
        return _on_the_repaired_model(context, analysis, aim, fitted_rows(context, calibration))
    with context.stages("evidence"):
        evidence, doubts = gather_evidence(context, analysis)
    with context.stages("allocate"):
        kept, warnings = by_scores(context, analysis, aim, evidence)
    context.notes.warn(*doubts, *warnings)
    return Chosen(kept)


def gather_evidence(context: Context, analysis: Analysis) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return kind -> evidence for what the criterion needs, and warnings; raises DataError without data."""
    settings, dataset, needs = context.settings, context.data.calibration, context.settings.scorer.needs
    if not needs:
        return {}, ()
    if dataset is None:
        raise DataError(f"criterion {settings.scorer.name!r} looks at data; give calibration data (--calib)")
    means, how = context.means.quiet, context.outputs
    cache = None if context.data.cache is None else Cache(context.data.cache)
    streamed = collect(analysis, needs, dataset, means, cache=cache)
    differentiated, remarks = sensitivities(analysis, needs, dataset, means, outputs=how)
    ablated = ablate(analysis, needs, dataset, means, outputs=how)
    warnings = [text for evidence in streamed.values() for text in evidence.warnings]
    return {**streamed, **differentiated, **ablated}, tuple(dict.fromkeys([*warnings, *remarks]))


def by_scores(
    context: Context, analysis: Analysis, aim: Target, evidence: Mapping[str, Any] | None = None
) -> tuple[Kept, tuple[str, ...]]:
    """Return the units that stay, and warnings; raises TargetError where that is impossible."""
    settings = context.settings
    scores = score(analysis, settings.scorer, settings.means, evidence=evidence)
    kept = allocate(analysis, scores.values, context.per_run(aim), settings.options)
    chosen = SELECTIONS[settings.selection](analysis, settings.scorer, kept, settings.means)
    return Kept(analysis, chosen), scores.warnings


def _on_the_repaired_model(context: Context, analysis: Analysis, aim: Target, calibration: Dataset) -> Chosen:
    settings, notes = context.settings, context.notes
    with context.stages("allocate"):
        scores = score(analysis, settings.scorer, settings.means)
        goal = Goal(
            context.per_run(aim),
            replace(settings.options, scope="global") if settings.scope == AUTO else settings.options,
            settings.max_divergence,
            settings.search,
            partial(_briefly_trained, context) if settings.search_recover else None,
        )
        found = search_units(analysis, calibration, goal, scores.values, context.means, context.outputs)
    names = ", ".join(analysis.groups[group].name for group in found.unread)
    notes.warn(
        "" if found.held_out else FITTED.format("proposals were", len(calibration)),
        *scores.warnings,
        f"no weight reads these groups, so that weight norms ranked their units: {names}" if names else "",
    )
    notes.entries["search"] = [
        {"name": p.name, "divergence": p.divergence, "widths": p.widths.tolist()} for p in found.tried
    ]
    return Chosen(found.final.kept, found.final, found)


def _briefly_trained(context: Context, model: Model, dataset: Dataset) -> Model:
    """Return a proposal of the search after a short recovery, which is what it is judged by."""
    settings = context.settings
    recipe = replace(settings.training, steps=settings.search_recover, seconds=0.0)
    teaching = taught(context.original, dataset, recipe.seed, outputs=context.outputs)
    found = recover(model, teaching, recipe, settings.means)
    return found.model


def _within_latency(context: Context, analysis: Analysis, aim: Target) -> Chosen:
    """Choose again with a corrected budget until what is measured meets the aim."""
    original, tell = context.original, context.stages.progress
    with context.stages("timing"):
        found = measure_latency(original, original, analysis.facts, context.settings, context.survey)
        timed = with_times(analysis, (found.cpu or found).before.p10, context.means.part(0, 2))
    budget, tried = aim.value, list[tuple[float, float, Chosen]]()
    for turn in range(LATENCY_TURNS):
        try:
            chosen = _chosen(context, timed, Target("latency", round(min(budget, 0.999), 6)))
        except TargetError:
            break
        with context.stages("timing"):
            tell(f"measuring result {turn + 1}", turn, LATENCY_TURNS)
            ratio = _believed_ratio(context, analysis, absorbed(cut(analysis, chosen.kept)), aim)
        tried.append((ratio, budget, chosen))
        if LATENCY_SLACK * aim.value <= ratio <= aim.value:
            break
        budget = next_budget(aim.value, [(ratio, budget) for ratio, budget, _ in tried])
    clock = "cpu" if found.cpu else "wall"
    context.notes.entries["latency_search"] = [
        {"budget": budget, "ratio_p10": ratio, "by": clock} for ratio, budget, _ in tried
    ]
    met = [entry for entry in tried if entry[0] <= aim.value]
    if not met:
        best = min((ratio for ratio, _, _ in tried), default=1.0)
        raise TargetError(
            f"--target {aim} is out of reach: the fastest result measured takes {best:.2f} of the original", best
        )
    return max(met, key=lambda entry: entry[0])[2]


def _believed_ratio(context: Context, analysis: Analysis, small: Model, aim: Target) -> float:
    """Return what share of the original's time a result takes; raises TargetError where that cannot be told, again and again."""
    for _ in range(LATENCY_TRIES):
        found = measure_latency(context.original, small, analysis.facts, context.settings, context.survey)
        if found.ratio is not None:
            return found.ratio
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
