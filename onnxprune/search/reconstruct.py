"""A model narrowed to given widths and repaired, the units that go being chosen on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.readers import reading_weights, unit_readers
from onnxprune.criteria.curvature import Order
from onnxprune.means import Means
from onnxprune.model.graph import Graph
from onnxprune.model.read import FLOATS, Model
from onnxprune.model.runtime import Arrays
from onnxprune.repair.fit import Choice
from onnxprune.repair.sequential import Effort, Sequential
from onnxprune.repair.teacher import Teacher
from onnxprune.search.tables import WIDEST, fitted_tensors, sites_of


@dataclass(frozen=True)
class Reconstruction:
    """A repaired ``model`` from which the units outside ``cut`` are gone and of which those outside ``kept`` are silent.

    ``divergence``: its outputs' from the original's, on rows that took no part in the repair. ``warnings``: see ``Sequential``. ``by``: the
    name of what repaired it.
    """

    model: Model
    kept: Kept
    cut: Kept
    divergence: float = np.inf
    warnings: tuple[str, ...] = ()
    by: str = "least-squares"

    def carried(self, analysis: Analysis, small: Model) -> Model:
        """Return ``small``, the original without the units outside ``kept``, with the reconstruction's weights."""
        cut_away, kept = (Kept.of(analysis, masks) for masks in (self.cut, self.kept))
        source, arrays = Graph(self.model.structure).tensors, {}
        fitted = fitted_tensors(analysis)
        for name, tensor in Graph(small.structure).tensors.items():
            made_by_the_cut = name not in analysis.facts.first
            if made_by_the_cut or not (tensor.data_type in FLOATS or name in fitted):
                continue
            array = self.model.array(source[name])
            for axis in range(array.ndim):
                before, after = (left.mask(name, axis) for left in (cut_away, kept))
                if after is not None:
                    array = np.compress(after if before is None else after[before], array, axis)
            arrays[name] = array
        return small.replaced(arrays)


@dataclass(frozen=True, eq=False)
class Fitting:
    """On what a narrowed model is repaired, and how: ``batches``, ``effort``, ``importance`` and ``teacher`` as ``Sequential`` has them.

    ``choosing``: groups read by one linear node choose there, on the repaired model; else all go by the orders of the original.
    """

    batches: Iterable[Arrays]
    effort: Effort = Effort()
    means: Means = Means()
    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    teacher: Teacher | None = None
    choosing: bool = True


def reconstruct(analysis: Analysis, widths: np.ndarray, orders: Sequence[Order], fitting: Fitting) -> Reconstruction:
    """Narrow every group to ``widths`` and repair."""
    choices = single_readers(analysis, widths, orders) if fitting.choosing else {}
    chosen = {choice.group for choice in choices.values()}
    flags = [np.ones(group.width, bool) for group in analysis.groups]
    for group, order, width in zip(analysis.groups, orders, widths, strict=True):
        if group.index not in chosen:
            flags[group.index][order.order[: group.width - int(width)]] = False
    kept = Kept(analysis, flags)
    walk, model = _walked(analysis, kept, fitting, choices)
    if chosen - walk.chosen.keys():  # a node that the walk does not fit, in a body for instance, chooses nothing
        return reconstruct(analysis, widths, orders, replace(fitting, choosing=False))
    kept_now = Kept(analysis, (walk.chosen.get(g, mask) for g, mask in enumerate(kept)))
    return Reconstruction(model, kept_now, kept, warnings=walk.warnings)


def refitted(analysis: Analysis, kept: Kept, fitting: Fitting) -> Reconstruction:
    """Cut every unit outside ``kept`` and repair."""
    walk, model = _walked(analysis, kept, fitting, {})
    return Reconstruction(model, kept, kept, warnings=walk.warnings)


def _walked(
    analysis: Analysis, kept: Kept, fitting: Fitting, choices: Mapping[str, Choice]
) -> tuple[Sequential, Model]:
    """Return the walk that repaired the model without the units outside ``kept``, and what came of it."""
    small = analysis.facts.model if kept.is_whole else cut(analysis, kept)
    walk = Sequential(
        analysis, kept, fitting.batches, choices, effort=fitting.effort, means=fitting.means,
        importance=fitting.importance, teacher=fitting.teacher,
    )  # fmt: skip
    return walk, walk.run(small)


def single_readers(analysis: Analysis, widths: np.ndarray, orders: Sequence[Order]) -> dict[str, Choice]:
    """Return weight -> choice for groups that lose units and that one linear node alone reads."""
    weights = reading_weights(analysis)
    linears = {site.linear.weight: site.linear for site in sites_of(analysis)}
    found = {}
    for group in analysis.groups:
        readers = [member for member in group.members if member.role == "reads"]
        alone = len(readers) == 1 and len(unit_readers(analysis)[group.index]) == 1  # no norm takes statistics over it
        if alone and len(weights[readers[0].parameter]) == 1 and widths[group.index] < group.width:
            linear = linears.get(readers[0].parameter)
            if linear is None or linear.groups > 1 or (readers[0].units < 0).any():
                continue
            taps = 1 if linear.window is None else linear.window.taps
            if len(readers[0].units) * taps <= WIDEST:
                order, width = orders[group.index].order, int(widths[group.index])
                found[linear.weight] = Choice(group.index, readers[0].units, width, order)
    return found
