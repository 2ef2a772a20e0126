"""Repair within a run: which rows it looks at, what it starts from, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from onnxprune.changes.context import FITTED, Context
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.data import Dataset
from onnxprune.errors import DataError
from onnxprune.measure.isometry import isometry
from onnxprune.model.model import Model
from onnxprune.repair import MOST_ROWS, Method, Repaired, isometric, repair
from onnxprune.repair.moments import Limit
from onnxprune.search import Reconstruction, SearchResult
from onnxprune.settings import AUTO


def fitted_rows(context: Context, calibration: Dataset) -> Dataset:
    """Return the rows that a repair looks at: as many random ones as it takes, which the report says."""
    if len(calibration) <= MOST_ROWS:
        return calibration
    context.notes.warn(
        f"widths and repairs go by {MOST_ROWS:,} random rows of the {len(calibration):,} of the calibration data"
    )
    return calibration.take(MOST_ROWS, context.settings.seed)


def repaired(
    context: Context,
    analysis: Analysis,
    kept: Kept,
    small: Model,
    *,
    start: Reconstruction | None = None,
    searched: SearchResult | None = None,
    limits: Mapping[str, Limit] | None = None,
) -> Model:
    """Return ``small`` repaired as the settings say; ``start``: what a search has repaired on the way to ``kept`` already."""
    settings, calibration = context.settings, context.data.calibration
    if settings.repair == "isometry":
        return _isometric(context, analysis, kept, small)
    if calibration is None or settings.repair == "none":
        if settings.repair not in (AUTO, "none"):
            raise DataError(f"--repair {settings.repair} looks at data; give calibration data (--calib)")
        return small
    rows = fitted_rows(context, calibration)
    same = start is not None and start.kept == kept
    with context.stages("repair"):
        fitted = (start.carried(analysis, small), start.divergence) if start is not None and same else None
        by = start.by if start is not None else "least-squares"
        method = Method(settings.repair, fitted, by, limits or {}, context.data.cache)
        found = repair(analysis, kept, small, rows, method, context.means, context.outputs)
    fit = _fit_of(found, searched if same else None)
    context.notes.entries["repair"] = {"method": found.method, "divergence": found.divergences} | fit
    context.notes.warn(*(start.warnings if start is not None and same else ()), *found.warnings)
    context.notes.warn("" if found.held_out else FITTED.format("the repair was", len(rows)))
    return found.model


def _fit_of(found: Repaired, searched: SearchResult | None) -> dict[str, bool]:
    """Say whether a divergence is that of the weights that were written, and of rows that they were not fitted to."""
    last = searched if searched is not None and found.method == "least-squares" else found
    return {"held_out": found.held_out, "refitted": last.refitted}


def _isometric(context: Context, analysis: Analysis, kept: Kept, small: Model) -> Model:
    """Repair without data; report the singular values in the original, the cut and the repaired model."""
    with context.stages("repair"):
        again = isometric(analysis, kept, small)
        found = [isometry(analysis.facts.model, model) for model in (small, again)]
    context.notes.entries["repair"] = {"method": "isometry", "divergence": {}}
    context.notes.entries["isometry"] = [
        {"weight": cut.weight, "original": asdict(cut.before)}
        | {name: e.after and asdict(e.after) for name, e in (("cut", cut), ("repaired", new))}
        for cut, new in zip(*found, strict=True)
    ]
    return again
