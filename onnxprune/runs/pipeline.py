"""Whole runs: load -> stages -> [repair, recover] -> measure -> gates -> save, and reports of what was found on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto

from onnxprune.allocate import Costs, legal_widths
from onnxprune.allocate.account import batch_size
from onnxprune.allocate.timing import with_times
from onnxprune.changes.plan import Plan, kept_units, make_plan
from onnxprune.coupling.cut import Kept, cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.prepare import restore
from onnxprune.criteria import score
from onnxprune.data import Dataset
from onnxprune.errors import DataError, Inconclusive, ModelError, TargetError, UsageError
from onnxprune.means import Means
from onnxprune.measure.isometry import isometry
from onnxprune.measure.outputs import Outputs
from onnxprune.model.memory import peak_rss_bytes
from onnxprune.model.read import Model
from onnxprune.model.surgeon import to_surgeon
from onnxprune.model.write import save, stored_bytes
from onnxprune.proof.check import Prover, SurgeryCheck, check_cut
from onnxprune.recover import Positions, recover, split_judge, taught
from onnxprune.repair import MOST_ROWS, Method, Repaired, Subspace, isometric, repair
from onnxprune.report import entries
from onnxprune.report.baseline import Baseline
from onnxprune.report.entries import Report
from onnxprune.report.gates import doubts, judge, measure_drift, measure_latency, require_classes
from onnxprune.runs.aims import ratio_met, require_met
from onnxprune.runs.proving import Refuted, first_rows, proven
from onnxprune.runs.stages import (
    Stages,
    analyse_model,
    check_format,
    choose,
    gather_evidence,
    outputs_of,
    per_run,
    signed,
)
from onnxprune.search import Goal, Reconstruction, SearchResult, search_units
from onnxprune.settings import AUTO, Settings

LATENCY_TURNS = 5  # corrections of a latency budget
LATENCY_SLACK = 0.93  # a result this much faster than asked is good enough

FITTED = "too few rows to hold any out: {} judged on the {} rows that it was fitted to, which makes it look better than it is"


@dataclass(frozen=True)
class Data:
    """``calibration`` may decide what stays and repair weights; ``evaluation`` is measured on, never chosen by.

    ``judge`` is what recovery is judged by; ``cache`` the folder for what was gathered from the calibration data.
    """

    calibration: Dataset | None = None
    evaluation: Dataset | None = None
    judge: Dataset | None = None
    cache: Path | None = None

    @property
    def measured(self) -> Dataset | None:
        return self.evaluation or self.calibration

    def parted(self, seed: int) -> Data:
        """Return the data with a part of the calibration rows kept from all that decides, for ``judge``."""
        if self.calibration is None:
            return self
        rest, judge = split_judge(self.calibration, seed)
        return replace(self, calibration=rest, judge=judge)


@dataclass(frozen=True)
class Result:
    """What a run gives: the report (the structure of ``--json``), the plan, and the pruned model."""

    report: Report
    plan: Plan
    pruned: Model

    @cached_property
    def model(self) -> ModelProto:
        """The pruned model as one message, put together when it is first asked for; external data stays where it is."""
        return self.pruned.proto

    @cached_property
    def graph(self) -> gs.Graph:
        """The pruned model as a graph of onnx-graphsurgeon, which can be changed without changing ``model``.

        Metadata, documentation of nodes and tensors and quantisation annotations are in ``model`` only. Raises ModelError
        where a graph cannot hold an attribute.
        """
        return to_surgeon(self.model, self.pruned.folder)

    @property
    def passed(self) -> bool:
        """Whether all gates passed, so that the model was written if an output was asked for."""
        return self.report["exit_code"] == 0


@dataclass
class Run:
    """One run over a loaded model: where its report grows."""

    command: str
    model: Model
    settings: Settings
    data: Data
    stages: Stages
    output: Path | None = None
    force: bool = False
    checkpoint: Path | None = None
    reconstruction: Reconstruction | None = None
    subspaces: Mapping[str, Subspace] = field(default_factory=dict)
    extra: Report = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    baseline: Baseline | None = None
    outputs: Outputs | None = None
    searched: SearchResult | None = None
    given: Analysis | None = None

    @property
    def means(self) -> Means:
        """The means of the settings, telling what begins to whoever follows the stages."""
        return replace(self.settings.means, progress=self.stages.progress)

    def analyse(self) -> Analysis:
        """Analyse the model and, with data, look at how its outputs are to be compared."""
        with self.stages("analyze"):
            analysis = self.given or analyse_model(self.model, self.settings)
        if self.settings.output_weight and self.data.measured is None:
            raise UsageError("output weights count where outputs are compared; give data (--calib or --eval)")
        if self.data.measured is not None:
            with self.stages("outputs"):
                self.outputs = outputs_of(analysis, self.settings, self.data.calibration or self.data.measured)
            require_classes(self.settings, self.outputs)
            self.warnings += self.outputs.left_out
        return analysis

    def choose(self, analysis: Analysis) -> list[np.ndarray]:
        """Decide what stays; for a latency target, again with a corrected budget until what is measured meets it."""
        if self.settings.aim.kind != "latency":
            return self._chosen(analysis)
        with self.stages("timing"):
            before = measure_latency(self.model, self.model, analysis.facts, self.settings).before.p10
            timed = with_times(analysis, before, self.means)
        aim = budget = self.settings.aim.value
        tried: list[tuple[float, float, list[np.ndarray]]] = []
        settings = self.settings
        for _ in range(LATENCY_TURNS):
            self.settings = replace(settings, target=f"latency={min(budget, 0.999):.6f}x")
            try:
                kept = self._chosen(timed)
            except TargetError:
                break
            finally:
                self.settings = settings
            with self.stages("timing"):
                small = cut(analysis, kept)
                ratio = measure_latency(self.model, small, analysis.facts, settings).ratio_p10 or 1.0
            tried.append((ratio, budget, kept))
            if LATENCY_SLACK * aim <= ratio <= aim:
                break
            budget = _next_budget(aim, tried)
        self.extra["latency_search"] = [{"budget": budget, "ratio_p10": ratio} for ratio, budget, _ in tried]
        met = [entry for entry in tried if entry[0] <= aim]
        if not met:
            best = min((ratio for ratio, _, _ in tried), default=1.0)
            raise TargetError(
                f"--target {settings.aim} is out of reach: the fastest result measured takes {best:.2f} of the original",
                best,
            )
        return max(met, key=lambda entry: entry[0])[2]

    def _chosen(self, analysis: Analysis) -> list[np.ndarray]:
        """Decide on the repaired model where calibration data is there to, else by the criterion's scores."""
        if self.settings.max_divergence is not None and self.data.calibration is None:
            raise DataError("--max-divergence is judged on data; give calibration data (--calib)")
        if (self.settings.search or self.settings.search_recover) and self.data.calibration is None:
            raise DataError("--search judges widths on data; give calibration data (--calib)")
        if self.settings.reconstructs and self.data.calibration is not None:
            return self._search(analysis, self._fitted_rows(self.data.calibration))
        with self.stages("evidence"):
            evidence, doubts = gather_evidence(
                analysis, self.settings, self.data.calibration, self.data.cache, self.outputs
            )
        with self.stages("allocate"):
            kept, warnings = choose(analysis, self.settings, evidence)
        self.warnings += [*doubts, *warnings]
        return kept

    def _fitted_rows(self, calibration: Dataset) -> Dataset:
        """Return the rows that a repair looks at: as many random ones as it takes, which the report says."""
        if len(calibration) <= MOST_ROWS:
            return calibration
        text = f"widths and repairs go by {MOST_ROWS:,} random rows of the {len(calibration):,} of the calibration data"
        self.warnings += [text] if text not in self.warnings else []
        return calibration.take(MOST_ROWS, self.settings.seed)

    def _search(self, analysis: Analysis, calibration: Dataset) -> list[np.ndarray]:
        settings = self.settings
        with self.stages("allocate"):
            scores = score(analysis, settings.scorer, settings.means)
            goal = Goal(
                per_run(settings.aim, analysis),
                replace(settings.options, scope="global") if settings.scope == AUTO else settings.options,
                settings.max_divergence,
                settings.search,
                self._briefly_trained if settings.search_recover else None,
            )
            found = search_units(analysis, calibration, goal, scores.values, self.means, self.outputs)
        self.reconstruction, self.searched = found.final, found
        if not found.held_out:
            self.warnings.append(FITTED.format("proposals were", len(calibration)))
        self.warnings += scores.warnings
        if found.unread:
            names = ", ".join(analysis.groups[group].name for group in found.unread)
            self.warnings.append(f"no weight reads these groups, so that weight norms ranked their units: {names}")
        self.extra["search"] = [
            {"name": p.name, "divergence": p.divergence, "widths": p.widths.tolist()} for p in found.tried
        ]
        return found.final.kept

    def _briefly_trained(self, model: Model, dataset: Dataset) -> Model:
        """Return a proposal of the search after a short recovery, which is what it is judged by."""
        recipe = replace(self.settings.training, steps=self.settings.search_recover, seconds=0.0)
        found = recover(
            model, taught(self.model, dataset, recipe.seed, outputs=self.outputs), recipe, self.settings.means
        )
        return found.model

    def _repaired(self, analysis: Analysis, kept: Kept, small: Model) -> Model:
        calibration = self.data.calibration
        if self.settings.repair == "isometry":
            return self._isometric(analysis, kept, small)
        if calibration is None or self.settings.repair == "none":
            if self.settings.repair not in (AUTO, "none"):
                raise DataError(f"--repair {self.settings.repair} looks at data; give calibration data (--calib)")
            return small
        chosen, calibration = self.reconstruction, self._fitted_rows(calibration)
        with self.stages("repair"):
            same = chosen is not None and all(map(np.array_equal, chosen.kept, kept))
            fitted = (chosen.carried(analysis, small), chosen.divergence) if chosen is not None and same else None
            method = Method(self.settings.repair, fitted, self.subspaces)
            found = repair(analysis, kept, small, calibration, method, self.settings.means, self.outputs)
        self.extra["repair"] = {"method": found.method, "divergence": found.divergences} | self._fit_of(found, fitted)
        self.warnings += (chosen.warnings if chosen is not None and same else ()) + found.warnings
        if not found.held_out:
            self.warnings.append(FITTED.format("the repair was", len(calibration)))
        return found.model

    def _fit_of(self, found: Repaired, fitted: object) -> Report:
        """Say whether a divergence is that of the weights that were written, and of rows that they were not fitted to."""
        searched = self.searched if fitted is not None and found.method == "least-squares" else None
        refitted = found.refitted if searched is None else searched.refitted
        return {"held_out": found.held_out, "refitted": refitted}

    def _isometric(self, analysis: Analysis, kept: Kept, small: Model) -> Model:
        """Repair without data; report the singular values in the original, the cut and the repaired model."""
        with self.stages("repair"):
            repaired = isometric(analysis, kept, small)
            found = [isometry(analysis.facts.model, model) for model in (small, repaired)]
        self.extra["repair"] = {"method": "isometry", "divergence": {}}
        self.extra["isometry"] = [
            {"weight": cut.weight, "original": asdict(cut.before)}
            | {name: e.after and asdict(e.after) for name, e in (("cut", cut), ("repaired", new))}
            for cut, new in zip(*found, strict=True)
        ]
        return repaired

    def _recovered(self, small: Model, positions: Positions = lambda value: {}) -> Model:
        """Train as the recipe says; ``positions``: what is left of each axis of a value of the model."""
        recipe, calibration = self.settings.recipe, self.data.calibration
        if recipe is None:
            return small
        if calibration is None:
            raise DataError("--recover trains on data; give calibration data (--calib)")
        with self.stages("recover"):
            teaching = taught(self.model, calibration, recipe.seed, judge=self.data.judge, outputs=self.outputs)
            found = recover(small, teaching, recipe, self.means, positions=positions, checkpoint=self.checkpoint)
        self.extra["recover"] = found.to_json()
        if not found.held_out:
            self.warnings.append(FITTED.format("the training was", len(calibration)))
        self.warnings += found.left_out
        return found.model

    def prune(self) -> Result:
        """Choose what goes and carry it out; where the proof refuses a part, choose anew from the rest.

        Raises TargetError where what is left cannot meet the target.
        """
        return self._settled(self.choose, self.settings.to_json())

    def apply(self, plan: Plan) -> Result:
        """Carry out a plan, but for the parts that the proof refuses on this model."""
        return self._settled(lambda analysis: self.replay(plan, analysis), plan.settings)

    def _settled(self, decide: Callable[[Analysis], Any], settings: Mapping[str, Any]) -> Result:
        analysis = self.analyse()
        while True:
            try:
                return self.finish(analysis, decide(analysis), settings)
            except Refuted as refuted:
                analysis = self.without(analysis, refuted)

    def without(self, analysis: Analysis, refuted: Refuted) -> Analysis:
        """Return what is left to choose from; raises TargetError where that is nothing."""
        rest = analysis.without(refuted.parts)
        if len(rest.barred) == len(rest.groups):
            raise refuted.nothing_left("group")
        return rest

    def carry_out(self, analysis: Analysis, kept: Kept) -> tuple[Model, SurgeryCheck]:
        """Cut, prove the cut exact, repair and recover; raises Refuted with the groups that cannot be cut exactly."""
        small, check = self.cut_exactly(analysis, kept)
        repaired = self._repaired(analysis, kept, small)
        return self._recovered(repaired, partial(analysis.kept_positions, kept)), check

    def cut_exactly(self, analysis: Analysis, kept: Kept) -> tuple[Model, SurgeryCheck]:
        """Cut and prove the cut exact; raises Refuted."""
        settings = self.settings
        prover = Prover(
            analysis.facts, seed=settings.seed, threads=settings.threads, rows=first_rows(self.data.measured)
        )

        def only(groups: Sequence[int]) -> list[np.ndarray]:
            return [mask if g in groups else np.ones_like(mask) for g, mask in enumerate(kept)]

        made = proven(
            [g for g, mask in enumerate(kept) if not mask.all()],
            lambda groups: cut(analysis, only(groups)),
            lambda groups, small: check_cut(analysis, only(groups), small, prover=prover),
            settings,
            self.stages,
        )
        assert made.model is not None
        names = tuple(analysis.groups[g].name for g in analysis.barred)
        return made.model, replace(made.check, frozen_by_check=names)

    def finish(self, analysis: Analysis, kept: Kept, settings: Mapping[str, Any]) -> Result:
        """Carry out a decision: cut, check, repair, measure, judge, and write the file when all gates pass."""
        small, check = self.carry_out(analysis, kept)
        small = restore(small, analysis.facts.model)
        plan = make_plan(analysis, kept, settings)
        small = signed(small, plan)
        return self.conclude(analysis, small, plan, self._facts(analysis, kept, check, small, settings))

    def replay(self, plan: Plan, analysis: Analysis) -> list[np.ndarray]:
        """Return the decision that a plan holds; raises PlanError where it does not fit the model."""
        kept = kept_units(plan, analysis, force=self.force)
        return [np.ones_like(mask) if g in analysis.barred else mask for g, mask in enumerate(kept)]

    def conclude(self, analysis: Analysis, small: Model, plan: Plan, found: Report) -> Result:
        """Check the format of a signed model, measure and judge it; write the file when all gates pass."""
        small = restore(small, analysis.facts.model)
        with self.stages("check"):
            self.warnings += check_format(small, self.model)
        facts = found | self.extra
        facts |= self._measurements(analysis, small)
        facts["gates"] = judge(self.settings, facts) + (self.baseline.judge(facts) if self.baseline else [])
        self._judge_noise(facts)
        failed = not all(gate["passed"] for gate in facts["gates"])
        facts["exit_code"] = int(failed)
        facts["output"] = None if failed or self.output is None else self._save(small, self.output)
        facts |= {"warnings": self.warnings, "seconds": self.stages.seconds, "peak_rss_bytes": peak_rss_bytes()}
        return Result(facts, plan, small)

    def _facts(
        self, analysis: Analysis, kept: Kept, check: SurgeryCheck, small: Model, settings: Mapping[str, Any]
    ) -> Report:
        costs, widths = Costs(analysis), np.array([int(mask.sum()) for mask in kept], np.int64)
        reasons = {g: barrier.reason for g, barrier in analysis.barred.items()}
        before, after = totals(costs, analysis, analysis.widths), totals(costs, analysis, widths, small)
        if self._aims and self.settings.aim.kind == "ratio":
            movable = [g for g, legal in enumerate(legal_widths(analysis, self.settings.options)) if len(legal) > 1]
            gone = 1 - float(widths[movable].sum()) / max(float(analysis.widths[movable].sum()), 1.0)
            self._say(ratio_met(self.settings.aim, gone, self.settings.options.round_to))
        return self.summary(before, after, costs.prunable(), small, check, settings) | {
            "groups": entries.group_entries(analysis, kept, reasons),
            "frozen": entries.frozen_entries(analysis),
        }

    @property
    def _aims(self) -> bool:
        """Whether the run was to reach a target of its own: a plan has one already, and other limits say when to stop."""
        return self.command == "prune" and not self.settings.lossless and self.settings.max_divergence is None

    def _say(self, text: str) -> None:
        if text and text not in self.warnings:
            self.warnings.append(text)

    def summary(
        self,
        before: Mapping[str, int],
        after: Mapping[str, int],
        prunable: Mapping[str, float],
        small: Model,
        check: SurgeryCheck,
        settings: Mapping[str, Any],
    ) -> Report:
        """Return what every run reports: totals ``before`` and ``after``, the prunable shares, and the proof."""
        place = self.output or self.model.path or Path("model.onnx")
        before = {**before, "bytes": self.model.size}
        after = {**after, "bytes": stored_bytes(small, place)}
        if self._aims and self.settings.aim.kind in ("macs", "params", "size"):
            self._say(require_met(self.settings.aim, before, after, self.settings.options.round_to))
        self._say("" if check.exact else f"the cut is not proven: {check.unproven}")
        return entries.header(self.command, settings) | {
            "model": entries.model_entry(self.model),
            "output": None,
            "before": before,
            "after": after,
            "prunable": prunable,
            "groups": [],
            "frozen": [],
            "surgery": entries.surgery_entry(check),
        }

    def _measurements(self, analysis: Analysis, small: Model) -> Report:
        measured: Report = {"drift": None, "task": None, "latency": None}
        if self.data.measured is not None:
            with self.stages("drift"):
                found = measure_drift(self.model, small, self.data.measured, self.settings, outputs=self.outputs)
            measured |= found.to_json()
            measured["drift"]["rows"] = "calibration" if self.data.evaluation is None else "evaluation"
            self.warnings += found.warnings
            self.warnings += doubts(found, self.settings, self.data.calibration, self.data.evaluation)
        if self.settings.latency:
            try:
                with self.stages("latency"):
                    timed = measure_latency(self.model, small, analysis.facts, self.settings)
                measured["latency"] = timed.to_json()
            except ModelError as error:
                self.warnings.append(f"latency was not measured: {error}")
        return measured

    def _judge_noise(self, facts: Report) -> None:
        latency = facts["latency"]
        gated = self.settings.max_latency_ratio is not None and latency is not None
        if gated and not latency["conclusive"]:
            reason = f"the latency measurement is inconclusive ({'; '.join(latency['reasons'])})"
            if self.settings.strict:
                raise Inconclusive(f"{reason}; nothing was written. Run again on a quieter machine")
            self.warnings.append(f"{reason}; the gate was judged all the same (--strict refuses that)")

    def _save(self, small: Model, path: Path) -> Report:
        with self.stages("save"):
            digest = save(small, path, force=self.force)
        return {"path": str(path), "sha256": digest}


