"""What each group's readers lose when it is narrowed, on the original model: removal orders and errors (layer OBS)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxprune.coupling.groups import Analysis, Member
from onnxprune.coupling.readers import once, reading_weights
from onnxprune.criteria.curvature import Order, Problem, joint_order
from onnxprune.evidence.rows import LARGEST, Sampler, usable
from onnxprune.model.runtime import Arrays
from onnxprune.model.scratch import kept
from onnxprune.repair.finding import as_map
from onnxprune.repair.fit import inputs_of_units
from onnxprune.repair.inputs import Reads
from onnxprune.repair.linear import Linear, as_linear
from onnxprune.repair.moments import CrossMoments, RowBlocks
from onnxprune.repair.order import last_sites, ready_at
from onnxprune.repair.stored import Stored
from onnxprune.repair.targets import FitTarget, on_own_scales
from onnxprune.repair.teacher import Sought, Teacher

WIDEST = 1152  # inputs of which second moments are taken over all taps; per channel beyond
SAMPLES, POSITIONS = 512, 32  # that tables are made of
DAMPING = 1e-2


@dataclass(frozen=True)
class ReaderProblem:
    """One node that reads a group: relative OBS problem and the energy of its output (variance summed over channels)."""

    problem: Problem
    energy: float


@dataclass(frozen=True)
class Tables:
    """Per group what its readers lose; groups that no linear node reads have none and are ranked by ``fallback`` scores."""

    analysis: Analysis
    readings: Mapping[int, Sequence[ReaderProblem]]
    fallback: Sequence[np.ndarray]
    _orders: dict[tuple[int, float], Order] = field(default_factory=dict)

    def order(self, group: int, exponent: float) -> Order:
        """Return the order in which a group's units go and the error, with readers weighed by energy to ``exponent``."""
        readings = self.readings.get(group)
        if not readings:
            return self._by_fallback(group, exponent)
        if len(readings) == 1:  # what weighs one reader alone changes no order
            (reading,) = readings
            plain = self._found(group, 1.0)
            return Order(plain.order, plain.error * reading.energy ** (exponent - 1))
        return self._found(group, exponent)

    def _found(self, group: int, exponent: float) -> Order:
        if (group, exponent) not in self._orders:
            problems = [r.problem._replace(scale=r.energy ** (exponent - 1)) for r in self.readings[group]]
            self._orders[group, exponent] = joint_order(problems, damping=DAMPING)
        return self._orders[group, exponent]

    def _by_fallback(self, group: int, exponent: float) -> Order:
        scores = np.nan_to_num(np.asarray(self.fallback[group], float), posinf=np.finfo(float).max)
        order = np.argsort(scores, kind="stable")
        share = np.cumsum(scores[order]) / max(float(scores.sum()), 1e-30)
        return Order(order, np.concatenate([[0.0], share * self._typical(exponent)]))

    @property
    def unread(self) -> list[int]:
        """Groups without a linear reader, such as the width of queries and keys, which only meet each other."""
        return [group.index for group in self.analysis.groups if not self.readings.get(group.index)]

    def _typical(self, exponent: float) -> float:
        """What losing all of an average group costs."""
        energies = [r.energy**exponent for there in self.readings.values() for r in there]
        return float(np.mean(energies)) if energies else 1.0


@dataclass(frozen=True)
class LinearSite:
    """A linear node of the original, what it is to give, and the group's units that it reads.

    ``targets``: with the shortcuts that are there while every linear node is still to be fitted, and with all.
    """

    linear: Linear
    targets: tuple[FitTarget, FitTarget]
    members: Sequence[tuple[int, Member]]

    @property
    def sought(self) -> tuple[Sought, ...]:
        return tuple(dict.fromkeys(self.linear.sought(target.value) for target in self.targets))

    @property
    def channels(self) -> int:
        """How many channels it reads."""
        return len(self.members[0][1].units)

    @property
    def compact(self) -> bool:
        """Whether its second moments are taken per channel, every tap being a row of its own."""
        window = self.linear.window
        return window is not None and window.taps > 1 and window.taps * self.channels > WIDEST


@once
def sites_of(analysis: Analysis) -> list[LinearSite]:
    """Return the linear nodes of the original."""
    facts = analysis.facts
    stored = Stored.of(facts.model, facts.graph)
    found = [as_linear(node, stored, facts) for node in facts.graph.top]
    linears = [linear for linear in found if linear is not None]
    after = last_sites(facts.graph, [linear.node for linear in linears])
    readers = reading_weights(analysis)
    sites = []
    for number, linear in enumerate(linears):
        early = linear.target(analysis, stored, ready_at(after, number))
        late = linear.target(analysis, stored, after.__contains__)
        members = tuple(readers.get(linear.weight, ())) if linear.groups == 1 else ()
        sites.append(LinearSite(linear, (early, late), members))
    return sites


@once
def fitted_tensors(analysis: Analysis) -> frozenset[str]:
    """Return the stored tensors that a repair may change, by name, whether they hold floats or integers that stand for floats."""
    facts = analysis.facts
    stored = Stored.of(facts.model, facts.graph)
    found = [linear for node in facts.graph.top if (linear := as_map(node, stored, facts)) is not None]
    return frozenset(name for linear in found for name in (*linear.weights, linear.bias) if name)


