"""What layers and their factors take on this machine: a table of measured times with one more entry per form and rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from onnxprune.allocate.legal import Options
from onnxprune.allocate.timing import TimeTable, signature_of, single_node
from onnxprune.changes.ranks.basis import Basis, Cut, Way
from onnxprune.changes.ranks.costs import FORMS, Count, cost
from onnxprune.changes.ranks.layers import Layer
from onnxprune.changes.ranks.surgery import with_factors
from onnxprune.coupling.groups import Analysis
from onnxprune.means import Means
from onnxprune.model.model import Model

TIMED = 3  # ranks of a form, and input directions where it has any: between these, time is taken as linear


@dataclass(frozen=True, eq=False)
class FactorTimes:
    """Microseconds of layers as they are, ``alone``, and in each form: ``forms`` (layer, form) -> ranks, inputs, float64[ranks, inputs]."""

    alone: dict[Layer, float]
    forms: dict[tuple[Layer, str], tuple[np.ndarray, np.ndarray, np.ndarray]]
    scale: float

    @classmethod
    def measured(
        cls, analysis: Analysis, bases: Sequence[Basis], options: Options, whole_us: float, means: Means
    ) -> FactorTimes:
        """Time every layer, and its forms at a few sizes of those that ``options`` allow; kept in a file between runs.

        ``whole_us``: what the model takes; nodes timed alone may take more than in it.
        """
        specs, table = {id(node): spec for node, spec in analysis.solution.links.specs}, TimeTable(means)
        alone, forms = dict[Layer, float](), {}
        for number, basis in enumerate(bases):
            layer = basis.layer
            spec = specs[id(layer.node)]
            proto, feeds = single_node(analysis, layer.node, spec, spec.sizes)
            signature = signature_of(layer.node, proto, feeds)
            alone[layer] = table.at(number, len(bases)).time(signature, layer.name, proto, feeds)
            model = Model.of(proto)
            for way in basis.ways(options):
                sizes = _some(way)
                times = np.array(
                    [
                        [
                            table.time(
                                [*signature, way.form, int(q), int(p)],
                                f"{layer.name} as {way.form} of {p}",
                                with_factors(model, [Cut(basis, way.form, int(q), int(p))]).proto,
                                feeds,
                            )
                            for q in sizes[1]
                        ]
                        for p in sizes[0]
                    ]
                )
                forms[layer, way.form] = (*sizes, times)
        table.save()
        return cls(alone, forms, min(1.0, 0.95 * whole_us / max(sum(alone.values()), 1e-9)))

    def price(self, layer: Layer, form: str, inputs: Count, rank: Count, kind: str) -> np.ndarray:
        """Return microseconds where ``kind`` is latency, else what ``cost`` says."""
        if kind != "latency":
            return cost(layer, form, inputs, rank, kind)
        if not form:
            return np.asarray(self.scale * self.alone[layer])
        ranks, fronts, times = self.forms[layer, form]
        rank, inputs = np.broadcast_arrays(np.asarray(rank), np.asarray(inputs))
        if len(ranks) == 1 or len(fronts) == 1:
            known, wanted = (ranks, rank) if len(ranks) > 1 else (fronts, inputs)
            values = times.reshape(-1)
            found = np.interp(wanted, known, values) if len(known) > 1 else np.full(rank.shape, values[0])
        else:
            read = scipy.interpolate.RegularGridInterpolator(
                (ranks, fronts), times, bounds_error=False, fill_value=None
            )
            found = read(np.stack([rank, inputs], axis=-1))
        return self.scale * np.maximum(found, 0.0)


def _some(way: Way) -> tuple[np.ndarray, np.ndarray]:
    """Return a few of the sizes of a form, the smallest and the largest among them."""
    ranks = way.ranks if FORMS[way.form].after else way.ranks[-1:]
    return _spread(ranks), _spread(way.inputs)


def _spread(sizes: np.ndarray) -> np.ndarray:
    return sizes[np.unique(np.linspace(0, len(sizes) - 1, TIMED).round().astype(int))]
