"""The stages from a model to a smaller one that is proven right, each a function from values to a value.

prepare, analyse -> evidence -> choose -> cut, checked -> strict format check -> signature
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.allocate import SELECTIONS, Target, allocate
from onnxprune.allocate.account import batch_size
from onnxprune.changes.pairing import paired
from onnxprune.changes.plan import Plan
from onnxprune.coupling.channels import layouts
from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.coupling.prepare import prepare
from onnxprune.coupling.sharing import unshared
from onnxprune.criteria import score
from onnxprune.data import Dataset
from onnxprune.errors import DataError, ModelError, OnnxPruneError, SurgeryError
from onnxprune.evidence import Cache, collect
from onnxprune.evidence.ablation import ablate
from onnxprune.evidence.gradients import sensitivities
from onnxprune.measure.kinds import observed
from onnxprune.measure.outputs import Outputs
from onnxprune.measure.weights import weighed
from onnxprune.model import read
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import Model
from onnxprune.model.runtime import release_memory, session
from onnxprune.model.threads import one_blas_thread
from onnxprune.settings import Settings
from onnxprune.version import __version__

Progress = Callable[[str], None]


@dataclass
class Stages:
    """Times the stages of a run, on one BLAS thread, and tells ``progress`` which one begins."""

    progress: Progress = lambda stage: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.progress(name)
        start = time.perf_counter()
        try:
            with one_blas_thread:
                yield
        finally:
            release_memory()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


def analyse_model(model: Model, settings: Settings) -> Analysis:
    """Find the groups of a model and everything that stays, with reasons.

    Raises ModelError where the analysis fails on a model that the strict checker or ONNX Runtime refuses as well.
    """
    try:
        return _analysed(model, settings)
    except (OnnxPruneError, MemoryError):
        raise
    except Exception:
        read.check_structure(model, model.name, full=True)
        try:
            session(model, optimise=False)
        except ModelError as error:
            raise ModelError(f"{model.name}: {error}") from error
        raise


def _analysed(model: Model, settings: Settings) -> Analysis:
    facts = unshared(_facts_of(prepare(model), settings), settings.allowed)
    if settings.pairs:
        facts = _facts_of(paired(facts, settings.allowed), settings)
    return analyse(facts, settings.allowed, settings.prefer)


def _facts_of(model: Model, settings: Settings) -> Facts:
    return gather_facts(model, Graph(model.structure), dict(settings.input_shape))


def outputs_of(analysis: Analysis, settings: Settings, dataset: Dataset) -> Outputs:
    """Return how the model's outputs are compared, from its graph and from data; raises UsageError for weights that fit none."""
    found = observed(analysis.facts.model, dataset, layouts(analysis.solution.links), settings.means)
    return weighed(found, settings.output_weight)


def gather_evidence(
    analysis: Analysis,
    settings: Settings,
    dataset: Dataset | None,
    cache: Path | None = None,
    outputs: Outputs | None = None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return kind -> evidence for what the criterion needs, and warnings; ``cache``: a folder that keeps it.

    Raises DataError without data.
    """
    needs = settings.scorer.needs
    if not needs:
        return {}, ()
    if dataset is None:
        raise DataError(f"criterion {settings.scorer.name!r} looks at data; give calibration data (--calib)")
    means = settings.means.masked(dataset.schema.padding_mask)
    streamed = collect(analysis, needs, dataset, means, cache=None if cache is None else Cache(cache))
    differentiated, remarks = sensitivities(analysis, needs, dataset, means, outputs=outputs)
    ablated = ablate(analysis, needs, dataset, means, outputs=outputs)
    warnings = [text for evidence in streamed.values() for text in evidence.warnings]
    return {**streamed, **differentiated, **ablated}, tuple(dict.fromkeys([*warnings, *remarks]))


def choose(
    analysis: Analysis, settings: Settings, evidence: Mapping[str, Any] | None = None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return bool[width] per group, the units that stay, and warnings; raises TargetError where that is impossible."""
    scores = score(analysis, settings.scorer, settings.means, evidence=evidence)
    kept = allocate(analysis, scores.values, per_run(settings.aim, analysis), settings.options)
    return SELECTIONS[settings.selection](analysis, settings.scorer, kept, settings.means), scores.warnings


def per_run(target: Target, analysis: Analysis) -> Target:
    """Costs count MACs of the batch that the analysis ran with; a user's number means one sample."""
    absolute_macs = target.kind == "macs" and not target.relative
    return replace(target, value=target.value * batch_size(analysis.facts)) if absolute_macs else target


def check_format(small: Model, original: Model) -> tuple[str, ...]:
    """Run the strict checker on the result; raises SurgeryError unless the original fails it too (then: a warning)."""
    try:
        read.check_structure(small, "the pruned model", full=True)
    except ModelError as error:
        try:
            read.check_structure(original, original.name, full=True)
        except ModelError as older:
            return (f"the strict checker refuses the original already: {older}",)
        raise SurgeryError(f"{error}; nothing was written") from error
    return ()


def signed(model: Model, plan: Plan) -> Model:
    """Return the model with the tool, the plan and the original in its metadata; nothing that differs from run to run."""
    entries = {
        "onnxprune.version": __version__,
        "onnxprune.plan_digest": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "onnxprune.source_sha256": plan.model_sha256,
    }
    structure = model.draft()
    for entry in structure.metadata_props:
        if entry.key in entries:
            entry.value = entries.pop(entry.key)
    for key, value in entries.items():
        structure.metadata_props.add(key=key, value=value)
    return model.derived(structure)
