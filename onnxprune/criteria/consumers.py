"""What a group's consumers make of its units, as plain arrays: weights in columns beside second moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.coupling.groups import Group
from onnxprune.criteria.curvature import ROWS_AT_ONCE, Problem, is_diagonal
from onnxprune.criteria.spec import Scoring
from onnxprune.criteria.weight import l2
from onnxprune.evidence.constants import constant_value
from onnxprune.evidence.needs import Need
from onnxprune.evidence.sites import GROUPED, Site, sites
from onnxprune.evidence.store import Evidence

MANY_PRODUCTS = 1 << 33  # products of an output energy from which on it is computed in float32


@dataclass(frozen=True)
class Consumer:
    """One site with what was gathered there.

    ``weight``: float64[groups, outputs, channels per group, taps], None where no stored weight reads the units: there
    the value itself is what counts, as if read by the identity.
    """

    site: Site
    weight: np.ndarray | None

    @property
    def gain(self) -> np.ndarray:
        """float64[channels]: summed absolute weights of each channel."""
        return self._sums(np.abs)

    @property
    def energy(self) -> np.ndarray:
        """float64[channels]: summed squared weights of each channel."""
        return self._sums(np.square)

    def _sums(self, part: np.ufunc) -> np.ndarray:
        if self.weight is None:
            return np.ones(len(self.site.units))
        return part(self.weight).sum(axis=(1, 3)).reshape(-1)

    def matrix(self, group: int) -> np.ndarray:
        """Return float64[rows, inputs], the columns those of the gathered second moments.

        Where these are per channel, the taps of an output are rows of their own: their cross terms are left out.
        """
        if self.weight is None:
            return np.eye(self.site.inputs)
        outputs, channels, taps = self.weight.shape[1:]
        if self.site.window is not None:
            return self.weight[group].reshape(outputs, channels * taps)
        return self.weight[group].swapaxes(1, 2).reshape(outputs * taps, channels)


def unseen(group: Group, context: Scoring) -> np.ndarray:
    """Return float64[members, width] by l2, with a note, for groups that nothing observable carries."""
    context.note("no value that carries these groups can be observed; scored by l2 instead", group)
    return l2(group, context)


def consumers(group: Group, context: Scoring) -> list[Consumer]:
    return [_consumer(site, context) for site in sites(context.analysis)[group.index]]


def _consumer(site: Site, context: Scoring) -> Consumer:
    if site.node is None or not site.weight:
        return Consumer(site, None)
    width = len(site.units) // site.groups
    raw = _content(site.weight, context)
    if site.node.op not in GROUPED:
        columns = np.moveaxis(raw, site.weight_axis, -1)
        fits = columns.shape[-1] == width
        return Consumer(site, columns.reshape(1, -1, width, 1) if fits else None)
    taps = int(np.prod(raw.shape[2:], dtype=np.int64))
    if site.weight_axis == 0:  # ConvTranspose: groups and channels share an axis
        return Consumer(site, raw.reshape(site.groups, width, -1, taps).swapaxes(1, 2))
    return Consumer(site, raw.reshape(site.groups, -1, width, taps))


def _content(name: str, context: Scoring) -> np.ndarray:
    """Return a constant as float64, quantised weights by their scale and zero point."""
    if not context.analysis.facts.is_parameter(name):
        return constant_value(context.analysis.facts, name).astype(np.float64)
    blocks = list(context.weights.blocks(name))
    return np.concatenate([block.content for block in blocks], axis=blocks[0].axis)


def by_unit(values: np.ndarray, site: Site, width: int) -> np.ndarray:
    """Return float64[width]: sums of float64[channels] over each unit's positions."""
    inside = site.units >= 0
    return np.bincount(site.units[inside], weights=values[inside], minlength=width)


def mean_by_unit(values: np.ndarray, site: Site, width: int) -> np.ndarray:
    return by_unit(values, site, width) / np.maximum(by_unit(np.ones(len(values)), site, width), 1)