def error_tables(
    analysis: Analysis,
    teacher: Teacher,
    fallback: Sequence[np.ndarray],
    importance: Mapping[str, np.ndarray] | None = None,
) -> Tables:
    """Look at the original once, for all fits too, and collect what every linear node reads: O(width^2) memory per reader.

    ``importance``: see ``Sequential``; the nodes that it names share out their energy by it.
    """
    importance = importance or {}
    sites = sites_of(analysis)
    reads = {Reads.of(site.linear): site for site in sites if site.members}
    read = {key: _Reading(site) for key, site in reads.items()}

    def onlooker(number: int, batch: Arrays, values: Mapping[str, np.ndarray]) -> None:
        if teacher.firsts[number] < SAMPLES:
            for reading in (reading for reading in read.values() if reading.site.linear.source in values):
                reading.update(values[reading.site.linear.source], teacher.sampler(number, batch, POSITIONS))

    sources = dict.fromkeys(site.linear.source for site in reads.values())
    teacher.learn([sought for site in sites for sought in site.sought], onlooker, sources)
    problems: dict[int, list[tuple[str, Problem]]] = defaultdict(list)
    energies: dict[str, float] = {}
    for site in sites:
        reading = read.get(Reads.of(site.linear))
        if site.members and reading is not None and not reading.empty:
            weight = site.linear.weight
            found = reading.problem_of(site, analysis.facts.content(weight), importance.get(weight))
            energies[weight] = found.energy
            for group, member in site.members:
                blocks = inputs_of_units(member.units, reading.taps)
                problems[group].append((weight, Problem(found.problem.gram, found.problem.weight, blocks)))
    shared = _shared_out(energies, importance)
    readings = {g: [_rated(p, energies[w], shared[w]) for w, p in there] for g, there in problems.items()}
    return Tables(analysis, readings, fallback)


@dataclass
class _Reading:
    """Second moments of what some nodes read, the first of which is ``site``'s."""

    site: LinearSite
    moments: CrossMoments | None = None
    waiting: RowBlocks = field(default_factory=RowBlocks)

    @property
    def taps(self) -> int:
        window = self.site.linear.window
        return 1 if window is None or self.site.compact else window.taps

    @property
    def empty(self) -> bool:
        return self.moments is None

    def update(self, value: np.ndarray, sampler: Sampler) -> None:
        rows = self.site.linear.rows(value, sampler)
        if not usable(rows, LARGEST):
            return  # whoever fits says so
        if self.site.compact:
            rows = rows.reshape(1, -1, self.site.channels)
        if not rows.shape[1]:
            return
        nothing = np.zeros((*rows.shape[:2], 0), np.float32)
        self.moments = self.moments or CrossMoments.around(rows, nothing)
        rows -= self.moments.origin_x.astype(np.float32)[:, None]
        self._sum_up(self.waiting.add(rows))

    def _sum_up(self, blocks: Iterable[tuple[np.ndarray, ...]]) -> None:
        assert self.moments is not None
        for (centred,) in blocks:
            self.moments.add_inputs(centred)

    def problem_of(self, site: LinearSite, weight: np.ndarray, importance: np.ndarray | None) -> ReaderProblem:
        """Return the removal problem of a node that reads this, and the energy of its output on the target's scale."""
        assert self.moments is not None
        covariance, scale = self.covariance, site.targets[0].scale
        matrix = site.linear.matrix(weight)[0]
        if self.site.compact:
            matrix = matrix.reshape(-1, site.channels)  # a row for each output and tap
            scale = np.repeat(scale, len(matrix) // len(scale))
        matrix = matrix * scale[:, None]
        variance = np.einsum("od,de,oe->o", matrix, covariance, matrix, optimize=True)
        variance = np.maximum(variance.reshape(site.linear.channels, -1).sum(1), 0.0)
        loud = on_own_scales(variance, importance)
        matrix = matrix * np.repeat(loud, len(matrix) // len(loud))[:, None]
        return ReaderProblem(Problem(covariance, kept(matrix), np.zeros((0, 1), np.int64)), float(variance.sum()))

    @cached_property
    def covariance(self) -> np.ndarray:
        """float64[d, d], of all rows."""
        assert self.moments is not None
        self._sum_up(self.waiting.rest())
        found, self.moments.gram = kept(self.moments.covariance[0]), np.zeros(0)
        return found


def _shared_out(energies: Mapping[str, float], importance: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the energies, those of the nodes that make outputs shared out by what these are worth: their sum stays."""
    shares = {weight: float(importance[weight].sum()) for weight in energies if weight in importance}
    total, whole = sum(shares.values()), sum(energies[weight] for weight in shares)
    return {w: whole * shares[w] / total if w in shares and total else energy for w, energy in energies.items()}


def _rated(problem: Problem, energy: float, shared: float) -> ReaderProblem:
    """Put a reader's problem on the scale of the energy that it counts with."""
    factor = float(np.sqrt(shared / energy)) if energy else 1.0
    return ReaderProblem(problem._replace(weight=problem.weight * factor), max(shared, 1e-30))
