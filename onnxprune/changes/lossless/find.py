"""Which units go without loss, and why; each is told from stored weights, and confirmed by what the model computes.

Weights give the reason (what writes or scales the unit is exactly zero, or equal to what makes another unit); a run on random
inputs shows that it holds wherever the unit is read. A ReLU that only seems dead on some inputs is not taken for a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxprune.changes.lossless.readings import Reading, readings, stored_tensors
from onnxprune.coupling.groups import Analysis, Group
from onnxprune.criteria.tensors import unit_positions
from onnxprune.errors import ModelError
from onnxprune.model.facts import Facts
from onnxprune.model.read import NATIVE_FLOATS
from onnxprune.model.runtime import revealing
from onnxprune.proof.inputs import random_feeds

REASONS = ("unread", "zero", "constant", "duplicate")
RUNS = 2
CONSTANT = 1e-6  # relative spread of a constant, which float rounding may leave
EQUAL = 1e-5  # difference of duplicates, relative to the largest value beside them

Observed = Mapping[tuple[str, int], np.ndarray]  # (value, axis) -> float64[rows, axis size]


class Redundant(NamedTuple):
    """A unit that goes; ``twin``: the unit that stands in for a duplicate or a constant (-1: none)."""

    group: int
    unit: int
    reason: str
    twin: int = -1


@dataclass(frozen=True, eq=False)
class Found:
    """``units`` that go, the ``readings`` per group, and ``observed`` what these read."""

    units: tuple[Redundant, ...]
    readings: list[list[Reading]]
    observed: Observed


def redundant_units(
    analysis: Analysis, room: Sequence[int], gone: Sequence[np.ndarray], *, seed: int = 0, threads: int = 1
) -> Found:
    """Find the units that go without loss, at most ``room[g]`` of group g and none that are ``gone`` (bool[width]) already."""
    there = readings(analysis, stored_tensors(analysis.facts.model, analysis.facts.graph))
    groups = [g for g in analysis.groups if room[g.index] > 0 and there[g.index] and _is_exact(g, analysis.facts)]
    candidates = [_Candidates(analysis, group, there[group.index]) for group in groups]
    observed = _observe(analysis.facts, [c for c in candidates if c.hopeful], seed, threads)
    units: list[Redundant] = []
    for candidate in candidates:
        left = ~gone[candidate.group.index]
        own = [u for u in candidate.redundant(observed) if left[u.unit] and (u.twin < 0 or left[u.twin])]
        units += own[: room[candidate.group.index]]
    return Found(tuple(units), there, observed)


def _is_exact(group: Group, facts: Facts) -> bool:
    """Whether the group's units are floats that no statistic is taken over."""
    return not group.lossy and all(facts.dtype(member.parameter) in NATIVE_FLOATS for member in group.members)


def rows(analysis: Analysis, group: Group, parameter: str, axis: int, units: np.ndarray) -> np.ndarray:
    """Return [width, weights]: what a parameter holds of each unit."""
    slices = np.moveaxis(analysis.facts.content(parameter), axis, 0).reshape(len(units), -1)
    return slices[unit_positions(group, units)].reshape(group.width, -1)


class _Candidates:
    """One group: what its weights say about each unit."""

    def __init__(self, analysis: Analysis, group: Group, there: list[Reading]):
        self.group, self.readings = group, there
        read = [self._unread(analysis, reading) for reading in there]
        self.unread = np.array(read).reshape(-1, group.width)
        self.mute = _mute(analysis, group)
        self.twins = _twins(analysis, group)
        self.hopeful = bool((self.mute & ~self.unread.all(axis=0)).any() or (self.twins >= 0).any())

    def _unread(self, analysis: Analysis, reading: Reading) -> np.ndarray:
        """Return bool[width]: units whose reading weights are all zero."""
        if not reading.weight:
            return np.zeros(self.group.width, bool)
        return np.all(
            rows(analysis, self.group, reading.weight, reading.weight_axis, reading.weight_units) == 0, axis=1
        )

    def redundant(self, observed: Observed) -> Iterator[Redundant]:
        """Yield what goes, in the order of the units."""
        zero, constant, equal = (
            self._everywhere(test, observed) for test in (_reads_zero, _reads_constant, self._reads_twin)
        )
        flags = [np.all(self.unread, axis=0), zero & self.mute, constant & self.mute]
        stand_in = self._stand_ins(observed, ~np.any(flags, axis=0))
        goes = np.any(flags, axis=0) | (stand_in >= 0)
        twins = np.where(equal & (self.twins >= 0) & ~goes[self.twins], self.twins, -1)
        for unit in range(self.group.width):
            reason = next((name for name, flag in zip(REASONS, flags, strict=False) if flag[unit]), None)
            if reason is not None:
                yield Redundant(self.group.index, unit, reason)
            elif stand_in[unit] >= 0:
                yield Redundant(self.group.index, unit, "constant", int(stand_in[unit]))
            elif twins[unit] >= 0:
                yield Redundant(self.group.index, unit, "duplicate", int(twins[unit]))

    def _stand_ins(self, observed: Observed, left: np.ndarray) -> np.ndarray:
        """Return int64[width]: for constants that no bias can hold the first of them, which the others are multiples of."""
        steady = left & self.mute & self._everywhere(_reads_steady, observed, or_unread=False)
        first = int(np.argmax(steady))
        return np.where(steady & (np.arange(self.group.width) != first), first, -1)

    def _everywhere(
        self, test: Callable[[Reading, np.ndarray], np.ndarray], observed: Observed, or_unread: bool = True
    ) -> np.ndarray:
        """Return bool[width]: units for which every reading passes the test, or is unread where that counts."""
        result = np.ones(self.group.width, bool)
        for reading, unread in zip(self.readings, self.unread & or_unread, strict=True):
            seen = observed.get((reading.value, reading.axis))
            if seen is None:
                result &= unread
                continue
            values = seen[:, unit_positions(self.group, reading.units)]
            result &= unread | test(reading, values)
        return result

    def _reads_twin(self, reading: Reading, values: np.ndarray) -> np.ndarray:
        """Return bool[width]: units that read the same as their twin, in the same group of a convolution."""
        if reading.linear is None:
            return np.zeros(self.group.width, bool)
        gap = np.abs(values - values[:, self.twins]).max(axis=(0, 2))
        run = unit_positions(self.group, reading.units) // (len(reading.units) // reading.linear.groups)
        return (gap <= EQUAL * np.abs(values).max()) & (run == run[self.twins]).all(axis=1)