def problems(group: Group, context: Scoring, evidence: Evidence, centred: bool = True) -> list[Problem]:
    """Return what the group's consumers read, each scaled so that its whole output has energy one.

    ``centred``: covariances (the bias is refitted), else raw second moments. A consumer too wide for second moments, or
    one whose groups do not hold every unit alike, counts by its channels' moments as if they were uncorrelated.
    """
    return [p for consumer in consumers(group, context) for p in _fair(problems_of(consumer, group, evidence, centred))]


def problems_one_by_one(group: Group, context: Scoring, evidence: Evidence) -> Iterator[Problem]:
    """Yield the same as ``problems``, centred, each made when it is asked for; those beside each other that read the same share its gram."""
    last = _LastMoments(evidence)
    for site in sites(context.analysis)[group.index]:
        yield from _fair(problems_of(_consumer(site, context), group, last, True))


@dataclass
class _LastMoments:
    """Evidence of which the covariance that was asked for last is held."""

    evidence: Evidence
    _need: Need | None = None
    covariance: np.ndarray | None = None

    def __getitem__(self, need: Need) -> Any:
        if need.kind != "gram":
            return self.evidence[need]
        if need != self._need:
            self._need, self.covariance = need, None  # before the next is made
            self.covariance = self.evidence[need].covariance
        return self


def problems_of(consumer: Consumer, group: Group, evidence: Evidence | _LastMoments, centred: bool) -> list[Problem]:
    """Return what one consumer reads, one problem per group of its axis, in its own scale."""
    site = consumer.site
    need = site.gram
    if need is None:
        moments = evidence[site.need("moments")]
        return [_uncorrelated(consumer, moments.variance if centred else moments.power, group.width)]
    gram = evidence[need].covariance if centred else evidence[need].second_moment
    taps = site.inputs // (len(site.units) // site.groups)
    blocks = [_blocks(units, group.width, taps) for units in site.units.reshape(site.groups, -1)]
    if any(block is None for block in blocks):
        power = gram.diagonal(axis1=1, axis2=2).reshape(-1, taps).mean(axis=1)
        return [_uncorrelated(consumer, power, group.width)]
    return [Problem(gram[g], consumer.matrix(g), block) for g, block in enumerate(blocks) if block is not None]


def _blocks(units: np.ndarray, width: int, taps: int) -> np.ndarray | None:
    """Return int64[width, b]: the columns of each unit; None where units have different numbers of them."""
    inside = np.flatnonzero(units >= 0)
    counts = np.bincount(units[inside], minlength=width)
    if not counts[0] or (counts != counts[0]).any():
        return None
    places = inside[np.argsort(units[inside], kind="stable")].reshape(width, -1)
    return (places[:, :, None] * taps + np.arange(taps)).reshape(width, -1)


def _uncorrelated(consumer: Consumer, power: np.ndarray, width: int) -> Problem:
    """Return the problem whose unit u costs sum_j power_j |W_j|^2 over its channels, whatever else goes."""
    cost = by_unit(power * consumer.energy, consumer.site, width)
    return Problem(np.eye(width), np.diag(np.sqrt(np.maximum(cost, 0.0))), np.arange(width)[:, None])


def _fair(found: list[Problem]) -> list[Problem]:
    energy = sum(output_energy(p.weight, p.gram) for p in found)
    return [p._replace(scale=1.0 / energy) for p in found] if energy > 0 else found


def output_energy(weight: np.ndarray, gram: np.ndarray) -> float:
    """Return E |W h|^2 = tr(W S W^T), W float64[o, n] a weight and S float64[n, n] second moments; in float32 where that takes long."""
    if is_diagonal(gram):
        return float(np.einsum("oi,oi->i", weight, weight) @ gram.diagonal())
    loudest = float(np.abs(gram.diagonal()).max(initial=0.0))
    if weight.size * len(gram) < MANY_PRODUCTS or not 0 < loudest < np.inf:
        return float(np.einsum("oi,ij,oj->", weight, gram, weight, optimize=True))
    small, total = (gram / loudest).astype(np.float32), 0.0
    for start in range(0, len(weight), ROWS_AT_ONCE):
        rows = weight[start : start + ROWS_AT_ONCE].astype(np.float32)
        total += float(np.einsum("oi,oi->", rows @ small, rows, dtype=np.float64))
    return loudest * total
