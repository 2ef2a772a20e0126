"""The Kronecker-factored eigenbasis of each layer, and what every direction of it is worth.

Wang et al. 2019, "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis", section 4: with A = E h h^T = Q_A L_A Q_A^T of a
layer's inputs and S = E g g^T = Q_S L_S Q_S^T of the gradients at its outputs, W' = Q_S^T W Q_A is the weight in the basis in which the
Fisher matrix T (A x S) is diagonal. Both moments are taken per channel, the same for every tap of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.allocate.legal import Options, aligned_parts, nearest
from onnxprune.changes.ranks.basis import Basis, Cut, Way, direction_counts
from onnxprune.changes.ranks.costs import FORMS, cost, forms
from onnxprune.changes.ranks.layers import Layer
from onnxprune.coupling.groups import Analysis
from onnxprune.data import Dataset
from onnxprune.evidence import Cache, gather
from onnxprune.evidence.gradients import curvatures
from onnxprune.evidence.gradients.taps import Tap
from onnxprune.evidence.needs import Need
from onnxprune.evidence.sites import Site
from onnxprune.means import Means
from onnxprune.measure.outputs import Outputs
from onnxprune.repair.moments import Subspace


@dataclass(frozen=True, eq=False)
class Eigenbasis(Basis):
    """Orthonormal directions of a layer: ``inputs`` float64[i, i], ``outputs`` float64[o, o], in columns.

    ``damage`` float64[o, i]: change of the loss when one entry of the rotated weight goes. ``metric`` float64[o, o]: S.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    damage: np.ndarray
    metric: np.ndarray

    def lost(self) -> np.ndarray:
        """Return float64[o + 1, i + 1]: the damage of keeping the first p output and the first q input directions."""
        kept = np.zeros((len(self.outputs) + 1, len(self.inputs) + 1))
        kept[1:, 1:] = self.damage.cumsum(0).cumsum(1)
        return np.maximum(kept[-1, -1] - kept, 0.0)

    @property
    def whole(self) -> float:
        return float(self.damage.sum())

    def ways(self, options: Options) -> Iterator[Way]:
        """Yield every form but the split one, whose factors are no directions of channels."""
        ranks, inputs = direction_counts(self.layer.outputs, options), direction_counts(self.layer.inputs, options)
        lost = self.lost()[np.ix_(ranks, inputs)]
        wide = ranks[:, None] > inputs * self.layer.taps  # more than a core can have
        for form in (form for form in forms(self.layer) if not FORMS[form].splits):
            yield Way(form, ranks, inputs, np.where(wide, np.inf, lost) if form == "both" else lost)

    def at_ratio(self, ratio: float, options: Options) -> Cut | None:
        """Return the layer without so large a share of its directions on both sides."""
        layer = self.layer
        inputs, rank = (nearest(aligned_parts(n, options), (1 - ratio) * n) for n in (layer.inputs, layer.outputs))
        found = cut_to(self, inputs, rank)
        found = replace(found, inputs=found.reads, rank=found.makes)  # what a form does not save, it keeps
        return found if cost(*found.entry, "macs") < layer.macs else None

    def projected(self, cut: Cut, weight: np.ndarray) -> np.ndarray:
        """Return float64[o, i, taps]: P_S W P_A."""
        first, second = self.reading(cut), self.outputs[:, : cut.rank]
        kept = np.einsum("op,xp,xit->oit", second, second, weight, optimize=True)
        return np.einsum("oit,iq,jq->ojt", kept, first, first, optimize=True)

    def reading(self, cut: Cut) -> np.ndarray:
        return self.inputs[:, : cut.inputs]

    def limit(self, cut: Cut, weight: np.ndarray) -> Subspace:
        return Subspace(self.reading(cut), cut.rank, self.metric)


def cut_to(basis: Eigenbasis, inputs: int, rank: int) -> Cut:
    """Return a layer with so many directions left, in the form that costs the fewest MACs."""
    able = [form for form in forms(basis.layer) if not FORMS[form].splits]
    able = [form for form in able if form != "both" or rank <= inputs * basis.layer.taps]
    prices = {form: int(cost(basis.layer, form, inputs, rank, "macs")) for form in able}
    return Cut(basis, min(prices, key=lambda form: prices[form]), inputs, rank)


def eigenbases(
    analysis: Analysis,
    layers: Sequence[Layer],
    dataset: Dataset,
    means: Means = Means(),
    cache: Cache | None = None,
    outputs: Outputs | None = None,
) -> tuple[list[Eigenbasis], tuple[str, ...]]:
    """Return the basis of each layer from one forward and one backward pass over the data, and warnings.

    ``outputs``: how these are compared.
    Raises ModelError for an operator on the way without a gradient rule.
    """
    needs = [Need("gram", layer.linear.source, layer.axes[0]) for layer in layers]
    seen = gather(analysis.facts, dataset, needs, means, cache=cache)
    found = curvatures(analysis, [tap_of(layer) for layer in layers], dataset, means, outputs)
    bases = [
        rotated(layer, analysis.facts.content(layer.name), seen[need].second_moment[0], c.moment[0], c.positions)
        for layer, need, c in zip(layers, needs, found, strict=True)
    ]
    return bases, seen.warnings


def tap_of(layer: Layer) -> Tap:
    """Return where the gradients of a layer's outputs are looked at."""
    site = Site(layer.node, layer.linear.source, layer.axes[0], np.arange(layer.inputs), layer.name)
    return Tap(site, layer.linear.source, layer.node.outputs[0], layer.axes[1])


def rotated(layer: Layer, weight: np.ndarray, inputs: np.ndarray, outputs: np.ndarray, positions: float) -> Eigenbasis:
    """Return the basis of a layer with the second moments ``inputs`` (A) and ``outputs`` (S) over so many positions per sample.

    An entry of W' costs T L_S L_A W'^2 / 2; a row or a column costs the sum over it.
    """
    (power, first), (curvature, second) = map(_eigen, (inputs, outputs))
    turned = np.einsum("op,oit,iq->pqt", second, layer.matrix(weight), first, optimize=True)
    damage = positions / 2 * np.square(turned).sum(2) * curvature[:, None] * power
    rows, columns = (np.argsort(-damage.sum(axis), kind="stable") for axis in (1, 0))
    return Eigenbasis(layer, first[:, columns], second[:, rows], damage[np.ix_(rows, columns)], outputs)


def _eigen(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh((moment + moment.T) / 2)
    return np.maximum(values, 0.0), vectors
