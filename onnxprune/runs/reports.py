"""Reports of models as they are: what can be cut of one (inspect), what it would cost (sensitivity), two side by side (validate, bench)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.allocate import literal
from onnxprune.allocate.account import model_totals
from onnxprune.changes.analysing import analyse_model, facts_of, means_of_runs, outputs_of
from onnxprune.changes.change import Space
from onnxprune.changes.context import FITTED, Context, Data
from onnxprune.changes.judging import part_curves
from onnxprune.changes.sizing import sized
from onnxprune.changes.units.space import Units
from onnxprune.coupling.caches import called_like
from onnxprune.coupling.channels import layouts
from onnxprune.coupling.links import build_links
from onnxprune.criteria import score
from onnxprune.data import Dataset
from onnxprune.data.repeated import can_hold_out
from onnxprune.errors import Inconclusive
from onnxprune.evidence.attacks.attacker import attacker_of
from onnxprune.evidence.attacks.robustness import robustness
from onnxprune.measure.kinds import observed
from onnxprune.measure.latency import measure, measure_pair
from onnxprune.measure.layers import compare_layers
from onnxprune.measure.outputs import Outputs
from onnxprune.measure.weights import weighed
from onnxprune.model.facts import Facts, free_dimensions, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.memory import peak_activation_bytes, peak_rss, peak_rss_bytes, weight_bytes
from onnxprune.model.read import Model
from onnxprune.report import entries
from onnxprune.report.entries import Report
from onnxprune.report.gates import doubts, judge, measure_drift, measure_latency, require_judges, single_feeds
from onnxprune.report.made import data_entry, made
from onnxprune.report.sizes import sizes_entry
from onnxprune.report.stages import Stages
from onnxprune.runs.gated import asked_entry
from onnxprune.search.curves import HELD_OUT, JUDGE, Curve, curves, most_sensitive
from onnxprune.settings import GRANULARITIES, Settings, space_of


def describe(model: Model, settings: Settings, stages: Stages, dataset: Dataset | None = None) -> Report:
    """Return the report of ``inspect``: what every kind of change of the settings finds, branches beside it, and what stays."""
    with stages("analyze"):
        settings, survey = sized(model, settings, dataset)
        analysis = analyse_model(model, settings)
    context = Context(analysis, model, settings, stages=stages)
    spaces = [space_of(path)(context) for path in settings.spaces]
    found = entries.header("inspect", settings.to_json()) | {
        "model": entries.model_entry(model, quick=True),
        "sizes": sizes_entry(analysis.facts, settings, survey),
        "before": model_totals(analysis, analysis.widths) | {"bytes": model.size},
        "prunable": spaces[0].prunable(),
    }
    always = [space_of(GRANULARITIES[name].space)(context) for name in ("heads", "block")]
    for space in {type(space): space for space in (*always, *spaces)}.values():
        found |= space.entries()
    return found | {"made": made(), "seconds": stages.seconds, "peak_rss_bytes": peak_rss_bytes()}


def describe_curves(model: Model, dataset: Dataset, settings: Settings, stages: Stages) -> Report:
    """Return the report of ``sensitivity``: a curve per group, and patterns of the groups to leave alone."""
    with stages("analyze"):
        settings, survey = sized(model, settings, dataset)
        analysis = analyse_model(model, settings)
    with stages("sensitivity"):
        outputs = outputs_of(analysis, settings, dataset)
        context = Context(analysis, model, settings, Data(dataset), stages, outputs=outputs, survey=survey)
        found = [curve for path in settings.spaces for curve in _curves(space_of(path), context)]
    return entries.header("sensitivity", settings.to_json()) | {
        "model": entries.model_entry(model),
        "sizes": sizes_entry(analysis.facts, settings, survey),
        "curves": [curve.to_json() for curve in found],
        "exclude": [literal(curve.group) for curve in most_sensitive(found)],
        "warnings": [FITTED.format("the curves were", len(dataset))]
        if not can_hold_out(dataset, HELD_OUT, JUDGE)
        else [],
        "data": data_entry({"calibration": dataset}),
        "made": made(),
        "seconds": stages.seconds,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _curves(kind: type[Space[Any]], context: Context) -> Iterator[Curve]:
    """Groups are narrowed and repaired; parts of other kinds change alone."""
    settings, dataset = context.settings, context.data.calibration
    if not issubclass(kind, Units) or dataset is None:
        yield from part_curves(kind, context)
        return
    fallback = score(context.analysis, settings.scorer, settings.means).values
    yield from curves(context.analysis, dataset, settings.options, fallback, context.means, context.outputs)


@dataclass(frozen=True)
class Comparison:
    """What two models are compared on: data, a ``metric`` (script.py:function), the data that decided, inner tensors too."""

    dataset: Dataset
    metric: str | None = None
    calibration: Dataset | None = None
    layers: bool = False


@dataclass(frozen=True)
class Timing:
    """How two models are timed: ``pairs`` of runs, none begun after ``seconds``; see ``BenchOptions``."""

    pairs: int
    seconds: float
    strict: bool = False
    providers: Sequence[str] | None = None
    memory: bool = False


def compare_models(before: Model, after: Model, on: Comparison, settings: Settings, stages: Stages) -> Report:
    """Return the report of ``validate``: drift, task metric and, if asked for, latency and inner tensors of two models."""
    settings, survey = sized(before, settings, on.dataset)
    after = called_like(after, before)
    facts = entries.header("validate", settings.to_json()) | {
        "model": entries.model_entry(before),
        "other": entries.model_entry(after),
        "before": {"bytes": before.size},
        "after": {"bytes": after.size},
        "latency": None,
    }
    with stages("drift"):
        measured_facts = facts_of(before, settings)
        outputs = _outputs_alone(measured_facts, on.dataset, settings)
        require_judges(settings, outputs, labelled=bool(on.metric or on.dataset.has_labels))
        found = measure_drift(before, after, on.dataset, means_of_runs(settings, measured_facts), on.metric, outputs)
    facts |= found.to_json() | asked_entry(after, on.dataset, means_of_runs(settings, measured_facts))
    if settings.attack:
        with stages("attack"):
            facts["robustness"] = _attacked(measured_facts, after, on.dataset, settings, outputs)
    if on.layers:
        with stages("layers"):
            facts["layers"] = compare_layers(before, after, on.dataset, settings.means)
    if settings.latency:
        with stages("latency"):
            facts["latency"] = measure_latency(before, after, measured_facts, settings, survey, on.dataset).to_json()
            facts["sizes"] = sizes_entry(measured_facts, settings, survey)
    facts["gates"] = judge(settings, facts)
    facts["exit_code"] = int(not all(gate["passed"] for gate in facts["gates"]))
    warnings = [*found.warnings, *doubts(found, settings, on.calibration, on.dataset)]
    facts |= {"data": data_entry({"data": on.dataset}), "made": made()}
    return facts | {"warnings": warnings, "seconds": stages.seconds, "peak_rss_bytes": peak_rss_bytes()}


def _attacked(facts: Facts, after: Model, dataset: Dataset, settings: Settings, outputs: Outputs) -> Report:
    """Attack both models, each by its own gradients."""
    pair = [
        attacker_of(own, own.model, settings.attacking, dataset, settings.means, outputs)
        for own in (facts, facts_of(after, settings))
    ]
    return robustness(pair[0], pair[1], dataset)


def _outputs_alone(facts: Facts, dataset: Dataset, settings: Settings) -> Outputs:
    """Return how the outputs of a model are compared that need not be analysed as a whole."""
    means, links = means_of_runs(settings, facts), build_links(facts)
    found = observed(facts.model, dataset, layouts(links), means, asked=settings.purpose)
    return weighed(found, settings.output_weight)


def time_models(model: Model, other: Model | None, timing: Timing, settings: Settings, stages: Stages) -> Report:
    """Return the report of ``bench``; exit code 1 for a missed gate, 5 for an inconclusive measurement when ``strict``."""
    facts, other = facts_of(model, settings), None if other is None else called_like(other, model)
    feeds = single_feeds(facts, settings.seed)
    limits: dict[str, Any] = {"means": settings.means, "providers": timing.providers, "max_seconds": timing.seconds}
    with stages("latency"):
        if other is None:
            found = measure(model, feeds, runs=timing.pairs, **limits)
        else:
            found = measure_pair(model, other, feeds, pairs=timing.pairs, **limits)
    with stages("memory"):
        held = {
            name: memory_entry(one, feeds, settings, timing.memory)
            for name, one in (("before", model), ("after", other))
            if one
        }
    gates = judge(settings, {"latency": found.to_json()})
    missed = int(not all(gate["passed"] for gate in gates))
    return entries.header("bench", settings.to_json()) | {
        "exit_code": Inconclusive.exit_code if timing.strict and found.by is None else missed,
        "model": entries.model_entry(model),
        "other": None if other is None else entries.model_entry(other),
        "sizes": sizes_entry(facts, settings),
        "latency": found.to_json(),
        "memory": held,
        "gates": gates,
        "made": made(),
        "seconds": stages.seconds,
    }


def memory_entry(model: Model, feeds: Mapping[str, np.ndarray], settings: Settings, resident: bool) -> Report:
    """Return bytes of weights, of activations alive at once for one sample and, if asked for, of a fresh process."""
    free = {name for name, _, _ in free_dimensions(Graph(model.structure))}
    facts = gather_facts(model, Graph(model.structure), {n: a.shape for n, a in feeds.items() if n in free})
    rss = peak_rss(model, feeds, settings.threads) if resident else None
    return {
        "weight_bytes": weight_bytes(facts),
        "peak_activation_bytes": peak_activation_bytes(facts),
        "idle_rss_bytes": rss and rss["idle"],
        "peak_rss_bytes": rss and rss["peak"],
    }
