"""Whole runs that remove only what carries nothing: ``--lossless``.

Models trained with slimming, group sparsity, gates or zeroed groups hold such units; here they become smaller files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.allocate import legal_widths
from onnxprune.changes.lossless import REASONS, Redundant, folded, redundant_units
from onnxprune.changes.plan import Plan
from onnxprune.coupling.cut import Kept
from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.errors import PlanError, SurgeryError
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import Model
from onnxprune.proof.check import Prover
from onnxprune.runs.pipeline import Result, Run
from onnxprune.settings import Settings


@dataclass(frozen=True)
class Shrunk:
    """``analysis``: of the model in which the rest has taken over for the units that go; ``kept``: bool[width] per group."""

    analysis: Analysis
    kept: list[np.ndarray]
    units: tuple[Redundant, ...]


def shrink(analysis: Analysis, settings: Settings) -> Shrunk:
    """Take redundant units out until there are none: what only they read is redundant in the next turn."""
    options = settings.options
    if settings.round_to == "auto":
        options = replace(options, round_to=1)
    lowest = [np.array(widths) for widths in legal_widths(analysis, options)]
    kept = [np.ones(width, bool) for width in analysis.widths]
    units: list[Redundant] = []
    while True:
        room = [int(mask.sum() - widths[0]) for mask, widths in zip(kept, lowest, strict=True)]
        found = redundant_units(analysis, room, [~m for m in kept], seed=settings.seed, threads=settings.threads)
        if not found.units:
            return _aligned(analysis, kept, lowest, units)
        units += found.units
        for unit in found.units:
            kept[unit.group][unit.unit] = False
        analysis = _again(folded(analysis, found), settings)


def _again(model: Model, settings: Settings) -> Analysis:
    facts = gather_facts(model, Graph(model.structure), dict(settings.input_shape))
    return analyse(facts, settings.allowed, settings.prefer)


def _aligned(
    analysis: Analysis, kept: list[np.ndarray], legal: Sequence[np.ndarray], units: Sequence[Redundant]
) -> Shrunk:
    """Give units back, the last to go first, where a width is not one that the group may have; they are silent now."""
    gone = list(units)
    for group, widths in enumerate(legal):
        missing = int(widths[widths >= kept[group].sum()][0] - kept[group].sum())
        for unit in [u for u in reversed(gone) if u.group == group][:missing]:
            kept[group][unit.unit] = True
            gone.remove(unit)
    return Shrunk(analysis, kept, tuple(gone))


class LosslessRun(Run):
    """Like any run, but what goes is found by what the weights say, and the result must equal the original."""

    _shrunk: Shrunk | None = None
    _shrunk_from: Analysis

    def choose(self, analysis: Analysis) -> list[np.ndarray]:
        """Return what stays."""
        return self._shrink(analysis).kept

    def replay(self, plan: Plan, analysis: Analysis) -> list[np.ndarray]:
        """Return the decision that a plan holds; raises PlanError where it removes what carries something."""
        kept, lossless = super().replay(plan, analysis), self._shrink(analysis).kept
        if any((mask & ~planned).any() for mask, planned in zip(lossless, kept, strict=True)):
            raise PlanError("the plan removes units that carry something; apply it without lossless")
        return kept

    def finish(self, analysis: Analysis, kept: Kept, settings: Mapping[str, Any]) -> Result:
        """Carry out the decision on the model in which the rest has taken over."""
        found, self.settings = self._shrink(analysis), replace(self.settings, repair="none")
        counts = Counter(unit.reason for unit in found.units if not kept[unit.group][unit.unit])
        self.extra["lossless"] = {reason: counts[reason] for reason in REASONS}
        if all(mask.all() for mask in kept):
            self.warnings.append("nothing in this model is unread, constant or a duplicate: the result is the original")
        return super().finish(found.analysis, kept, settings)

    def conclude(self, analysis: Analysis, small: Model, plan: Plan, found: Any) -> Result:
        """Refuse a result that is not equal to the original up to float rounding, on random inputs; raises SurgeryError."""
        with self.stages("check"):
            facts, seed = self._shrunk_from.facts, self.settings.seed
            check = Prover(facts, seed=seed, threads=self.settings.threads).compare(facts.model, small, None)
        self.extra["lossless"]["max_relative_error"] = check.error
        if not check.agrees:
            raise SurgeryError(
                f"the outputs moved by more than float rounding explains: {check.problem}; nothing was written"
            )
        return super().conclude(analysis, small, plan, found)

    def _shrink(self, analysis: Analysis) -> Shrunk:
        if self._shrunk is None:
            with self.stages("redundancy"):
                self._shrunk_from, self._shrunk = analysis, shrink(analysis, self.settings)
        return self._shrunk
