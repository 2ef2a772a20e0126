"""Units that carry nothing as a kind of change (``--lossless``): networks trained with slimming, gates or group sparsity hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnxprune.allocate import Target, legal_widths
from onnxprune.changes.analysing import facts_of, grouped
from onnxprune.changes.change import Change, Takes
from onnxprune.changes.lossless.find import REASONS, Redundant, redundant_units
from onnxprune.changes.lossless.fold import folded
from onnxprune.changes.units.scored import Chosen
from onnxprune.changes.units.space import Narrowing, Units
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.errors import PlanError
from onnxprune.model.model import Model
from onnxprune.proof.check import Prover, SurgeryCheck, check_cut
from onnxprune.report.entries import Report
from onnxprune.settings import Settings


@dataclass(frozen=True)
class Shrunk:
    """``analysis``: of the model in which the rest has taken over for the units that go; ``kept``: bool[width] per group."""

    analysis: Analysis
    kept: list[np.ndarray]
    units: tuple[Redundant, ...]


class Lossless(Units):
    """What goes is found by what the weights say, and the result must equal the original."""

    kind = "lossless"
    takes: ClassVar[Takes] = {
        "ratio": (None,), "target": (None,), "max_divergence": (None,), "criterion": ("auto",), "repair": ("auto", "none"),
        "recover": (0, "0"), "search": (0.0,), "search_recover": (0,), "schedule": ("one-shot",),
    }  # fmt: skip
    aims: ClassVar[tuple[str, ...]] = ()
    shrunk: Shrunk | None = None

    def choose(self, aim: Target) -> Narrowing:
        kept = self._open_only(Kept(self.analysis, self._shrink().kept))
        return self._taken(self.narrowing(Chosen(kept)))

    def read(self, record: Mapping[str, Any]) -> Narrowing:
        """Return what a plan holds; raises PlanError where it removes what carries something."""
        planned = super().read(record)
        if any((mask & ~kept).any() for mask, kept in zip(self._shrink().kept, planned.kept, strict=True)):
            raise PlanError("the plan removes units that carry something; apply it without lossless")
        return self._taken(planned)

    def made(self, change: Change[int]) -> Model:
        """Cut the model in which the rest has taken over."""
        assert isinstance(change, Narrowing)
        return cut(self._shrink().analysis, change.kept)

    def checked(self, change: Change[int], small: Model) -> SurgeryCheck:
        """The cut has to be exact, and the result equal to the original up to float rounding, on random inputs."""
        assert isinstance(change, Narrowing)
        found, prover = self._shrink(), self.context.prover
        own = Prover(found.analysis.facts, seed=prover.seed, threads=prover.threads, rows=prover.rows)
        check = check_cut(found.analysis, change.kept, small, prover=own)
        whole = prover.compare(self.context.facts.model, small, None)
        self.context.notes.entries["lossless"]["max_relative_error"] = whole.error
        if check.agrees and not whole.agrees:
            problem = f"the outputs moved by more than float rounding explains: {whole.problem}"
            return replace(check, exact=False, problem=problem)
        return check

    def repaired(self, change: Change[int], small: Model) -> Model:
        return small

    def reached(self, change: Change[int], aim: Target) -> str:
        return ""

    def entries(self, change: Change[int] | None = None) -> Report:
        folded_in = Units(replace(self.context, analysis=self._shrink().analysis))
        folded_in.barred = self.barred
        return Units.entries(folded_in, change)

    def _taken(self, change: Narrowing) -> Narrowing:
        counts = Counter(unit.reason for unit in self._shrink().units if not change.kept[unit.group][unit.unit])
        self.context.notes.entries["lossless"] = {reason: counts[reason] for reason in REASONS}
        if not change.parts:
            self.context.notes.warn(
                "nothing in this model is unread, constant or a duplicate: the result is the original"
            )
        return change

    def _shrink(self) -> Shrunk:
        if self.shrunk is None:
            with self.context.stages("redundancy"):
                self.shrunk = shrink(self.context.analysis, self.context.settings)
        return self.shrunk


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
        analysis = grouped(facts_of(folded(analysis, found), settings), settings)


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
