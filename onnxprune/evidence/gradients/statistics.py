"""What is summed up over the data: products of values and their gradients, reduced to a few numbers per unit.

Every observer says which gradients and values it needs, is fed one batch at a time, and gives one result per group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from onnxprune.coupling.groups import Analysis, Member
from onnxprune.evidence.gradients.taps import Tap, Tapped
from onnxprune.evidence.needs import Need
from onnxprune.evidence.rows import Sampler, by_sample, sampled_rows
from onnxprune.evidence.sites import GRAM_LIMIT, Site
from onnxprune.evidence.stats import Gram, Moments
from onnxprune.grad import gradient_name
from onnxprune.model.read import FLOATS

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Gates:
    """How the loss of a sample answers to the gate of each unit at each of its sites: a = sum over positions of h * dL/dh.

    float64[sites, width]: the means of a, |a| and a^2 over the samples; ``joint`` float64[width]: that of (sum over sites of a)^2.
    ``sizes`` float64[sites]: elements of h per unit and sample.
    """

    signed: np.ndarray
    absolute: np.ndarray
    square: np.ndarray
    joint: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class Products:
    """Per unit float64[width], of one parameter axis with weights w and gradients g of a batch's mean loss.

    Means over batches of sum(w g), sum |w g| and sum (w g)^2 over the unit's weights; ``spread``: that of the batch's size times
    the last, which for losses drawn from the model's own outputs is sum(w^2 H_ii), H the Fisher matrix of a sample's loss.
    """

    signed: np.ndarray
    absolute: np.ndarray
    square: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Curvature:
    """Second moment of the gradients at a site's output: float64[groups, outputs, outputs], its diagonal where that is too large.

    ``positions`` per sample that add up. ``weighted``: whether it is the output of the site's weight, else that of the site itself.
    """

    moment: np.ndarray
    positions: float
    weighted: bool


class Answers(NamedTuple):
    """What one batch shows: gradients and values by name, and which samples these are of."""

    values: Tensors
    sampler: Sampler


class Differential:
    """Base of observers. ``wrt``: values whose gradients are needed; ``outputs``: values needed themselves.

    ``seen``: the attributes that hold what was seen.
    """

    order: ClassVar[int] = 1
    seen: ClassVar[tuple[str, ...]]
    wrt: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def fresh(self) -> Self:
        """Return an observer of the same that has seen nothing."""
        raise NotImplementedError

    def update(self, seen: Answers) -> None:
        raise NotImplementedError

    def merge(self, other: Any) -> None:
        """Add what later samples showed."""
        raise NotImplementedError

    def results(self) -> list[Any]:
        """Return one result per group."""
        raise NotImplementedError


@dataclass
class MeanOfArrays:
    """A mean over samples of arrays of one shape."""

    total: np.ndarray | float = 0.0
    count: float = 0.0

    def add(self, value: np.ndarray, weight: float) -> None:
        self.total, self.count = self.total + weight * value, self.count + weight

    def merge(self, other: MeanOfArrays) -> None:
        self.total, self.count = self.total + other.total, self.count + other.count

    @property
    def value(self) -> np.ndarray:
        return np.asarray(self.total) / max(self.count, 1.0)


class GateObserver(Differential):
    """Sums of h * dL/dh per sample and unit at every tap."""

    seen = ("means", "sizes")

    def __init__(self, analysis: Analysis, tapped: Tapped):
        self.analysis, self.tapped, self.taps = analysis, tapped, tapped.taps
        self.widths = analysis.widths
        self.wrt = self.outputs = tuple(dict.fromkeys(tap.value for there in self.taps for tap in there))
        self.means = [[MeanOfArrays() for _ in range(4)] for _ in self.taps]
        self.sizes = [np.zeros(len(there)) for there in self.taps]

    def fresh(self) -> GateObserver:
        return GateObserver(self.analysis, self.tapped)

    def merge(self, other: GateObserver) -> None:
        _merge((mean for there in self.means for mean in there), (mean for there in other.means for mean in there))
        self.sizes = [np.where(new, new, old) for old, new in zip(self.sizes, other.sizes, strict=True)]

    def update(self, seen: Answers) -> None:
        values, sampler = seen
        for group, there in enumerate(self.taps):
            if there:
                answers = [self._answer(group, number, tap, values, sampler) for number, tap in enumerate(there)]
                stacked = np.stack(np.broadcast_arrays(*answers))
                parts = (stacked, np.abs(stacked), np.square(stacked), np.square(stacked.sum(axis=0)))
                for mean, part in zip(self.means[group], parts, strict=True):
                    mean.add(part.mean(axis=-2), sampler.samples)

    def _answer(self, group: int, number: int, tap: Tap, values: Tensors, sampler: Sampler) -> np.ndarray:
        """Return float64[samples, width]."""
        value, gradient = values[tap.value], values[gradient_name(tap.value)]
        product = np.multiply(value, gradient, dtype=np.float64)
        channels = by_sample(product, tap.site.axis, sampler.samples).sum(axis=1)
        self.sizes[group][number] = value.size / sampler.samples / self.widths[group]
        return summed_by_unit(channels, tap.site.units, int(self.widths[group]))

    def results(self) -> list[Gates | None]:
        return [self._gates(group) if there else None for group, there in enumerate(self.taps)]

    def _gates(self, group: int) -> Gates:
        signed, absolute, square, joint = (mean.value for mean in self.means[group])
        return Gates(signed, absolute, square, joint, self.sizes[group])


def _merge(ours: Iterable[MeanOfArrays], theirs: Iterable[MeanOfArrays]) -> None:
    for mean, other in zip(ours, theirs, strict=True):
        mean.merge(other)


def summed_by_unit(channels: np.ndarray, units: np.ndarray, width: int) -> np.ndarray:
    """Return [.., width]: float64[.., channels] summed over each unit's positions."""
    result = np.zeros((width, *channels.shape[:-1]))
    inside = units >= 0
    np.add.at(result, units[inside], np.moveaxis(channels, -1, 0)[inside])
    return np.moveaxis(result, 0, -1)


