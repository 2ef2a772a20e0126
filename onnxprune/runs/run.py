"""Whole runs: load -> changes, each proven -> measure -> gates -> save."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnxprune.allocate.account import model_totals
from onnxprune.changes.aims import require_met
from onnxprune.changes.analysing import analyse_model, means_of_runs, outputs_of
from onnxprune.changes.change import NOWHERE, Change
from onnxprune.changes.context import Context, Data, Notes
from onnxprune.changes.dynamic.joining import require_gateable
from onnxprune.changes.plan import Plan, Planned, check_digest
from onnxprune.changes.proven import Step
from onnxprune.changes.quantising.able import names_kept, require_quantisable
from onnxprune.changes.sizing import sized
from onnxprune.changes.zeros.masks import masks_file
from onnxprune.coupling.groups import Analysis
from onnxprune.errors import Inconclusive, ModelError, UsageError
from onnxprune.measure.tasks.task import AUTO, NONE
from onnxprune.model.early import EarlyData
from onnxprune.model.memory import peak_rss_bytes
from onnxprune.model.model import Model
from onnxprune.model.surgeon import to_surgeon
from onnxprune.model.write import save, stored_bytes, write_bytes
from onnxprune.proof.verdict import all_of
from onnxprune.report import entries
from onnxprune.report.baseline import Baseline
from onnxprune.report.caches import attention_heads, cache_entries
from onnxprune.report.display import ShownReport, sheet_of
from onnxprune.report.entries import Report
from onnxprune.report.gates import doubts, judge, measure_drift, measure_latency, require_judges
from onnxprune.report.latency import latency_doubt, way_out
from onnxprune.report.made import data_entry, made
from onnxprune.report.picturing import whole_graph
from onnxprune.report.sizes import sizes_entry
from onnxprune.report.stages import Stages
from onnxprune.report.tasks import unjudged
from onnxprune.runs.ahead import ahead
from onnxprune.runs.expected import expected_sentence, measured_pace
from onnxprune.runs.gated import gate_entry, macs_spent
from onnxprune.runs.legs import by_plan, taken, to_target
from onnxprune.runs.mix import shares_of
from onnxprune.runs.narrowing import as_fed
from onnxprune.runs.quantised import float_figures
from onnxprune.runs.signing import check_format, signed
from onnxprune.runs.tokens import (
    as_written,
    cuts_tokens,
    numbers_of,
    numbers_taken,
    of_tokens,
    require_places,
    save_maps,
)
from onnxprune.runs.turning import turned_or_not
from onnxprune.settings import Settings
from onnxprune.sheet import SeenAsSheet, Sheet


@dataclass(frozen=True, repr=False)
class Result(SeenAsSheet):
    """What a run gives: the report (the structure of ``--json``), the plan, and the pruned model.

    ``masks``: weight -> bool of its shape, for weights that were made zero where it is False.
    """

    report: Report
    plan: Plan
    pruned: Model
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def sheet(self) -> Sheet:
        """What the report has to say first."""
        return sheet_of(self.report)

    @property
    def passed(self) -> bool:
        """Whether all gates passed, so that the model was written if an output was asked for."""
        return self.report["exit_code"] == 0

    @cached_property
    def model(self) -> ModelProto:
        """The pruned model as one message, put together when it is first asked for; external data stays where it is."""
        return self.pruned.proto

    def write_masks(self, path: str | os.PathLike) -> None:
        """Write ``masks`` as an .npz file, for a trainer; raises UsageError where no weight was made zero."""
        if not self.masks:
            raise UsageError("--masks writes which weights were made zero; ask for some (--sparsity 0.5)")
        write_bytes(masks_file(self.masks), path)

    @cached_property
    def graph(self) -> gs.Graph:
        """The pruned model as a graph of onnx-graphsurgeon, which can be changed without changing ``model``.

        Metadata, documentation of nodes and tensors and quantisation annotations are in ``model`` only. Raises ModelError
        where a graph cannot hold an attribute.
        """
        return to_surgeon(self.model, self.pruned.folder)


@dataclass
class Run:
    """One run over a loaded model; ``given``: its analysis, where that is known; ``rewind``: the model's earlier weights."""

    command: str
    model: Model
    settings: Settings
    data: Data
    stages: Stages
    output: Path | None = None
    force: bool = False
    checkpoint: Path | None = None
    baseline: Baseline | None = None
    rewind: Model | None = None
    given: Analysis | None = None
    notes: Notes = field(default_factory=Notes)

    def prune(self) -> Result:
        """Choose what goes and carry it out; raises TargetError where the target is out of reach."""
        with self._early_data() as early:
            return self._pruned(replace(self.context(), early=early))

    def _pruned(self, context: Context) -> Result:
        whole = model_totals(context.analysis, context.analysis.widths)
        first: list[Step[Any]] = []
        if self.settings.vocabulary:
            self._require_places(self.settings.token_numbers)
            context, first = of_tokens(context, methodcaller("choose", self.settings.aim))
        context, begun = turned_or_not(context, whole)
        self.settings = context.settings.settled()
        context = replace(context, settings=self.settings)
        legs = to_target(self.settings, whole, shares_of(context, whole)) if begun is None else begun.legs
        steps = taken(context, legs, (*first, *(begun.steps if begun else ())))
        return self._concluded(context, steps, self.settings.to_json())

    def apply(self, plan: Plan) -> Result:
        """Carry out a plan, but for the parts that the proof refuses on this model; raises PlanError."""
        check_digest(plan, self.model.source_sha256, force=self.force)
        with self._early_data() as early:
            return self._applied(plan, replace(self.context(), early=early))

    def _applied(self, plan: Plan, context: Context) -> Result:
        first: list[Step[Any]] = []
        if cuts_tokens(plan):
            self._require_places(numbers_of(plan))
            context, first = of_tokens(context, methodcaller("read", plan.steps[0].record))
            plan = replace(plan, steps=plan.steps[1:])
        return self._concluded(context, taken(context, by_plan(plan, self.settings), first), plan.settings)

    def _early_data(self) -> EarlyData:
        """Return what may write data of the result while that is proven: where nothing but the proof decides whether it is written."""
        alone = self.data.measured is None and len(self.settings.spaces) == 1
        return EarlyData(self.output if alone else None)

    def _require_places(self, numbers: str) -> None:
        """Refuse, before any work, to write over a map of tokens; raises UsageError."""
        if self.output is not None:
            require_places(self.output, numbers, self.force)

    def context(self, compares: bool = True) -> Context:
        """Analyse the model and, with data, look at how its outputs are to be compared, if they are (``compares``)."""
        measured = self.data.measured
        if self.model.digest is not None:
            self.model.digest.begin()
        if self.settings.quantize:
            require_quantisable(self.model)
        with self.stages("analyze"):
            self.settings, survey = sized(self.model, self.settings, self.data.calibration or measured)
            settings = self.settings
            analysis = self.given or analyse_model(self.model, settings)
        if settings.dynamic:
            require_gateable(analysis.facts, self.model.name)
        names_kept(analysis.facts.graph, settings.keep_float, all_match=True)
        if settings.output_weight and measured is None:
            raise UsageError("output weights count where outputs are compared; give data (--calib or --eval)")
        if settings.purpose.kind not in (AUTO, NONE) and measured is None:
            raise UsageError(f"task {settings.task} is judged on data; give some (--calib or --eval)")
        context = Context(
            analysis, self.model, settings, self.data, self.stages, self.notes,
            checkpoint=self.checkpoint, rewind=self.rewind, survey=survey,
        )  # fmt: skip
        self._expect(context)
        if measured is None or not compares:
            return context
        with self.stages("outputs"):
            outputs = outputs_of(analysis, settings, self.data.calibration or measured)
        require_judges(settings, outputs, labelled=measured.has_labels)
        self.notes.warn(*outputs.left_out)
        return replace(context, outputs=outputs)

    def _expect(self, context: Context) -> None:
        """Take note of how long the run may take; where somebody wants to be told, from a pass of the model that is measured."""
        asked = self.stages.progress.told is not None
        pace = measured_pace(context) if asked else None
        stages = ahead(context, pace)
        self.stages.course.expect(stages)
        if asked:
            self.stages.progress.tell(expected_sentence(stages, pace, sum(self.stages.seconds.values())))

    def _concluded(self, context: Context, steps: Sequence[Step[Any]], settings: Mapping[str, Any]) -> Result:
        """Check the format of a signed model, measure and judge it; write the file when all gates pass."""
        plan = Plan(self.model.source_sha256, settings, tuple(_planned(step.change) for step in steps))
        small = signed(steps[-1].model, plan)
        written = as_fed(as_written(small, steps), context.facts, self.settings.seed, numbers_taken(steps))
        found = self._found(steps, written, settings) | {"sizes": self._sizes(context)}
        with self.stages("check"):
            self.notes.warn(*check_format(written, self.model))
        if small.picked:
            found |= {"cache": cache_entries(self.model, written), "attention_heads": attention_heads(written)}
        found["unjudged"] = None
        if self.data.measured is None:
            costly = [row for step, row in zip(steps, found["steps"], strict=True) if step.change.space.aims]
            found["unjudged"], told = unjudged(found["before"], costly)
            self.notes.warn(told)
        facts = found | self.notes.entries | self._measured(context, small) | float_figures(context, steps, small)
        facts |= gate_entry(context, facts, small)
        facts["gates"] = judge(self.settings, facts) + (self.baseline.judge(facts) if self.baseline else [])
        self._judge_noise(facts)
        failed = not all(gate["passed"] for gate in facts["gates"])
        facts["exit_code"] = int(failed)
        facts["output"] = None if failed or self.output is None else self._save(written, self.output, context.early)
        if facts["output"] is not None and "vocabulary_map" in facts:
            facts["vocabulary_map"] |= save_maps(steps, Path(facts["output"]["path"]))
        facts |= {
            "data": data_entry({"calibration": self.data.calibration, "evaluation": self.data.evaluation}),
            "made": made(),
        }
        end = {"warnings": self.notes.warnings, "seconds": self.stages.seconds, "peak_rss_bytes": peak_rss_bytes()}
        masks = {name: mask for step in steps for name, mask in step.change.space.masks(step.change).items()}
        return Result(ShownReport(facts | end), plan, written, masks)

    def _sizes(self, context: Context) -> Report:
        rows = "the calibration rows" if self.data.calibration else "the evaluation rows"
        return sizes_entry(context.facts, self.settings, context.survey, rows)

    def _found(self, steps: Sequence[Step[Any]], small: Model, settings: Mapping[str, Any]) -> Report:
        """Return what was decided, what it saves and how it was proven."""
        place = self.output or self.model.path or NOWHERE
        first, last = steps[0].change, steps[-1].change
        before = {**first.space.totals(), "bytes": self.model.size}
        after = {**last.totals(small), "bytes": stored_bytes(small, place), **macs_spent(steps)}
        sizes = [stored_bytes(step.model, place) for step in steps[:-1]]
        self._judge_aim(steps, before, after)
        check = all_of([step.check for step in steps])
        self.notes.warn("" if check.exact else f"the cut is not proven: {check.unproven}")
        rows = [step.change.space.entries(step.change) for step in steps]
        return entries.header(self.command, settings) | {
            "model": entries.model_entry(self.model),
            "output": None,
            "before": before,
            "after": after,
            "prunable": first.space.prunable(),
            "groups": [],
            "frozen": [],
            "surgery": entries.surgery_entry(check),
            "steps": _rows(steps, [before["bytes"], *sizes, after["bytes"]]),
        } | entries.joined_entries(rows) | {"graph": whole_graph(first.space.context.analysis, rows)}  # fmt: skip

    def _judge_aim(self, steps: Sequence[Step[Any]], before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Say what is far from what was asked for; a plan has a target already, and other limits say when to stop."""
        for step in steps:
            told = step.change.space.context.notes
            self.notes.entries |= told.entries
            self.notes.warn(*told.warnings)
        settings, aims = self.settings, any(step.change.space.aims for step in steps)
        if settings.dynamic:  # the target is of the pass that every sample runs
            aimed = [step for step in steps if step.change.space.aims][-1]
            after = {**aimed.change.totals(aimed.model), "bytes": stored_bytes(aimed.model, NOWHERE)}
        if self.command != "prune" or settings.max_divergence is not None or not aims:
            return
        if settings.aim.kind == "ratio":
            self.notes.warn(*(step.change.space.reached(step.change, settings.aim) for step in steps))
        elif settings.aim.kind != "latency":
            self.notes.warn(require_met(settings.aim, before, after, settings.options.round_to))

    def _measured(self, context: Context, small: Model) -> Report:
        settings = self.settings
        measured: Report = {"drift": None, "task": None, "latency": None}
        if self.data.measured is not None:
            with self.stages("drift"):
                means = means_of_runs(settings, context.analysis.facts)
                found = measure_drift(context.original, small, self.data.measured, means, outputs=context.outputs)
            measured |= found.to_json()
            measured["drift"]["rows"] = "calibration" if self.data.evaluation is None else "evaluation"
            told = doubts(found, settings, self.data.calibration, self.data.evaluation)
            self.notes.warn(*found.warnings, *told)
        if settings.latency:
            try:
                with self.stages("latency"):
                    context.early.settle()
                    timed = measure_latency(
                        self.model, small, context.facts, settings, context.survey, self.data.measured
                    )
                measured["latency"] = timed.to_json()
            except ModelError as error:
                self.notes.warn(f"latency was not measured: {error}")
        return measured

    def _judge_noise(self, facts: Report) -> None:
        """Say why a gate on latency is missed where nothing can be concluded; raises Inconclusive for that when ``strict``."""
        doubt = latency_doubt(facts)
        if self.settings.max_latency_ratio is not None and doubt:
            reason = f"the latency measurement is inconclusive ({doubt})"
            if self.settings.strict:
                raise Inconclusive(f"{reason}; nothing was written, {way_out(facts)}")
            self.notes.warn(f"{reason}, so that the gate max_latency_ratio is not passed; {way_out(facts)}")

    def _save(self, small: Model, path: Path, early: EarlyData) -> Report:
        with self.stages("save"):
            digest = save(small, path, force=self.force, early=early)
        return {"path": str(path), "sha256": digest}


def _planned(change: Change[Any]) -> Planned:
    return Planned(change.space.kind, change.record())


def _rows(steps: Sequence[Step[Any]], sizes: Sequence[int]) -> list[Report]:
    """Describe every step of the run; ``sizes``: bytes of the original and of what each step led to."""
    rows = []
    for number, (step, (before, after)) in enumerate(zip(steps, pairwise(sizes), strict=True)):
        change, told = step.change, step.change.space.context.notes.entries
        rows.append(
            {
                "kind": change.space.kind,
                "changed": len(change.parts),
                "of": len(change.space.parts()),
                "before": {**change.space.totals(), "bytes": before, **macs_spent(steps[:number])},
                "after": {**change.totals(step.model), "bytes": after, **macs_spent(steps[: number + 1])},
                "exact": step.check.exact,
            }
            | {key: told[key] for key in ("repair", "recover") if key in told}
        )
    return rows