def _next_budget(aim: float, tried: list[tuple[float, float, list[np.ndarray]]]) -> float:
    """Between the largest budget that met the aim and the smallest that did not; in proportion while one of them is unknown."""
    met = max((budget for ratio, budget, _ in tried if ratio <= aim), default=None)
    missed = min((budget for ratio, budget, _ in tried if ratio > aim and (met is None or budget > met)), default=None)
    if met is not None and missed is not None:
        return (met + missed) / 2
    ratio, budget, _ = tried[-1]
    return budget * (1 + LATENCY_SLACK) / 2 * aim / ratio


def totals(costs: Costs, analysis: Analysis, widths: np.ndarray, model: Model | None = None) -> dict[str, int]:
    """Return parameters, MACs of one sample, bytes and channels with ``widths`` units left in each group.

    Copies made for the analysis count where ``model`` holds them.
    """
    found = costs.totals(widths)
    held = model.weights.keys() if model else set()
    absent = [v for v in analysis.parameters if v.name in analysis.facts.model.copies and v.name not in held]
    return found | {
        "macs": found["macs"] // batch_size(analysis.facts),
        "parameters": found["parameters"] - sum(volume.at(widths) for volume in absent),
        "weight_bytes": found["weight_bytes"] - sum(int(volume.at(widths) * volume.itemsize) for volume in absent),
    }
