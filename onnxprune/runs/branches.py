"""Whole runs that remove residual branches instead of widths: ``--granularity block``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.account import batch_size
from onnxprune.allocate import matcher
from onnxprune.check import SurgeryCheck
from onnxprune.coupling.blocks import Block, Flow, find_blocks
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.depth import (
    BlockCosts,
    Effects,
    Silencing,
    check_blocks,
    choose_blocks,
    culprit_blocks,
    prunable_blocks,
    weight_gains,
    without_blocks,
)
from onnxprune.errors import PlanError, SurgeryError, TargetError, UsageError
from onnxprune.measure.outputs import Outputs
from onnxprune.plans import Plan, check_digest
from onnxprune.report import Report
from onnxprune.runs.pipeline import Result, Run
from onnxprune.runs.stages import Stages, per_run, sign
from onnxprune.settings import Settings

FROZEN_BY_CHECK = "removing it is not exact on this model: kept by the surgery check"


@dataclass(frozen=True)
class Branches:
    """The branches of a model that may go, what each costs, and what each is worth (None: not asked)."""

    analysis: Analysis
    blocks: tuple[Block, ...]
    costs: BlockCosts
    scores: np.ndarray | None = None
    effects: Effects | None = None
    silencing: Silencing | None = None

    def judged(self, calibration: Dataset | None, settings: Settings, outputs: Outputs | None = None) -> Branches:
        """Return the same with scores: divergence when silenced where there is calibration data, else by weights."""
        facts = self.analysis.facts
        if calibration is None or not self.blocks:
            return replace(self, scores=weight_gains(facts, self.blocks))
        silencing = Silencing(
            facts, self.costs.flow, self.blocks, calibration, threads=settings.threads, batch=settings.batch,
            how=outputs,
        )  # fmt: skip
        found = silencing.effects()
        return replace(self, scores=found.divergence, effects=found, silencing=silencing)

    def chosen(self, settings: Settings) -> tuple[Block, ...]:
        assert self.scores is not None
        together = self.silencing.together if self.silencing else None
        return choose_blocks(self.blocks, self.scores, self.costs, per_run(settings.aim, self.analysis), together)

    def totals(self, removed: Sequence[Block] = ()) -> dict[str, int]:
        """Return all totals, MACs of one sample."""
        found = self.costs.totals(removed)
        return found | {"macs": found["macs"] // batch_size(self.analysis.facts)}

    def entries(self, removed: Sequence[Block] = (), kept_by_check: Sequence[Block] = ()) -> list[Report]:
        """Describe every branch: what becomes of it, what it costs, what it is worth."""
        needed = self.costs.flow.needed(removed)
        values = {"score": self.scores} | (self.effects._asdict() if self.effects else {})
        batch = batch_size(self.analysis.facts)
        rows = []
        for number, block in enumerate(self.blocks):
            saved = self.costs.saved(block)
            frozen = block in kept_by_check
            rows.append(
                {
                    "name": block.name,
                    "status": "frozen" if frozen else "kept" if block.branch in needed else "removed",
                    "reason": FROZEN_BY_CHECK if frozen else None,
                    "sum": block.sum.label,
                    "nodes": [node.label for node in block.nodes],
                    "parameters": saved["parameters"],
                    "macs": saved["macs"] // batch,
                }
                | {name: float(array[number]) for name, array in values.items() if array is not None}
            )
        return rows


def find_branches(analysis: Analysis, settings: Settings) -> Branches:
    """Find the branches that ``include`` and ``exclude`` leave; raises UsageError where a pattern matches none."""
    flow = Flow(analysis.facts.graph)
    blocks = find_blocks(analysis, flow)
    included = [_matching(blocks, pattern, "--include") for pattern in settings.include] or [set(blocks)]
    excluded = [_matching(blocks, pattern, "--exclude") for pattern in settings.exclude]
    chosen = set().union(*included).difference(*excluded)
    return Branches(analysis, tuple(b for b in blocks if b in chosen), BlockCosts(analysis, flow))


def _matching(blocks: Sequence[Block], pattern: str, option: str) -> set[Block]:
    known = {name for b in blocks for n in b.nodes for name in (n.label, *n.inputs, *n.outputs)}
    by_node, by_name = matcher(pattern, known)
    found = {b for b in blocks for n in b.nodes if by_node(n) or any(map(by_name, (*n.inputs, *n.outputs)))}
    if not found:
        raise UsageError(f"{option} {pattern!r} matches no branch that can go; onnxprune inspect MODEL lists them")
    return found


@dataclass
class BranchRun(Run):
    """One run that removes branches: the stages of ``Run`` with another kind of decision."""

    branches: Branches = field(init=False)

    def analyse(self) -> Analysis:
        analysis = super().analyse()
        self.branches = find_branches(analysis, self.settings)
        return analysis

    def choose(self, analysis: Analysis) -> Sequence[Block]:  # type: ignore[override]
        with self.stages("evidence"):
            self.branches = self.branches.judged(self.data.calibration, self.settings, self.outputs)
        with self.stages("allocate"):
            return self.branches.chosen(self.settings)

    def replay(self, plan: Plan, analysis: Analysis) -> Sequence[Block]:  # type: ignore[override]
        check_digest(plan, analysis.facts.model.sha256, force=self.force)
        named = {block.name: block for block in self.branches.blocks}
        for name in plan.blocks:
            if name not in named:
                raise PlanError(f"the plan removes the branch {name!r}, which this model does not have")
        return tuple(named[name] for name in plan.blocks)

    def finish(self, analysis: Analysis, kept: Sequence[Block], settings: Mapping[str, Any]) -> Result:  # type: ignore[override]
        small, removed, check, frozen = remove_exactly(self.branches, kept, self.settings, self.stages)
        small = self._recovered(small)
        plan = Plan(analysis.facts.model.sha256, (), {}, settings, tuple(block.name for block in removed))
        sign(small, plan)
        before, after = self.branches.totals(), self.branches.totals(removed)
        facts = self.summary(before, after, prunable_shares(self.branches), small, check, settings)
        facts["blocks"] = self.branches.entries(removed, frozen)
        return self.conclude(analysis, small, plan, facts)


def prunable_shares(branches: Branches) -> dict[str, float]:
    """Return the share of parameters and of MACs that goes when every branch goes that can."""
    whole, rest = branches.totals(), branches.totals(prunable_blocks(branches.blocks, branches.costs))
    return {kind: 1 - rest[kind] / whole[kind] if whole[kind] else 0.0 for kind in ("parameters", "macs")}


def remove_exactly(
    branches: Branches, chosen: Sequence[Block], settings: Settings, stages: Stages
) -> tuple[ModelProto, Sequence[Block], SurgeryCheck, list[Block]]:
    """Remove branches, prove it exact, and where it is not, keep the branches at fault and remove the rest again.

    Raises SurgeryError when the rest is not exact either, TargetError when nothing is left to remove.
    """
    facts, flow, frozen = branches.analysis.facts, branches.costs.flow, list[Block]()
    options = {"seed": settings.seed, "threads": settings.threads}
    small, check = _try_removal(branches, chosen, stages, options)
    if not check.exact:
        with stages("check"):
            frozen = culprit_blocks(facts, flow, chosen, **options)
        chosen = [block for block in chosen if block not in frozen]
        if frozen and not chosen:
            raise TargetError("no branch of this model can go exactly; please report this model. Nothing was written")
        small, check = _try_removal(branches, chosen, stages, options)
    if not check.exact:
        raise SurgeryError(f"the pruned model does not compute what it should ({check.problem}); nothing was written")
    return small, chosen, replace(check, frozen_by_check=tuple(block.name for block in frozen)), frozen


def _try_removal(
    branches: Branches, chosen: Sequence[Block], stages: Stages, options: dict[str, int]
) -> tuple[ModelProto, SurgeryCheck]:
    facts, flow = branches.analysis.facts, branches.costs.flow
    with stages("cut"):
        small = without_blocks(facts, flow, chosen)
    with stages("check"):
        return small, check_blocks(facts, flow, chosen, small, **options)
