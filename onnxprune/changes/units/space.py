"""Units as a kind of change: channels, heads and neurons go, groups become narrower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from onnxprune.allocate import Costs, Target, legal_widths
from onnxprune.allocate.account import model_totals
from onnxprune.changes.aims import ratio_met
from onnxprune.changes.change import Change, Refuted, Space, Totals
from onnxprune.changes.context import Context
from onnxprune.changes.plan import kept_of, units_record
from onnxprune.changes.repairing import repaired
from onnxprune.changes.units.centre import mean_free_where_cut
from onnxprune.changes.units.choose import choose
from onnxprune.changes.units.scored import Chosen
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck, check_cut
from onnxprune.report import entries
from onnxprune.report.entries import Report
from onnxprune.report.picturing import graph_entry


@dataclass(frozen=True)
class Narrowing(Change[int]):
    """Groups, by number, that lose the units outside their mask of ``chosen``, and what is known of the weights then."""

    chosen: Chosen

    @cached_property
    def kept(self) -> Kept:
        """The units that stay."""
        return self.chosen.kept.only(set(self.parts))


WIDENED = (
    "{name!r} is a stream and an output in one: {reads} of its {width} channels are left, and without data nothing tells the others "
    "from these: they are constant"
)


class Units(Space[int]):
    """The groups of a model, by number."""

    kind, name, noun = "units", "groups", "group"
    aims: ClassVar[tuple[str, ...]] = ("ratio", "macs", "params", "size", "latency")

    def __init__(self, context: Context):
        super().__init__(context)
        self.analysis = context.analysis
        self.barred = self.analysis.barred

    def parts(self) -> Sequence[int]:
        return range(len(self.analysis.groups))

    def label(self, part: Any) -> str:
        return self.analysis.groups[part].name

    def without(self, refuted: Refuted) -> Self:
        rest = super().without(refuted)
        rest.analysis = self.analysis.without(refuted.parts)
        return rest

    def narrowing(self, chosen: Chosen) -> Narrowing:
        return Narrowing(self, chosen.kept.narrowed, chosen)

    def choose(self, aim: Target) -> Narrowing:
        settings = self.context.settings
        solved = settings.searches and self.context.data.calibration is not None
        start = self.cut_from(range(len(self.analysis.groups))) if solved or settings.moves else self.analysis
        return self.narrowing(choose(self.context, start, aim))

    def cut_from(self, groups: Iterable[int]) -> Analysis:
        """Return the analysis of what is cut where these groups lose units: their streams are rid of their mean if they can be."""
        return mean_free_where_cut(self.context, self.analysis, tuple(groups))

    def read(self, record: Mapping[str, Any]) -> Narrowing:
        return self.narrowing(Chosen(self._open_only(kept_of(record, self.analysis))))

    def _open_only(self, kept: Kept) -> Kept:
        """Return what stays where groups that the proof has refused to cut stay whole."""
        return kept.only([group for group in kept.narrowed if group not in self.barred])

    def record(self, change: Change[int]) -> Mapping[str, Any]:
        return units_record(self.analysis, _kept(change))

    def made(self, change: Change[int]) -> Model:
        return cut(self.cut_from(change.parts), _kept(change))

    def checked(self, change: Change[int], small: Model) -> SurgeryCheck:
        return check_cut(self.cut_from(change.parts), _kept(change), small, prover=self.context.prover)

    def repaired(self, change: Change[int], small: Model) -> Model:
        assert isinstance(change, Narrowing)
        start, searched = change.chosen.start, change.chosen.searched
        self._tell_unfitted(change)
        analysis = self.cut_from(change.parts)
        if change.chosen.final and start is not None:
            return start.carried(analysis, small)
        return repaired(self.context, analysis, _kept(change), small, start=start, searched=searched)

    def _tell_unfitted(self, change: Narrowing) -> None:
        """Say which outputs are read from fewer channels than they have where no data fits them."""
        if self.context.data.calibration is not None and self.context.settings.repair != "none":
            return
        for row in entries.widened_entries(self.analysis, change.kept):
            if row["status"] == "widened":
                self.context.notes.warn(WIDENED.format(**row))

    def trained(self, change: Change[int]) -> bool:
        assert isinstance(change, Narrowing)
        return change.chosen.final

    def positions(self, change: Change[int], value: str) -> dict[int, np.ndarray]:
        return _kept(change).positions(value)

    def totals(self, change: Change[int] | None = None, small: Model | None = None) -> Totals:
        return model_totals(self.analysis, self.analysis.widths if change is None else _kept(change).widths, small)

    def prunable(self) -> dict[str, float]:
        return Costs(self.analysis).prunable()

    def reached(self, change: Change[int], aim: Target) -> str:
        if aim.kind != "ratio":
            return ""
        options, before = self.context.settings.options, self.analysis.widths
        movable = [g for g, legal in enumerate(legal_widths(self.analysis, options)) if len(legal) > 1]
        after = _kept(change).widths
        gone = 1 - float(after[movable].sum()) / max(float(before[movable].sum()), 1.0)
        return ratio_met(aim, gone, options.round_to)

    def entries(self, change: Change[int] | None = None) -> Report:
        reasons = {g: barrier.reason for g, barrier in self.barred.items()}
        kept = None if change is None else _kept(change)
        groups = entries.group_entries(self.analysis, kept, reasons)
        told: Report = {"groups": groups, "frozen": entries.frozen_entries(self.analysis)}
        told["graph"] = graph_entry(self.analysis, kept)
        found = {
            "streams": entries.stream_entries(self.analysis, kept),
            "widened": entries.widened_entries(self.analysis, kept),
        }
        return told | {key: rows for key, rows in found.items() if rows}


def _kept(change: Change[int]) -> Kept:
    assert isinstance(change, Narrowing)
    return change.kept