@dataclass
class ProductObserver(Differential):
    """Sums of w * dL/dw per unit of every float parameter axis; ``order`` 2: of w * (H g), g and H of the batch's mean loss."""

    seen = ("means",)
    analysis: Analysis
    tapped: Tapped
    means: dict[tuple[str, int], list[MeanOfArrays]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        facts = self.analysis.facts
        members = [m for g in self.analysis.groups for m in g.members if facts.dtype(m.parameter) in FLOATS]
        self.means = self.means or {(m.parameter, m.axis): [MeanOfArrays() for _ in range(4)] for m in members}
        self.weights = {m.parameter: facts.content(m.parameter).astype(np.float64) for m in members}
        self.wrt = tuple(self.weights)

    def fresh(self) -> Self:
        return replace(self, means={place: [MeanOfArrays() for _ in there] for place, there in self.means.items()})

    def merge(self, other: ProductObserver) -> None:
        for place, there in self.means.items():
            _merge(there, other.means[place])

    def update(self, seen: Answers) -> None:
        values, samples = seen.values, seen.sampler.samples
        for name, weight in self.weights.items():
            products = weight * values[gradient_name(name, self.order)] / samples**self.order
            squares = np.square(products)
            parts = (products, np.abs(products), squares, squares * samples)
            for axis in range(weight.ndim):
                others = tuple(a for a in range(weight.ndim) if a != axis)
                for mean, part in zip(self.means.get((name, axis), ()), parts, strict=False):
                    mean.add(part.sum(axis=others), samples)

    def results(self) -> list[dict[tuple[str, int], Products]]:
        return [
            {(m.parameter, m.axis): self._by_unit(m, group.width) for m in group.members if m.parameter in self.weights}
            for group in self.analysis.groups
        ]

    def _by_unit(self, member: Member, width: int) -> Products:
        means = self.means[member.parameter, member.axis]
        return Products(*(summed_by_unit(mean.value, member.units, width) for mean in means))


class HessianObserver(ProductObserver):
    """The same of the gradient of |g|^2 / 2, which is H g."""

    order: ClassVar[int] = 2


class CurvatureObserver(Differential):
    """Second moments of the gradients at the outputs of every site."""

    seen = ("moments", "positions")

    def __init__(self, analysis: Analysis, tapped: Tapped):
        self.analysis, self.tapped, self.taps = analysis, tapped, tapped.taps
        self.moments: dict[tuple[str, int, int], Gram | Moments] = {}
        self.positions: dict[str, float] = {}
        for tap in (tap for there in self.taps for tap in there):
            name, axis, groups = _place(tap)
            outputs = (analysis.facts.shape(tap.output or tap.site.value) or ())[axis] // groups
            self.moments.setdefault((name, axis, groups), Gram() if outputs <= GRAM_LIMIT else Moments())
        self.wrt = tuple(dict.fromkeys(name for name, _, _ in self.moments))

    def fresh(self) -> CurvatureObserver:
        return CurvatureObserver(self.analysis, self.tapped)

    def merge(self, other: CurvatureObserver) -> None:
        for place, moment in self.moments.items():
            later: Any = other.moments[place]
            moment.merge(later)
        self.positions |= other.positions

    def update(self, seen: Answers) -> None:
        values, sampler = seen
        for (name, axis, groups), moment in self.moments.items():
            gradient = values[gradient_name(name)]
            rows = sampled_rows(gradient, Need("gram", name, axis, groups), sampler)
            moment.update(rows if isinstance(moment, Gram) else np.concatenate(list(rows), axis=-1))
            self.positions[name] = gradient.size / gradient.shape[axis] / sampler.samples

    def results(self) -> list[dict[Site, Curvature]]:
        return [{tap.site: self._curvature(tap) for tap in there} for there in self.taps]

    def _curvature(self, tap: Tap) -> Curvature:
        name, axis, groups = _place(tap)
        found = self.moments[name, axis, groups]
        moment = found.second_moment if isinstance(found, Gram) else found.power.reshape(groups, -1)
        return Curvature(moment, self.positions[name], bool(tap.output))


def _place(tap: Tap) -> tuple[str, int, int]:
    """Return the value, the axis and the groups whose gradients a tap's curvature is made of."""
    site: Site = tap.site
    return (tap.output, tap.output_axis, site.groups) if tap.output else (tap.value, site.axis, 1)
