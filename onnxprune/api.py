"""The functions behind ``import onnxprune``: each opens what it is given and runs the pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Unpack

import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnxprune.allocate import PROFILES, profile_name, width_step
from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.context import Data
from onnxprune.changes.plan import Plan, from_json
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset, TextOptions, input_specs, open_dataset
from onnxprune.data.images import pixel_ranges
from onnxprune.data.readers import ReadOptions
from onnxprune.data.tokens import read_tokens
from onnxprune.errors import DataError, UsageError
from onnxprune.evidence.attacks.asked import with_ranges
from onnxprune.evidence.attacks.vulnerability import VULNERABILITY
from onnxprune.evidence.known import KnownStatistics
from onnxprune.framework.safetensors import refuse_other_files
from onnxprune.framework.slicing import REFUSE, UNTOLD
from onnxprune.model import read
from onnxprune.model.decoding import decoding_of
from onnxprune.model.graph import Graph
from onnxprune.model.paths import check_document, refuse_data_files, settle_paths
from onnxprune.model.places import output_path
from onnxprune.model.read import Model
from onnxprune.model.segmented import memory_allowed
from onnxprune.model.surgeon import from_surgeon
from onnxprune.model.threads import load_blas
from onnxprune.model.write import save as write_model
from onnxprune.options import (
    ApplyOptions,
    BenchOptions,
    CheckOptions,
    CheckpointOptions,
    CurveOptions,
    Given,
    InspectOptions,
    PathLike,
    PruneOptions,
    SettingOptions,
    Source,
    StatisticsOptions,
    SweepOptions,
    ValidateOptions,
    parted,
)
from onnxprune.progress import Listener, Progress, heard
from onnxprune.recording import SAMPLES, SIZE, Limits, Recording, recorded, run_recorded
from onnxprune.report.baseline import TOLERANCE, Baseline
from onnxprune.report.display import displayed
from onnxprune.report.entries import Report, coverage, header, model_entry
from onnxprune.report.gates import GATES, refuse_idle_attack, require_data, require_measurable
from onnxprune.report.made import data_entry, made
from onnxprune.report.stages import Stages
from onnxprune.runs.checkpoints import Slicing, slice_by_plan
from onnxprune.runs.expanding import Expanded, expanded
from onnxprune.runs.gathering import gather_shard, merge_shards, parse_shard
from onnxprune.runs.reports import Comparison, Timing, compare_models, describe, describe_curves, time_models
from onnxprune.runs.run import Result, Run
from onnxprune.runs.sweep import ClosingIn, at_point, grid, judged, nothing_within, run_points
from onnxprune.settings import (
    ANALYSED,
    DEFAULT_ATTACK,
    GATING,
    PERMUTING,
    QUANTISING,
    REWOUND_WEIGHTS,
    REWRITING,
    STORING,
    UNITS,
    ZEROS,
    Settings,
    analysis_settings,
    make_settings,
    repeated_settings,
    space_of,
)

SOURCES = ("calibration", "labels", "evaluation")
SETTLED = ("row_shape", "input_value", "rotate", "structured")
"""Settings that may be left to a run, which says what they are then."""
READ = (*SOURCES, "rewind", "baseline", "stats")
WRITTEN = ("output", "checkpoint", "cache")
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


def analyze(model: Source, **settings: Unpack[SettingOptions]) -> Analysis:
    """Return the groups of a model, and every axis that stays with the reason."""
    return analyse_model(load(model), make_settings(settings))


@displayed
def inspect(model: Source, **options: Unpack[InspectOptions]) -> Report:
    """Return what can be cut, what stays and why, as the report of ``inspect --json``."""
    given, chosen = parted(options, InspectOptions)
    return _inspected(model, chosen, given)


def _inspected(model: Source, settings: Settings, given: Given) -> Report:
    stages = _begun(given, settings)
    with stages("load"):
        loaded = load(model)
    data = given["calibration"]
    dataset = None if data is None else _dataset(loaded, data, settings, given)
    return describe(loaded, settings, stages, dataset)


def plan(model: Source | Analysis, *, calibration: Any = None, **settings: Unpack[SettingOptions]) -> Plan:
    """Decide what stays, as ``prune`` with the same settings does; raises TargetError where the target is out of reach."""
    chosen = make_settings(settings)
    require_data(chosen, calibration is not None)
    undecided: dict[str, Any] = dict.fromkeys(GATES) | {"latency": False, "strict": False}
    if chosen.recipe and chosen.steps.steps == 1:  # rows are held out for it; how long it is decides nothing
        undecided["recover"] = 1
    source = model.facts.model if isinstance(model, Analysis) else model
    run = _start("plan", source, replace(chosen, **undecided), Given())
    run.given = model if isinstance(model, Analysis) else None
    run.data = _open(run.model, chosen, Given(calibration=calibration))
    found = run.prune().plan
    return replace(found, settings=chosen.to_json() | {name: found.settings[name] for name in SETTLED})


@displayed
def prune(model: Source, **options: Unpack[PruneOptions]) -> Result:
    """Prune a model, prove the surgery exact, measure the result, write it to ``output`` if all gates pass.

    Options are the fields of ``Settings``, e.g. ``ratio=0.5, criterion="l2"``, and those of ``PruneOptions``. Raises the errors
    of ``onnxprune.errors``.
    """
    given, chosen = parted(options, PruneOptions, tolerance=TOLERANCE)
    settle_paths(
        model=model,
        steps=chosen.steps.steps,
        tokenizer=_tokenizer(given),
        vocabulary=chosen.vocabulary or None,
        sparsity=chosen.sparsity,
        **{name: given[name] for name in (*READ, *WRITTEN)},
    )
    require_data(chosen, given["calibration"] is not None)
    refuse_idle_attack(chosen)
    chosen = _in_range(chosen, given)
    run = _start("prune", model, chosen, given)
    run.data = _open(run.model, chosen, given)
    run.baseline = _baseline(given)
    require_measurable(chosen, run.data.measured)
    return run.prune()


@displayed
def apply(plan: Plan | PathLike, model: Source, **options: Unpack[ApplyOptions]) -> Result:
    """Carry out a plan on the model it was made for (with ``force`` on any whose shapes agree); raises PlanError.

    With the calibration data of its run, weights are chosen and repaired as they were there: same ``repair``, same ``seed``.
    """
    recorded = plan if isinstance(plan, Plan) else from_json(read.read_text(plan))
    base = analysis_settings(recorded.settings)
    analysed = {name: getattr(base, name) for name in ANALYSED}
    repeated = repeated_settings(recorded.settings, options.get("calibration") is not None)
    given, chosen = parted(analysed | repeated | options, ApplyOptions)
    settle_paths(
        model=model, plan=plan, tokenizer=_tokenizer(given), **{name: given[name] for name in (*READ, *WRITTEN)}
    )
    run = _start("apply", model, chosen, given)
    run.data = _open(run.model, chosen, given)
    require_measurable(chosen, run.data.measured)
    return run.apply(recorded)


@displayed
def expand(
    model: Source, output: PathLike | None = None, *, force: bool = False, progress: Progress | Listener | None = None
) -> Expanded:
    """Give a packed model (``storage``) back with its tensors stored plainly, written to ``output`` where one is given.

    What is decoded is told by the model's own nodes, so that files of other tools are expanded too. Raises the errors of
    ``onnxprune.errors``.
    """
    settle_paths(model=model, output=output)
    stages = Stages(progress)
    with stages("load"):
        loaded = load(model)
    place = None
    if output is not None:
        place = output_path(loaded.path or Path(), output, force)
        refuse_data_files(place, [loaded])
    return expanded(loaded, place, stages, force=force)


@displayed
def slice_checkpoint(
    plan: Plan | PathLike, model: Source, weights: PathLike, output: PathLike, **options: Unpack[CheckpointOptions]
) -> Report:
    """Write what a plan leaves of a training checkpoint (.safetensors), told by names or by content; return the report.

    Tensors that may have to be cut and are not told are refused. Raises PlanError, DataError, UsageError, OutputError.
    """
    given = Given({"untold": REFUSE, **options})
    if given["untold"] not in UNTOLD:
        raise UsageError(f"unknown untold {given['untold']!r}; known: {', '.join(UNTOLD)}")
    recorded = plan if isinstance(plan, Plan) else from_json(read.read_text(plan))
    settle_paths(model=model, plan=plan, weights=weights, masks=given["masks"], output=output)
    stages, force = Stages(given["progress"]), bool(given["force"])
    with stages("load"):
        loaded = load(model)
    place = output_path(loaded.path or Path(), output, force)
    refuse_data_files(place, [loaded])
    refuse_other_files(place)
    slicing = Slicing(recorded, _path(given["masks"]), given["untold"], force)
    settings = analysis_settings(recorded.settings)
    settings = replace(settings, schedule=recorded.settings.get("schedule", settings.schedule))
    return slice_by_plan(loaded, Path(weights), slicing, settings, place, stages)


@displayed
def validate(before: Source, after: Source, data: Any, **options: Unpack[ValidateOptions]) -> Report:
    """Return how far ``after`` is from ``before`` on data, with labels the accuracy of both, and the gates judged."""
    given, chosen = parted({"latency": False} | options, ValidateOptions, tolerance=TOLERANCE)
    chosen = _in_range(chosen, given)
    stages = _begun(given, chosen)
    with stages("load"):
        models = load(before), load(after)
    dataset = _dataset(models[0], data, chosen, given, given["labels"], chosen.samples)
    require_measurable(chosen, dataset)
    earlier, decided = _baseline(given), given["calibration"]
    if decided is not None:
        decided = _dataset(models[0], decided, chosen, given)
    comparison = Comparison(dataset, given["metric"], decided, bool(given["layers"]))
    found = compare_models(*models, comparison, chosen, stages)
    return found if earlier is None else _judged(found, earlier.judge(found))


@displayed
def check(model: Source, **options: Unpack[CheckOptions]) -> Report:
    """Return the report of ``inspect`` with budgets judged: bytes, parameters, MACs, prunable share of the MACs."""
    given, chosen = parted(options, CheckOptions)
    found = _inspected(model, chosen, given) | {"command": "check"}
    limits = {"bytes": chosen.max_size, "parameters": given["max_params"], "macs": given["max_macs"]}
    values = [(f"max_{BUDGETED[key]}", limit, found["before"][key], 1) for key, limit in limits.items()]
    values.append(("min_prunable", given["min_prunable"], found["prunable"]["macs"], -1))
    return _judged(
        found | {"gates": []},
        [
            {"name": name, "limit": limit, "value": value, "passed": sign * value <= sign * limit}
            for name, limit, value, sign in values
            if limit is not None
        ],
    )


@displayed
def bench(model: Source, other: Source | None = None, **options: Unpack[BenchOptions]) -> Report:
    """Return the measured latency of one model, or of two in turns, on one random sample, and the memory of each.

    The gate ``max_latency_ratio`` goes by p10.
    """
    given, chosen = parted(options, BenchOptions, pairs=100, seconds=10.0)
    pairs, seconds = given["pairs"], given["seconds"]
    if pairs < 1 or not 0 < seconds < inf:
        raise UsageError(f"pairs {pairs}, seconds {seconds}: give at least one pair and some time, such as 100 and 10")
    if other is None and chosen.max_latency_ratio is not None:
        raise UsageError("the gate max_latency_ratio compares two models; give the other one too")
    stages = _begun(given, chosen)
    with stages("load"):
        first = load(model)
        second = None if other is None else load(other)
    timing = Timing(pairs, seconds, bool(given["strict"]), given["providers"], bool(given["memory"]))
    return time_models(first, second, timing, chosen, stages)


@displayed
def sensitivity(model: Source, data: Any, **options: Unpack[CurveOptions]) -> Report:
    """Return how far the outputs move when each part alone changes, judged on held-out rows; groups are narrowed and repaired."""
    given, chosen = parted(options, CurveOptions)
    stages = _begun(given, chosen)
    with stages("load"):
        loaded = load(model)
    dataset = _dataset(loaded, data, chosen, given, samples=chosen.samples)
    return describe_curves(loaded, dataset, chosen, stages)


@displayed
def sweep(model: Source, **options: Unpack[SweepOptions]) -> Report:
    """Return what every combination of ratio, criterion and repair leaves and loses, and which ones are worth having.

    Points are named by the hash of everything that decides them; a sweep goes on from those that ``folder`` has.
    ``max_drop`` chooses: the fewest MACs that lose no more; without ``ratios`` three more points close in on it. Nothing
    is written but that.
    """
    axes = {"ratios": (0.25, 0.5, 0.75), "criteria": ("auto",), "repairs": ("auto",)}
    given, chosen = parted({"latency": False} | options, SweepOptions, **axes)
    settle_paths(model=model, **{name: given[name] for name in (*SOURCES, "folder", "cache")})
    loaded = load(model)
    data = _open(loaded, replace(chosen, recover=0), given)  # each point parts the rows itself
    if data.measured is None:
        raise UsageError("a sweep compares by what the outputs lose; give data (--calib or --eval)")
    place = _path(given["folder"])
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    varied = {"ratio", "criterion", "repair", "latency", "strict", *GATES}
    single = {name: value for name, value in chosen.to_json().items() if name not in varied}
    digests = [d and d.digest() for d in (data.calibration, data.evaluation)]
    shared = single | {"model": loaded.source_sha256, "data": digests}
    told: dict[str, Any] = {n: value for n, value in options.items() if n in SettingOptions.__annotations__}
    ungated = told | {"latency": False, "max_drop": None, "spread": ""}
    cache = None if data.cache is None else data.cache.absolute()
    evaluate = _Evaluation(loaded, replace(data, cache=cache), given["text"], chosen.through(""), ungated)
    points = grid(*(given[name] for name in axes))
    for point in points:
        make_settings(ungated | at_point(point.settings, chosen))  # refuse what makes no sense before the first run
    limit, progress, spread = chosen.max_drop, heard(given["progress"]), chosen.means.spread
    closing = None if limit is None or options.get("ratios") is not None else ClosingIn(limit)
    entries, warnings = run_points(points, shared, evaluate, place, progress, spread, closing)
    held = data_entry({"calibration": data.calibration, "evaluation": data.evaluation})
    found = judged(entries, limit)
    warnings += nothing_within(found, limit)
    about = {"model": model_entry(loaded), "data": held, "made": made(), "warnings": warnings}
    best = next((entry["settings"] for entry in entries if entry["id"] == found["chosen"]), None)
    found["chosen_options"] = None if best is None else at_point(best, chosen)
    return header("sweep", chosen.to_json()) | about | found


@dataclass(frozen=True)
class _Evaluation:
    """The runs of a sweep: from the settings of a point to the report, here or in another process."""

    model: Model
    data: Data
    text: TextOptions | None
    chosen: Settings
    told: Mapping[str, Any]

    def __call__(self, point: Mapping[str, Any], progress: Progress | None = None) -> Report:
        data: dict[str, Any] = {
            "calibration": self.data.calibration,
            "evaluation": self.data.evaluation,
            "cache": self.data.cache,
        }
        own: dict[str, Any] = {**self.told, **at_point(point, self.chosen), "progress": progress, "text": self.text}
        return prune(self.model, **data, **own).report


def rounding() -> Report:
    """Return what widths are rounded to on this machine where nothing is said: the profile, its multiple, and why."""
    profile = str(profile_name())
    return {"profile": profile, "multiple": width_step(), "reason": PROFILES[profile].reason}


@displayed
def operators() -> Report:
    """Return the coverage matrix: every operator of the installed onnx, and the family of its rule, if it has one."""
    return header("ops") | coverage()


@displayed
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


def _baseline(given: Given) -> Baseline | None:
    source = given["baseline"]
    if source is None:
        return None
    return Baseline(source if isinstance(source, Mapping) else read_report(source), given["tolerance"])


def _in_range(settings: Settings, given: Given) -> Settings:
    """Return the settings with the range that pixels come to, where an attack says none and pictures are read in a way that was given."""
    images, attacks = given["images"], settings.attack or VULNERABILITY in settings.scorer.needs
    if images is None or not attacks or settings.attacking.ranges:
        return settings
    return replace(settings, attack=with_ranges(settings.attack or DEFAULT_ATTACK, pixel_ranges(images)))


def _path(given: PathLike | None) -> Path | None:
    return None if given is None else Path(given)


def _judged(facts: Report, gates: list[dict[str, Any]]) -> Report:
    """Return a report with more gates, and the exit code they lead to."""
    found = [*facts["gates"], *gates]
    return facts | {"gates": found, "exit_code": int(not all(gate["passed"] for gate in found))}


def _begun(given: Given, settings: Settings) -> Stages:
    """Return the stages of a run, which may take as much memory as the settings say."""
    memory_allowed.set(settings.memory_limit)
    return Stages(given["progress"])


def _start(command: str, source: Source, settings: Settings, given: Given) -> Run:
    stages = _begun(given, settings)
    with stages("load"):
        model = load(source)
    path, early, force = None, _earlier(settings, given["rewind"]), bool(given["force"])
    if given["output"] is not None:
        path = output_path(model.path or Path(), given["output"], force)
        refuse_data_files(path, [model, early] if early else [model])
    checkpoint = _path(given["checkpoint"])
    return Run(command, model, settings, Data(), stages, path, force, checkpoint, rewind=early)


def _earlier(settings: Settings, rewind: Source | None) -> Model | None:
    """Open the model to rewind to; raises UsageError where no weights are left to choose."""
    if rewind is None:
        if settings.rewind_as != REWOUND_WEIGHTS:
            raise UsageError(
                f"rewind_as {settings.rewind_as} is of weights to rewind to; give these (--rewind EARLY.onnx)"
            )
        return None
    if settings.vocabulary:
        raise UsageError("rewind takes weights of the whole vocabulary; leave rewind or vocabulary out")
    kinds = [path for path in settings.spaces if path not in (REWRITING, GATING, STORING, QUANTISING)]
    if PERMUTING in kinds:
        raise UsageError("rewind takes channels in the order that they have; give --no-permute")
    if kinds != [ZEROS] and not all(space_of(path).stepwise for path in kinds):
        raise UsageError(
            "rewind goes with widths or with zeros alone, not with granularity block, rank, eigen or lossless; leave one of them out"
        )
    return load(rewind)


def _open(model: Model, settings: Settings, given: Given) -> Data:
    calibration, evaluation, labels = given["calibration"], given["evaluation"], given["labels"]
    if labels is not None and calibration is None and evaluation is None:
        raise UsageError("labels without data; give evaluation or calibration data with them")
    own = labels if evaluation is None else None
    found = Data(
        None if calibration is None else _dataset(model, calibration, settings, given, own, settings.samples),
        None if evaluation is None else _dataset(model, evaluation, settings, given, labels),
        cache=_path(given["cache"]),
        stats=None if given["stats"] is None else _known(Path(given["stats"]), settings),
        tokens=read_tokens(Path(settings.vocabulary), _path(_tokenizer(given))) if settings.vocabulary else None,
    )
    found = found.teaching(settings.seed) if settings.dynamic else found
    return found.parted(settings.seed) if settings.recipe else found


def _known(path: Path, settings: Settings) -> KnownStatistics:
    """Open a file of statistics; raises UsageError where the run has no use for it."""
    if settings.spaces[:1] != (UNITS,) or not settings.scorer.needs:
        raise UsageError(
            f"stats {path} holds what a criterion of units gathers from data, and this run gathers none; name the criterion that it was "
            "gathered for (--criterion), or leave stats out"
        )
    return KnownStatistics.read(path)


@displayed
def stats(model: Source, calibration: Any, output: PathLike, **options: Unpack[StatisticsOptions]) -> Report:
    """Write what a criterion gathers from calibration data, or from one ``shard`` of it, for ``prune(stats=...)``; return the report.

    Shards are gathered anywhere, in any order; ``merge_stats`` puts them together. Raises UsageError, DataError, OutputError.
    """
    given, chosen = parted(options, StatisticsOptions, shard="1/1")
    refuse_idle_attack(chosen)
    chosen = _in_range(chosen, given)
    shard = parse_shard(given["shard"])
    settle_paths(
        model=model, calibration=calibration, labels=given["labels"], tokenizer=_tokenizer(given), statistics=output
    )
    check_document(output, "statistics")
    stages = _begun(given, chosen)
    with stages("load"):
        loaded = load(model)
    data = _dataset(loaded, calibration, chosen, given, given["labels"], chosen.samples)
    return gather_shard(loaded, chosen, data, shard, Path(output), stages)


@displayed
def merge_stats(parts: Sequence[PathLike], output: PathLike, *, progress: Progress | Listener | None = None) -> Report:
    """Put the files of all shards together in one; raises DataError for other models, options or data, rows twice, and rows missing."""
    settle_paths(parts=list(parts), statistics=output)
    check_document(output, "statistics")
    return merge_shards([Path(part) for part in parts], Path(output), Stages(progress))


def _tokenizer(given: Given) -> PathLike | None:
    return None if given["text"] is None else given["text"].tokenizer


def _dataset(
    model: Model, data: Any, settings: Settings, given: Given, labels: Any = None, samples: int | None = None
) -> Dataset:
    load_blas()
    how: ReadOptions = {"images": given["images"], "audio": given["audio"], "text": given["text"]}
    how |= {"sizes": dict(settings.input_shape), "values": dict(settings.input_value)}
    how["decoding"] = decoding_of(Graph(model.structure))
    specs = input_specs(model.structure)
    return open_dataset(data, specs, labels=labels, samples=samples, seed=settings.seed, **how)


def record(
    folder: PathLike,
    *,
    samples: int = SAMPLES,
    max_bytes: int = SIZE,
    seed: int = 0,
    outputs: bool = False,
    force: bool = False,
) -> AbstractContextManager[list[Recording]]:
    """Record what every ONNX Runtime session of this process is fed while the block runs, as calibration data in ``folder``.

    Per model at most ``samples`` samples and ``max_bytes`` bytes are kept, drawn by ``seed``; with ``outputs`` what came of them too.
    Yields a list that holds the recording once the block has ended. Raises UsageError, OutputError, and DataError without a session.
    """
    return recorded(folder, Limits(samples, max_bytes, seed, outputs), force=force)


def record_program(
    command: Sequence[str],
    folder: PathLike,
    *,
    samples: int = SAMPLES,
    max_bytes: int = SIZE,
    seed: int = 0,
    outputs: bool = False,
    force: bool = False,
) -> tuple[int, Recording | None]:
    """Run a program, record as ``record`` does every session of every Python interpreter in it, and return its exit code too.

    The recording is None where the program failed and ran no session.
    """
    return run_recorded(command, folder, Limits(samples, max_bytes, seed, outputs), force=force)
