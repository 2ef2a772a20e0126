"""What each group's readers lose when it is narrowed, on the original model: removal orders and errors (layer OBS)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.readers import reading_weights
from onnxprune.criteria.curvature import Order, Problem, joint_order
from onnxprune.evidence.rows import POSITIONS
from onnxprune.means import Means
from onnxprune.model.runtime import Arrays
from onnxprune.repair.linear import Linear
from onnxprune.repair.moments import CrossMoments
from onnxprune.repair.sequential import Effort, Sequential
from onnxprune.repair.targets import FitTarget as Fit
from onnxprune.repair.targets import on_own_scales

UNFOLDED_BYTES = 1 << 28  # second moments over all taps are kept up to this much in total, per channel beyond
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

    def order(self, group: int, exponent: float) -> Order:
        """Return the order in which a group's units go and the error, with readers weighed by energy to ``exponent``."""
        readings = self.readings.get(group)
        if not readings:
            scores = np.nan_to_num(np.asarray(self.fallback[group], float), posinf=np.finfo(float).max)
            order = np.argsort(scores, kind="stable")
            share = np.cumsum(scores[order]) / max(float(scores.sum()), 1e-30)
            return Order(order, np.concatenate([[0.0], share * self._typical(exponent)]))
        return joint_order([r.problem._replace(scale=r.energy ** (exponent - 1)) for r in readings], damping=DAMPING)

    @property
    def unread(self) -> list[int]:
        """Groups without a linear reader, such as the width of queries and keys, which only meet each other."""
        return [group.index for group in self.analysis.groups if not self.readings.get(group.index)]

    def _typical(self, exponent: float) -> float:
        """What losing all of an average group costs."""
        energies = [r.energy**exponent for there in self.readings.values() for r in there]
        return float(np.mean(energies)) if energies else 1.0


def error_tables(
    analysis: Analysis,
    batches: Iterable[Arrays],
    fallback: Sequence[np.ndarray],
    means: Means = Means(),
    importance: Mapping[str, np.ndarray] | None = None,
) -> Tables:
    """Run the original once and collect what every linear node reads: O(width^2) memory per reader, not per sample.

    ``importance``: see ``Sequential``; the nodes that it names share out their energy by it.
    """
    collector = _Collector(analysis, importance or {})
    Sequential(
        analysis, Kept.whole(analysis), batches, effort=Effort(POSITIONS // 2), means=means.quiet,
        everything=True, frozen=True, observe=collector.observe,
    ).run(analysis.facts.model)  # fmt: skip
    energies, shared = collector.energies, _shared_out(collector.energies, importance or {})
    readings = {g: [_reading(p, energies[w], shared[w]) for w, p in there] for g, there in collector.found.items()}
    return Tables(analysis, readings, fallback)


@dataclass
class _Collector:
    """What linear nodes read: ``found`` group -> (weight, problem) of each reader, ``energies`` of their outputs by weight."""

    analysis: Analysis
    importance: Mapping[str, np.ndarray]
    found: dict[int, list[tuple[str, Problem]]] = field(default_factory=lambda: defaultdict(list))
    energies: dict[str, float] = field(default_factory=dict)
    used: int = 0

    def observe(self, linear: Linear, fit: Fit, moments: CrossMoments) -> None:
        readers = reading_weights(self.analysis).get(linear.weight, ())
        if not readers or linear.groups > 1:
            return
        covariance = moments.covariance[0]
        variance = moments.variance[0] * fit.scale**2
        loud = fit.scale * on_own_scales(variance, self.importance.get(linear.weight))
        matrix = linear.matrix(self.analysis.facts.content(linear.weight))[0] * loud[:, None]
        self.energies[linear.weight] = float(variance.sum())
        for group, member in readers:
            taps = covariance.shape[0] // len(member.units)
            self.used += covariance.nbytes
            compact = self.used > UNFOLDED_BYTES and taps > 1
            self.found[group].append((linear.weight, _problem(covariance, matrix, member.units, taps, compact)))


def _shared_out(energies: Mapping[str, float], importance: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the energies, those of the nodes that make outputs shared out by what these are worth: their sum stays."""
    shares = {weight: float(importance[weight].sum()) for weight in energies if weight in importance}
    total, whole = sum(shares.values()), sum(energies[weight] for weight in shares)
    return {w: whole * shares[w] / total if w in shares and total else energy for w, energy in energies.items()}


def _reading(problem: Problem, energy: float, shared: float) -> ReaderProblem:
    """Put a reader's problem on the scale of the energy that it counts with."""
    factor = float(np.sqrt(shared / energy)) if energy else 1.0
    return ReaderProblem(problem._replace(weight=problem.weight * factor), max(shared, 1e-30))


def _problem(covariance: np.ndarray, matrix: np.ndarray, units: np.ndarray, taps: int, compact: bool) -> Problem:
    """The removal problem of one reader; ``compact``: per channel, its taps' cross terms averaged."""
    if compact:
        channels = len(units)
        folded = covariance.reshape(channels, taps, channels, taps)
        covariance = np.einsum("atbt->ab", folded) / taps
        matrix = np.moveaxis(matrix.reshape(-1, channels, taps), 2, 1).reshape(-1, channels)
        taps = 1
    width = int(units.max()) + 1
    blocks = [(np.flatnonzero(units == u)[:, None] * taps + np.arange(taps)).reshape(-1) for u in range(width)]
    return Problem(covariance, matrix, np.stack(blocks))
