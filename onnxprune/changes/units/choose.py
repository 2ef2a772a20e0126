"""Which units stay: by a criterion's scores, on the repaired model, in the steps of a schedule, or as latency is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

from onnxprune.allocate import Target
from onnxprune.allocate.timing import with_times
from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.context import FITTED, Context
from onnxprune.changes.latency import time_before, within_latency
from onnxprune.changes.repairing import fitted_rows
from onnxprune.changes.units.learned import by_gates, gates_onward
from onnxprune.changes.units.scored import Chosen, by_scores, rows_for_criterion
from onnxprune.coupling.absorb import absorbed
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.criteria import parse_criterion, score
from onnxprune.criteria.earlier import EARLIER
from onnxprune.data import Dataset
from onnxprune.errors import DataError, UsageError
from onnxprune.evidence import Cache, collect
from onnxprune.evidence.ablation import ablate
from onnxprune.evidence.attacks.attacker import Attacked, attacker_of
from onnxprune.evidence.attacks.vulnerability import vulnerabilities
from onnxprune.evidence.gathered import about_data
from onnxprune.evidence.gradients import KINDS, sensitivities
from onnxprune.evidence.journal import Journal
from onnxprune.evidence.sites import REQUESTS
from onnxprune.means import Means
from onnxprune.model.model import Model
from onnxprune.model.runtime import runtime_version
from onnxprune.recover import recover, taught
from onnxprune.search import Goal, search_units
from onnxprune.settings import AUTO
from onnxprune.version import __version__

GATHERED = (
    *("granularity", "allow_lossy", "cut_cache", "input_shape", "row_shape", "input_value"),
    *("seed", "batch", "samples", "output_weight", "task", "attack"),
)
"""Settings that decide what data shows, beside the criterion."""


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
    if settings.searches and calibration is not None:
        return _on_the_repaired_model(context, analysis, aim, fitted_rows(context, calibration))
    if settings.scorer.learned:
        return by_gates(context, analysis, aim)
    with context.stages("evidence"):
        evidence, doubts = gather_evidence(context, analysis)
    with context.stages("allocate"):
        kept, warnings = by_scores(context, analysis, aim, evidence, _journal_of_scores(context, analysis))
    context.notes.warn(*doubts, *warnings)
    return Chosen(kept)


def gather_evidence(context: Context, analysis: Analysis) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return kind -> evidence for what the criterion needs, and warnings; raises DataError without data."""
    needs = context.settings.scorer.needs
    if EARLIER in needs:
        return {EARLIER: earlier_network(context)}, ()
    if not needs:
        return {}, ()
    dataset = rows_for_criterion(context)
    means = context.means
    cache = None if context.data.cache is None else Cache(context.data.cache)
    if context.data.stats is not None:
        means, cache = context.data.stats.instead(means, about_evidence(context, analysis, dataset), dataset), None
    return evidence_of(context, analysis, dataset, means, cache)


def _journal_of_scores(context: Context, analysis: Analysis) -> Journal | None:
    """Return what keeps the scores that data decides; None where nobody asked for that."""
    scorer, means, folder = context.settings.scorer, context.means, context.data.cache
    if folder is None or not scorer.needs or EARLIER in scorer.needs:
        return None
    evidence = json.dumps(about_evidence(context, analysis, rows_for_criterion(context)), sort_keys=True)
    how = (str(scorer), scorer.roles, means.seed, means.threads, means.memory, __version__, runtime_version())
    return Journal.of(folder, ("scores", evidence, how))


def earlier_network(context: Context) -> Analysis:
    """Return the network to rewind to, analysed; raises UsageError where there is none, or it is another one."""
    if context.rewind is None:
        raise UsageError(
            f"criterion {context.settings.criterion} compares weights with earlier ones; give these (--rewind EARLY.onnx)"
        )
    model = context.rewind
    return same_network(context.analysis, context.once(EARLIER, lambda: analyse_model(model, context.settings)), model)


def same_network(analysis: Analysis, other: Analysis, model: Model) -> Analysis:
    """Return ``other`` if it has the groups and the tensors of ``analysis``; raises UsageError."""
    wanted, found = ({g.name: g.width for g in one.groups} for one in (analysis, other))
    for name, width in wanted.items():
        if found.get(name) != width:
            have = "no such group" if name not in found else f"one of {found[name]} units"
            raise UsageError(
                f"--rewind {model.name} is another network: the model has a group {name!r} of {width} units, that one has {have}"
            )
    for name in analysis.facts.graph.tensors:
        if other.facts.shape(name) != analysis.facts.shape(name):
            raise UsageError(
                f"--rewind {model.name} is another network: tensor {name!r} is missing or has another shape there"
            )
    return other


def about_evidence(context: Context, analysis: Analysis, dataset: Dataset) -> dict[str, Any]:
    """Return everything that decides the evidence for the criterion, see ``Gathered``."""
    settings = context.settings.to_json()
    return {
        "model": context.original.source_sha256,
        "run": analysis.facts.model.identity,
        "settings": {name: settings[name] for name in GATHERED},
        "needs": sorted(context.settings.scorer.needs),
        "data": about_data(dataset),
    }


def evidence_of(
    context: Context, analysis: Analysis, dataset: Dataset, means: Means, cache: Cache | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return kind -> evidence for what the criterion needs, and warnings."""
    needs, how = context.settings.scorer.needs, context.outputs
    streams = not REQUESTS.keys().isdisjoint(needs)
    passes = streams + (not REQUESTS.keys() >= set(needs))
    streamed = collect(analysis, needs, dataset, means.part(0, passes), cache=cache)
    means = means.part(int(streams), passes)
    changing = _attacking(context, analysis, dataset, means)
    differentiated, remarks = sensitivities(analysis, needs, dataset, means, outputs=how, changing=changing)
    ablated = ablate(analysis, needs, dataset, means, outputs=how)
    shaken = vulnerabilities(analysis, needs, dataset, means, how, context.settings.attacking)
    warnings = [text for evidence in streamed.values() for text in evidence.warnings]
    return {**streamed, **differentiated, **ablated, **shaken}, tuple(dict.fromkeys([*warnings, *remarks]))


def _attacking(context: Context, analysis: Analysis, dataset: Dataset, means: Means) -> Attacked | None:
    """Return what attacks the rows that gradients are taken at, where that is asked for."""
    settings = context.settings
    if not settings.attack or KINDS.keys().isdisjoint(settings.scorer.needs):
        return None
    return Attacked(
        attacker_of(analysis.facts, analysis.facts.model, settings.attacking, dataset, means, context.outputs)
    )


def _on_the_repaired_model(context: Context, analysis: Analysis, aim: Target, calibration: Dataset) -> Chosen:
    settings, notes = context.settings, context.notes
    with context.stages("gates" if settings.goes_on else "allocate"):
        fallback = parse_criterion("l2", settings.roles) if settings.goes_on else settings.scorer
        scores = score(analysis, fallback, settings.means)
        goal = Goal(
            context.per_run(aim),
            replace(settings.options, scope="global") if settings.scope == AUTO else settings.options,
            settings.max_divergence,
            settings.search,
            partial(_briefly_trained, context) if settings.search_recover else None,
            partial(gates_onward, context, analysis, aim) if settings.goes_on else None,
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
    whole_us, share = time_before(context)
    with context.stages("timing"):
        timed = with_times(analysis, whole_us, context.means.part(0, 2))

    def proposed(budget: Target) -> tuple[Chosen, Model]:
        chosen = _chosen(context, timed, budget)
        return chosen, absorbed(cut(analysis, chosen.kept))

    return within_latency(context, aim, share, proposed)
