"""The functions behind ``import onnxprune``: each opens what it is given and runs the pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.context import Data
from onnxprune.changes.plan import Plan, from_json
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset, input_specs, open_dataset
from onnxprune.data.images import ImageOptions
from onnxprune.errors import DataError, UsageError
from onnxprune.means import Progress, silent
from onnxprune.model import read
from onnxprune.model.paths import refuse_data_files, settle_paths
from onnxprune.model.read import Model
from onnxprune.model.surgeon import from_surgeon
from onnxprune.model.write import output_path
from onnxprune.model.write import save as write_model
from onnxprune.report.baseline import TOLERANCE, Baseline
from onnxprune.report.entries import Report, coverage, header, model_entry
from onnxprune.report.gates import GATES, require_data, require_measurable
from onnxprune.report.stages import Stages
from onnxprune.runs.reports import compare_models, describe, describe_curves, time_models
from onnxprune.runs.run import Result, Run
from onnxprune.runs.sweep import grid, judged, run_points
from onnxprune.settings import ANALYSED, Settings, analysis_settings, make_settings, space_of

Source: TypeAlias = str | os.PathLike[str] | ModelProto | gs.Graph | Model
Earlier = str | os.PathLike[str] | Mapping[str, Any]
BUDGETED = {"bytes": "size", "parameters": "params", "macs": "macs"}


def load(source: Source) -> Model:
    """Read and check a model (a path, a ModelProto or a gs.Graph, which stays as it is); raises ModelError."""
    if isinstance(source, Model):
        return source
    return read.load(from_surgeon(source) if isinstance(source, gs.Graph) else source)


def save(model: ModelProto | gs.Graph | Model, path: str | os.PathLike[str], *, force: bool = False) -> str:
    """Write a model atomically and return its SHA-256; raises ModelError, UsageError, OutputError."""
    model = load(model) if isinstance(model, gs.Graph) else model
    if isinstance(model, Model):
        refuse_data_files(Path(path), [model])
    return write_model(model, path, force=force)


def analyze(model: Source, **settings: Any) -> Analysis:
    """Return the groups of a model, and every axis that stays with the reason."""
    return analyse_model(load(model), make_settings(settings))


def inspect(model: Source, *, progress: Progress | None = None, **settings: Any) -> Report:
    """Return what can be cut, what stays and why, as the report of ``inspect --json``."""
    stages = Stages(progress or silent)
    with stages("load"):
        loaded = load(model)
    return describe(loaded, make_settings(settings), stages)


def plan(model: Source | Analysis, *, calibration: Any = None, **settings: Any) -> Plan:
    """Decide what stays, as ``prune`` with the same settings does; raises TargetError where the target is out of reach."""
    chosen = make_settings(settings)
    require_data(chosen, calibration is not None)
    undecided: dict[str, Any] = dict.fromkeys(GATES) | {"latency": False, "strict": False}
    if chosen.recipe and chosen.steps.steps == 1:  # rows are held out for it; how long it is decides nothing
        undecided["recover"] = 1
    source = model.facts.model if isinstance(model, Analysis) else model
    run = _start("plan", source, replace(chosen, **undecided), None, False, None)
    run.given = model if isinstance(model, Analysis) else None
    run.data = _open(run.model, chosen, calibration, None, None, None)
    return replace(run.prune().plan, settings=chosen.to_json())


def prune(
    model: Source,
    *,
    output: str | os.PathLike[str] | None = None,
    calibration: Any = None,
    labels: Any = None,
    evaluation: Any = None,
    images: ImageOptions | None = None,
    cache: str | os.PathLike[str] | None = None,
    force: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    rewind: Source | None = None,
    baseline: Earlier | None = None,
    tolerance: float = TOLERANCE,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Prune a model, prove the surgery exact, measure the result, write it to ``output`` if all gates pass.

    ``calibration`` and ``evaluation``: arrays, dicts of arrays, paths, iterables, whatever ``--calib`` takes.
    ``labels`` are the evaluation data's, or without such the calibration data's. ``checkpoint``: file that keeps the
    state of ``recover``, to go on from. ``cache``: folder that keeps what criteria gather from calibration data.
    ``rewind``: the same network with its initial or early weights, which are what remains (and what ``recover`` trains).
    ``baseline``: an earlier report that nothing may be worse than by more than ``tolerance``, as one more gate.
    ``settings`` are the fields of ``Settings``, e.g. ``ratio=0.5, criterion="l2"``.
    Raises the errors of ``onnxprune.errors``.
    """
    chosen = make_settings(settings)
    settle_paths(
        model=model, calibration=calibration, labels=labels, evaluation=evaluation, rewind=rewind, baseline=baseline,
        output=output, checkpoint=checkpoint, cache=cache, steps=chosen.steps.steps,
    )  # fmt: skip
    require_data(chosen, calibration is not None)
    run = _start("prune", model, chosen, output, force, progress, rewind)
    run.data = _open(run.model, chosen, calibration, labels, evaluation, images)
    run.data = replace(run.data, cache=None if cache is None else Path(cache))
    run.checkpoint = None if checkpoint is None else Path(checkpoint)
    run.baseline = _baseline(baseline, tolerance)
    require_measurable(chosen, run.data.measured)
    return run.prune()


