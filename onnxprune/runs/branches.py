"""Whole runs that remove residual branches instead of widths: ``--granularity block``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.allocate import matcher
from onnxprune.allocate.account import batch_size
from onnxprune.changes.branches import (
    BlockCosts,
    Effects,
    Silencing,
    check_blocks,
    choose_blocks,
    prunable_blocks,
    weight_gains,
    without_blocks,
)
from onnxprune.changes.plan import Plan, check_digest
from onnxprune.coupling.blocks import Block, Flow, find_blocks
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.links import Barrier
from onnxprune.data import Dataset
from onnxprune.errors import PlanError, UsageError
from onnxprune.measure.outputs import Outputs
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck
from onnxprune.report.entries import Report
from onnxprune.runs.pipeline import Result, Run
from onnxprune.runs.proving import Refuted, first_rows, proven
from onnxprune.runs.stages import per_run, signed
from onnxprune.settings import Settings


@dataclass(frozen=True)
class Branches:
    """The branches of a model that may go, what each costs, and what each is worth (None: not asked).

    ``barred``: branches that stay after all, since the proof has refused to remove them.
    """

    analysis: Analysis
    blocks: tuple[Block, ...]
    costs: BlockCosts
    scores: np.ndarray | None = None
    effects: Effects | None = None
    silencing: Silencing | None = None
    barred: Mapping[Block, Barrier] = field(default_factory=dict)

    def judged(self, calibration: Dataset | None, settings: Settings, outputs: Outputs | None = None) -> Branches:
        """Return the same with scores: divergence when silenced where there is calibration data, else by weights."""
        facts = self.analysis.facts
        if self.scores is not None:
            return self
        if calibration is None or not self.blocks:
            return replace(self, scores=weight_gains(facts, self.blocks))
        silencing = Silencing(facts, self.costs.flow, self.blocks, calibration, settings.means, outputs)
        found = silencing.effects()
        return replace(self, scores=found.divergence, effects=found, silencing=silencing)

    def chosen(self, settings: Settings) -> tuple[Block, ...]:
        assert self.scores is not None
        together = self.silencing.together if self.silencing else None
        scores = self.scores[[block not in self.barred for block in self.blocks]]
        return choose_blocks(self.open, scores, self.costs, per_run(settings.aim, self.analysis), together)

    @property
    def open(self) -> tuple[Block, ...]:
        """The branches that may still go."""
        return tuple(block for block in self.blocks if block not in self.barred)

    def totals(self, removed: Sequence[Block] = ()) -> dict[str, int]:
        """Return all totals, MACs of one sample."""
        found = self.costs.totals(removed)
        return found | {"macs": found["macs"] // batch_size(self.analysis.facts)}

    def entries(self, removed: Sequence[Block] = ()) -> list[Report]:
        """Describe every branch: what becomes of it, what it costs, what it is worth."""
        needed = self.costs.flow.needed(removed)
        values = {"score": self.scores} | (self.effects._asdict() if self.effects else {})
        batch = batch_size(self.analysis.facts)
        rows = []
        for number, block in enumerate(self.blocks):
            saved = self.costs.saved(block)
            barrier = self.barred.get(block)
            rows.append(
                {
                    "name": block.name,
                    "status": "frozen" if barrier else "kept" if block.branch in needed else "removed",
                    "reason": barrier.reason if barrier else None,
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
        check_digest(plan, analysis.facts.model.source_sha256, force=self.force)
        named = {block.name: block for block in self.branches.blocks}
        for name in plan.blocks:
            if name not in named:
                raise PlanError(f"the plan removes the branch {name!r}, which this model does not have")
        return tuple(named[name] for name in plan.blocks)

    def without(self, analysis: Analysis, refuted: Refuted) -> Analysis:
        """Leave the branches that the proof refused; raises TargetError where no others are left."""
        self.branches = replace(self.branches, barred={**self.branches.barred, **refuted.parts})
        if not self.branches.open:
            raise refuted.nothing_left("branch")
        return analysis

    def finish(self, analysis: Analysis, kept: Sequence[Block], settings: Mapping[str, Any]) -> Result:  # type: ignore[override]
        removed = [block for block in kept if block not in self.branches.barred]
        small, check = self.remove_exactly(removed)
        small = self._recovered(small)
        plan = Plan(analysis.facts.model.source_sha256, (), {}, settings, tuple(block.name for block in removed))
        small = signed(small, plan)
        before, after = self.branches.totals(), self.branches.totals(removed)
        facts = self.summary(before, after, prunable_shares(self.branches), small, check, settings)
        facts["blocks"] = self.branches.entries(removed)
        return self.conclude(analysis, small, plan, facts)

    def remove_exactly(self, removed: Sequence[Block]) -> tuple[Model, SurgeryCheck]:
        """Remove branches and prove it exact; raises Refuted."""
        facts, flow = self.branches.analysis.facts, self.branches.costs.flow
        options: dict[str, Any] = {"seed": self.settings.seed, "threads": self.settings.threads}
        options["rows"] = first_rows(self.data.measured)
        made = proven(
            removed,
            lambda some: without_blocks(facts, flow, some),
            lambda some, small: check_blocks(facts, flow, some, small, **options),
            self.settings,
            self.stages,
        )
        assert made.model is not None
        return made.model, replace(made.check, frozen_by_check=tuple(block.name for block in self.branches.barred))


def prunable_shares(branches: Branches) -> dict[str, float]:
    """Return the share of parameters and of MACs that goes when every branch goes that can."""
    whole, rest = branches.totals(), branches.totals(prunable_blocks(branches.open, branches.costs))
    return {kind: 1 - rest[kind] / whole[kind] if whole[kind] else 0.0 for kind in ("parameters", "macs")}