def _reads_zero(reading: Reading, values: np.ndarray) -> np.ndarray:
    """Return bool[width] for values float64[rows, width, positions]."""
    return np.all(values == 0, axis=(0, 2))


def _reads_constant(reading: Reading, values: np.ndarray) -> np.ndarray:
    """Return bool[width]: units that are zero, or constant where the weight that reads them has a bias for that."""
    zero = _reads_zero(reading, values)
    if reading.linear is None or not reading.linear.bias or reading.padded:
        return zero
    return zero | _is_constant(values)


def _reads_steady(reading: Reading, values: np.ndarray) -> np.ndarray:
    """Return bool[width]: constants other than zero read by all rows of one weight, at the borders like anywhere else."""
    if reading.linear is None or reading.linear.groups > 1:
        return np.zeros(values.shape[1], bool)
    return _is_constant(values) & np.all(values[0] != 0, axis=1)


def _is_constant(values: np.ndarray) -> np.ndarray:
    """Return bool[width] for values float64[rows, width, positions]."""
    return np.all(np.ptp(values, axis=0) <= CONSTANT * np.abs(values[0]), axis=1)


def _mute(analysis: Analysis, group: Group) -> np.ndarray:
    """Return bool[width]: units of which all that writes them, or something that scales them, is exactly zero."""
    by_role: dict[str, list[np.ndarray]] = {"writes": [], "scales": []}
    for member in group.members:
        if member.role in by_role:
            content = rows(analysis, group, member.parameter, member.axis, member.units)
            by_role[member.role].append(np.all(content == 0, axis=1))
    none = np.zeros(group.width, bool)
    written = np.logical_and.reduce(by_role["writes"]) if by_role["writes"] else none
    return written | np.logical_or.reduce([none, *by_role["scales"]])


def _twins(analysis: Analysis, group: Group) -> np.ndarray:
    """Return int64[width]: the first unit made by equal weights (-1: the unit itself is that, or nothing writes it)."""
    makers = [m for m in group.members if m.role != "reads"]
    if not any(m.role == "writes" for m in makers):
        return np.full(group.width, -1)
    content = [rows(analysis, group, m.parameter, m.axis, m.units) for m in makers]
    first: dict[bytes, int] = {}
    found = [first.setdefault(b"".join(c[u].tobytes() for c in content), u) for u in range(group.width)]
    return np.where(np.array(found) == np.arange(group.width), -1, found)


def _observe(facts: Facts, candidates: Sequence[_Candidates], seed: int, threads: int) -> Observed:
    """Run the model on random inputs and return what the candidates' readings see; {} where it cannot be run."""
    wanted = {(r.value, r.axis) for candidate in candidates for r in candidate.readings if r.value}
    names = sorted({value for value, _ in wanted})
    if not names:
        return {}
    inner = [name for name in names if name not in facts.graph.inputs]
    opened = revealing(facts.model, inner, threads=threads, optimise=False)
    feeds = [random_feeds(facts, seed + run) for run in range(RUNS)]
    try:
        found = [feed | opened.run(feed, [name for name in names if name not in feed]) for feed in feeds]
    except ModelError:
        return {}
    return {place: np.concatenate([_channels(run[place[0]], place[1]) for run in found]) for place in wanted}


def _channels(value: np.ndarray, axis: int) -> np.ndarray:
    """Return float64[positions, axis size]."""
    return np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]).astype(np.float64)