def apply(
    plan: Plan | str | os.PathLike[str],
    model: Source,
    *,
    output: str | os.PathLike[str] | None = None,
    calibration: Any = None,
    labels: Any = None,
    evaluation: Any = None,
    images: ImageOptions | None = None,
    force: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Carry out a plan on the model it was made for (with ``force`` on any whose shapes agree); raises PlanError."""
    recorded = plan if isinstance(plan, Plan) else from_json(read.read_text(plan))
    base = analysis_settings(recorded.settings)
    chosen = make_settings({name: getattr(base, name) for name in ANALYSED} | settings)
    settle_paths(
        model=model, calibration=calibration, labels=labels, evaluation=evaluation, plan=plan,
        output=output, checkpoint=checkpoint,
    )  # fmt: skip
    run = _start("apply", model, chosen, output, force, progress)
    run.data = _open(run.model, chosen, calibration, labels, evaluation, images)
    run.checkpoint = None if checkpoint is None else Path(checkpoint)
    require_measurable(chosen, run.data.measured)
    return run.apply(recorded)


def validate(
    before: Source,
    after: Source,
    data: Any,
    *,
    labels: Any = None,
    images: ImageOptions | None = None,
    metric: str | None = None,
    calibration: Any = None,
    layers: bool = False,
    baseline: Earlier | None = None,
    tolerance: float = TOLERANCE,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Return how far ``after`` is from ``before`` on data, with labels the accuracy of both, and the gates judged.

    ``metric``: ``script.py:function``, one number per sample. ``calibration``: data that decided, which should share no row
    with ``data``. ``layers``: also compare every inner tensor that both models have.
    """
    chosen = make_settings({"latency": False} | settings)
    stages = Stages(progress or silent)
    with stages("load"):
        models = load(before), load(after)
    dataset = _dataset(models[0], data, labels, images, chosen, chosen.samples)
    require_measurable(chosen, dataset)
    earlier = _baseline(baseline, tolerance)
    decided = None if calibration is None else _dataset(models[0], calibration, None, images, chosen)
    found = compare_models(*models, dataset, chosen, stages, metric, decided, layers)
    return found if earlier is None else _judged(found, earlier.judge(found))


def check(
    model: Source,
    *,
    max_size: int | None = None,
    max_params: int | None = None,
    max_macs: int | None = None,
    min_prunable: float | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Return the report of ``inspect`` with budgets judged: bytes, parameters, MACs, prunable share of the MACs."""
    found = inspect(model, progress=progress, **settings) | {"command": "check"}
    limits: dict[str, float | None] = {"bytes": max_size, "parameters": max_params, "macs": max_macs}
    values = [(f"max_{BUDGETED[key]}", limit, found["before"][key], 1) for key, limit in limits.items()]
    values.append(("min_prunable", min_prunable, found["prunable"]["macs"], -1))
    return _judged(
        found | {"gates": []},
        [
            {"name": name, "limit": limit, "value": value, "passed": sign * value <= sign * limit}
            for name, limit, value, sign in values
            if limit is not None
        ],
    )


def bench(
    model: Source,
    other: Source | None = None,
    *,
    pairs: int = 100,
    seconds: float = 10.0,
    strict: bool = False,
    providers: Sequence[str] | None = None,
    memory: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Return the measured latency of one model, or of two in turns, on one random sample, and the memory of each.

    ``providers``: execution providers of ONNX Runtime, the first that can runs a node. ``memory``: also measure the
    resident memory of a fresh process per model. The gate ``max_latency_ratio`` goes by p10.
    """
    chosen = make_settings(settings)
    if pairs < 1 or not 0 < seconds < inf:
        raise UsageError(f"pairs {pairs}, seconds {seconds}: give at least one pair and some time, such as 100 and 10")
    if other is None and chosen.max_latency_ratio is not None:
        raise UsageError("the gate max_latency_ratio compares two models; give the other one too")
    stages = Stages(progress or silent)
    with stages("load"):
        first = load(model)
        second = None if other is None else load(other)
    return time_models(
        first, second, chosen, stages, pairs=pairs, seconds=seconds, strict=strict, providers=providers, memory=memory
    )


def sensitivity(
    model: Source,
    data: Any,
    *,
    images: ImageOptions | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Return how far the outputs move when each group alone is narrowed and the model repaired, judged on held-out rows."""
    chosen = make_settings(settings)
    stages = Stages(progress or silent)
    with stages("load"):
        loaded = load(model)
    dataset = _dataset(loaded, data, None, images, chosen, chosen.samples)
    return describe_curves(loaded, dataset, chosen, stages)


def sweep(
    model: Source,
    *,
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    criteria: Sequence[str] = ("auto",),
    repairs: Sequence[str] = ("auto",),
    folder: str | os.PathLike[str] | None = None,
    calibration: Any = None,
    labels: Any = None,
    evaluation: Any = None,
    images: ImageOptions | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Return what every combination of ratio, criterion and repair leaves and loses, and which ones are worth having.

    ``folder`` keeps one JSON file per point, named by the hash of everything that decides it; a sweep goes on from there.
    ``max_drop`` chooses: the fewest MACs that lose no more. Nothing is written but that.
    """
    settle_paths(model=model, calibration=calibration, labels=labels, evaluation=evaluation, folder=folder)
    loaded = load(model)
    chosen = make_settings({"latency": False} | settings)
    once = replace(chosen, recover=0)  # each point parts the rows itself
    data = _open(loaded, once, calibration, labels, evaluation, images)
    if data.measured is None:
        raise UsageError("a sweep compares by what the outputs lose; give data (--calib or --eval)")
    place = None if folder is None else Path(folder)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    varied = {"ratio", "criterion", "repair", "latency", "strict", *GATES}
    single = {name: value for name, value in chosen.to_json().items() if name not in varied}
    shared = single | {
        "model": loaded.source_sha256,
        "data": [d and d.digest() for d in (data.calibration, data.evaluation)],
    }
    ungated = settings | {"latency": False, "max_drop": None}

    def own_settings(point: Mapping[str, Any]) -> dict[str, Any]:
        """A ratio is of one kind of change; where several share a target it is what goes of the MACs."""
        told = {name: value for name, value in point.items() if name != "ratio" or not chosen.mixes}
        return ungated | told | ({"target": f"macs={1 - point['ratio']:.6f}x"} if chosen.mixes else {})

    def evaluate(point: Mapping[str, Any]) -> Report:
        own = own_settings(point)
        return prune(loaded, calibration=data.calibration, evaluation=data.evaluation, **own).report

    points = grid(ratios, criteria, repairs)
    for point in points:
        make_settings(own_settings(point.settings))  # refuse what makes no sense before the first run
    entries, warnings = run_points(points, shared, evaluate, place, progress or silent)
    about = {"model": model_entry(loaded), "warnings": warnings}
    return header("sweep", chosen.to_json()) | about | judged(entries, chosen.max_drop)


def operators() -> Report:
    """Return the coverage matrix: every operator of the installed onnx, and the family of its rule, if it has one."""
    return header("ops") | coverage()


def read_report(path: str | os.PathLike[str]) -> Report:
    """Read a report that ``--json`` wrote; raises DataError for anything else."""
    try:
        found = json.loads(read.read_text(path, error=DataError, what="a report"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON report: {error}") from None
    reports = (
        [found, *found["jobs"].values()] if isinstance(found, dict) and isinstance(found.get("jobs"), dict) else [found]
    )
    if not all(map(_is_report, reports)):
        raise DataError(f"{path} is not a report of onnxprune; write one with --json")
    return found


def _is_report(found: Any) -> bool:
    whole = isinstance(found, dict) and {"schema_version", "command"} <= found.keys()
    return whole and isinstance(found["command"], str | None)


def _baseline(source: Earlier | None, tolerance: float) -> Baseline | None:
    if source is None:
        return None
    return Baseline(source if isinstance(source, Mapping) else read_report(source), tolerance)


def _judged(facts: Report, gates: list[dict[str, Any]]) -> Report:
    """Return a report with more gates, and the exit code they lead to."""
    found = [*facts["gates"], *gates]
    return facts | {"gates": found, "exit_code": int(not all(gate["passed"] for gate in found))}


def _start(
    command: str,
    source: Source,
    settings: Settings,
    output: str | os.PathLike[str] | None,
    force: bool,
    progress: Callable[[str], None] | None,
    rewind: Source | None = None,
) -> Run:
    stages = Stages(progress or silent)
    with stages("load"):
        model = load(source)
    path, early = None, _earlier(settings, rewind)
    if output is not None:
        path = output_path(model.path or Path(), output, force)
        refuse_data_files(path, [model, early] if early else [model])
    return Run(command, model, settings, Data(), stages, path, force, rewind=early)


def _earlier(settings: Settings, rewind: Source | None) -> Model | None:
    """Open the model to rewind to; raises UsageError where no weights are left to choose."""
    if rewind is None:
        return None
    if not all(space_of(path).stepwise for path in settings.spaces):
        raise UsageError(
            "rewind goes with widths, not with granularity block, eigen or lossless; leave one of them out"
        )
    return load(rewind)


def _open(
    model: Model, settings: Settings, calibration: Any, labels: Any, evaluation: Any, images: ImageOptions | None
) -> Data:
    if labels is not None and calibration is None and evaluation is None:
        raise UsageError("labels without data; give evaluation or calibration data with them")
    own = labels if evaluation is None else None
    found = Data(
        None if calibration is None else _dataset(model, calibration, own, images, settings, settings.samples),
        None if evaluation is None else _dataset(model, evaluation, labels, images, settings),
    )
    return found.parted(settings.seed) if settings.recipe else found


def _dataset(
    model: Model,
    data: Any,
    labels: Any,
    images: ImageOptions | None,
    settings: Settings | None = None,
    samples: int | None = None,
) -> Dataset:
    specs = input_specs(model.structure)
    chosen = settings or Settings()
    sizes = dict(chosen.input_shape)
    return open_dataset(data, specs, labels=labels, samples=samples, seed=chosen.seed, images=images, sizes=sizes)
