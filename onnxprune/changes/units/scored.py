"""What a criterion's scores leave under a target, and what a choice of units is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.allocate import SELECTIONS, Target, allocate
from onnxprune.changes.context import Context
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.criteria import score
from onnxprune.data import Dataset
from onnxprune.errors import DataError
from onnxprune.evidence.journal import Journal
from onnxprune.search import Reconstruction, SearchResult


@dataclass(frozen=True)
class Chosen:
    """``kept``: the units that stay. ``start``: a model with these units that was repaired on the way (None: none).

    ``searched``: what led there; ``final``: the weights of ``start`` are those to be written.
    """

    kept: Kept
    start: Reconstruction | None = None
    searched: SearchResult | None = None
    final: bool = False


def rows_for_criterion(context: Context) -> Dataset:
    """Return the rows that the criterion looks at; raises DataError where there are none."""
    if context.data.calibration is None:
        raise DataError(f"criterion {context.settings.scorer.name!r} looks at data; give calibration data (--calib)")
    return context.data.calibration


def by_scores(
    context: Context,
    analysis: Analysis,
    aim: Target,
    evidence: Mapping[str, Any] | None = None,
    journal: Journal | None = None,
) -> tuple[Kept, tuple[str, ...]]:
    """Return the units that stay, and warnings; raises TargetError where that is impossible. ``journal``: see ``score``."""
    settings = context.settings
    scores = score(analysis, settings.scorer, context.means, evidence=evidence, journal=journal)
    kept = allocate(analysis, scores.values, context.per_run(aim), settings.options)
    chosen = SELECTIONS[settings.selection](analysis, settings.scorer, kept, settings.means)
    return Kept(analysis, chosen), scores.warnings
