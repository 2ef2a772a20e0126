"""How much each group can lose: divergence of the repaired model's outputs against the group's width, one group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from onnxprune.allocate import Options
from onnxprune.allocate.legal import legal_widths, nearest
from onnxprune.coupling.channels import row_importance
from onnxprune.coupling.groups import Analysis
from onnxprune.criteria.curvature import Order
from onnxprune.data import Dataset
from onnxprune.data.repeated import Batches, held_out, in_batches
from onnxprune.means import Means, mapped
from onnxprune.measure.divergence import Reference
from onnxprune.measure.outputs import Outputs
from onnxprune.model.threads import load_blas, one_blas_thread
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
    places = list(_places(analysis, options))

    def tell(done: int) -> None:
        means.progress(analysis.groups[places[done - 1][0]].name, done, len(places))

    found = mapped(means.spread, Narrowings(analysis, orders, fitting, reference), places, tell)
    measured = dict(zip(places, found, strict=True))
    return [_curve(analysis, group, orders, measured) for group in dict.fromkeys(group for group, _ in places)]


@dataclass(frozen=True)
class Narrowings:
    """What the outputs lose where one group alone, by its number, has a width, and the model is repaired."""

    analysis: Analysis
    orders: Sequence[Order]
    fitting: Fitting
    reference: Reference

    def __call__(self, place: tuple[int, int]) -> float:
        load_blas()
        with one_blas_thread:
            widths = self.analysis.widths.copy()
            widths[place[0]] = place[1]
            return self.reference.divergence(reconstruct(self.analysis, widths, self.orders, self.fitting).model)


def _places(analysis: Analysis, options: Options) -> Iterator[tuple[int, int]]:
    """Yield (number of a group, width) of every point, the widest first."""
    for group, legal in zip(analysis.groups, legal_widths(analysis, options), strict=True):
        for width in sorted({nearest(legal, (1 - share) * group.width) for share in SHARES}, reverse=True):
            if width != group.width:
                yield group.index, width


def _curve(
    analysis: Analysis, number: int, orders: Sequence[Order], measured: Mapping[tuple[int, int], float]
) -> Curve:
    group, error = analysis.groups[number], orders[number].error
    widths = [width for index, width in measured if index == number]
    share = [float(error[group.width - width] / max(error[-1], 1e-30)) for width in widths]
    return Curve.fit(group.name, group.width, widths, [measured[number, width] for width in widths], share)


def most_sensitive(found: Sequence[Curve]) -> list[Curve]:
    """Return the groups that cost SENSITIVE times as much as the middle one at half their width, the worst first."""
    halves = [curve.half for curve in found]
    limit = SENSITIVE * float(np.median(halves)) if halves else np.inf
    ranked = sorted(zip(halves, range(len(found)), strict=True), key=lambda entry: (-entry[0], entry[1]))
    return [found[index] for half, index in ranked if half > limit]
