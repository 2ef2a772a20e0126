"""How much each group can lose: divergence of the repaired model's outputs against the group's width, one group at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from onnxprune.allocate import Options
from onnxprune.allocate.legal import legal_widths, nearest
from onnxprune.coupling.channels import row_importance
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, held_out, in_batches
from onnxprune.means import Means
from onnxprune.measure.divergence import Reference
from onnxprune.measure.outputs import Outputs
from onnxprune.repair import Effort
from onnxprune.repair.teacher import Teacher, batch_of, positions_of
from onnxprune.search import FIT, HELD_OUT, JUDGE, WEIGHINGS, Fitting, error_tables, reconstruct

SHARES = (0.25, 0.5, 0.75)  # of a group's units that go
WEAK = 0.01  # damping, times the usual: curves compare groups, of which most are cut far less
SENSITIVE = 3.0  # times the middle group's divergence: worth an --exclude


@dataclass(frozen=True)
class Curve:
    """One group at several widths, widest first.

    ``error``: as a share of what losing the whole group costs its readers, from second moments. ``divergence``: of the repaired
    model's outputs, measured; ``fitted``: the nearest curve that only rises.
    """

    group: str
    width: int
    widths: tuple[int, ...]
    error: tuple[float, ...]
    divergence: tuple[float, ...]
    fitted: tuple[float, ...]

    @classmethod
    def fit(
        cls, name: str, width: int, widths: Sequence[int], measured: Sequence[float], error: Sequence[float] = ()
    ) -> Curve:
        """Return the curve through what was measured at ``widths``."""
        finite = np.minimum(measured, np.finfo(np.float32).max)
        fitted = tuple(float(value) for value in scipy.optimize.isotonic_regression(finite).x)
        return cls(name, width, tuple(widths), tuple(error), tuple(measured), fitted)

    @property
    def half(self) -> float:
        """Return what the curve says at half the width: read between measured widths, or at the least one."""
        return float(np.interp(-0.5 * self.width, [-self.width, *np.negative(self.widths)], [0.0, *self.fitted]))

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def curves(
    analysis: Analysis,
    dataset: Dataset,
    options: Options,
    fallback: Sequence[np.ndarray],
    means: Means = Means(),
    outputs: Outputs | None = None,
) -> list[Curve]:
    """Return the curves of all groups that may be cut; each point repairs on some rows and is judged on others."""
    fit, judge = held_out(dataset, HELD_OUT, JUDGE, means.seed)
    means, rows = means.masked(dataset.schema.padding_mask), fit.take(FIT, means.seed)
    importance = {} if outputs is None else row_importance(analysis.solution.links, outputs)
    batches = Batches(rows, batch_of(analysis, rows, means))
    teacher = Teacher(analysis.facts, batches, means, positions=positions_of(len(rows)))
    tables = error_tables(analysis, teacher, fallback, importance)
    fitting = Fitting(batches, Effort(turns=1, damping=WEAK), means.quiet, importance, teacher)
    orders = [tables.order(group.index, WEIGHINGS["mixed"]) for group in analysis.groups]
    reference = Reference(analysis.facts.model, in_batches(judge, analysis.facts, means), means, outputs=outputs)
    found = []
    legals = legal_widths(analysis, options)
    for group, legal in zip(analysis.groups, legals, strict=True):
        widths = sorted({nearest(legal, (1 - share) * group.width) for share in SHARES} - {group.width}, reverse=True)
        if not widths:
            continue
        means.progress(group.name, group.index, len(analysis.groups))
        measured = []
        for width in widths:
            trial = analysis.widths.copy()
            trial[group.index] = width
            repaired = reconstruct(analysis, trial, orders, fitting)
            measured.append(reference.divergence(repaired.model))
        error = orders[group.index].error
        share = [float(error[group.width - width] / max(error[-1], 1e-30)) for width in widths]
        found.append(Curve.fit(group.name, group.width, widths, measured, share))
    return found


def most_sensitive(found: Sequence[Curve]) -> list[Curve]:
    """Return the groups that cost SENSITIVE times as much as the middle one at half their width, the worst first."""
    halves = [curve.half for curve in found]
    limit = SENSITIVE * float(np.median(halves)) if halves else np.inf
    ranked = sorted(zip(halves, range(len(found)), strict=True), key=lambda entry: (-entry[0], entry[1]))
    return [found[index] for half, index in ranked if half > limit]
