"""Units and groups: what can be removed together, and which of those are interchangeable."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.coupling.carriers import Solution, resolve
from onnxprune.coupling.links import FREE, Adapt, Barrier, as_it_is, build_links
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.sheet import SeenAsSheet, Sheet, SheetTable

WEIGHT_DTYPES = frozenset({1, 2, 3, 4, 5, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23})  # floats and quantised integers
SHOWN = 12  # rows of a table where an analysis is looked at
ONLY_UNIT = "the only unit of its group: one always stays"


@dataclass(frozen=True, eq=False)
class Member:
    """One parameter axis inside a group; ``units``: int64[axis size], the group's unit of each position (-1: none)."""

    parameter: str
    axis: int
    role: str
    node: Node
    units: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Interchangeable units; ``multiplicity``: positions per unit on the writing axis; ``lossy``: nodes that take statistics over them."""

    name: str
    index: int
    width: int
    multiplicity: int
    members: tuple[Member, ...]
    lossy: tuple[Node, ...]

    @property
    def writer(self) -> Member:
        """The member a group is named after: the first that writes its units, else the first at all."""
        return next((m for m in self.members if m.role == "writes"), self.members[0])


@dataclass(frozen=True)
class Frozen:
    """Positions of a parameter axis that stay, the barrier that keeps them, and what that costs."""

    parameter: str
    axis: int
    positions: int
    size: int
    barrier: Barrier


@dataclass(frozen=True)
class Volume:
    """A product of axis widths: MACs of a node (``node`` set) or elements of a parameter.

    Width of factor f with ``kept[g]`` units left in each group: ``fixed[f] + sum_g slopes[f][g] * kept[g]``.
    """

    name: str
    fixed: tuple[int, ...]
    slopes: tuple[dict[int, int], ...]
    itemsize: float = 0.0
    node: Node | None = None

    def at(self, kept: np.ndarray) -> int:
        """Value with ``kept``: int64[groups] units left."""
        result = 1
        for fixed, slope in zip(self.fixed, self.slopes, strict=True):
            result *= fixed + sum(m * int(kept[g]) for g, m in slope.items())
        return result


@dataclass(frozen=True, eq=False, repr=False)
class Analysis(SeenAsSheet):
    """Everything the coupling engine knows about a model: groups, frozen axes, and volumes as functions of kept widths.

    ``unit``: int64[positions], the number of each position's unit among all units (-1: frozen or irrelevant), and
    ``starts[g]`` the first unit number of group g. ``times``: measured times (allocate.Times), None where nobody measured.
    ``barred``: groups that stay whole after all, since a proof has refused to cut them.
    """

    facts: Facts
    solution: Solution
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    parameters: tuple[Volume, ...]
    macs: tuple[Volume, ...]
    unit: np.ndarray
    starts: np.ndarray
    times: Any = None
    barred: Mapping[int, Barrier] = field(default_factory=dict)

    @property
    def sheet(self) -> Sheet:
        """What can be cut, the widest groups first, and what stays, by what keeps it."""
        units, rows = int(self.widths.sum()), sorted(self.groups, key=lambda group: -group.width * len(group.members))
        reasons = Counter(found.barrier.reason for found in self.frozen)
        said = f"Analysis: {len(self.groups):,} groups of {units:,} units can be cut, {len(self.frozen):,} weight axes stay"
        groups = ((g.name, f"{g.width:,}", f"{len(g.members):,}") for g in rows[:SHOWN])
        kept = ((reason, f"{count:,}") for reason, count in reasons.most_common(SHOWN))
        grids = (
            SheetTable("groups", ("group", "units", "axes"), tuple(groups), max(0, len(rows) - SHOWN)),
            SheetTable("what stays", ("why", "axes"), tuple(kept), max(0, len(reasons) - SHOWN)),
        )
        return Sheet((said,), tuple(grid for grid in grids if grid.rows))

    @property
    def widths(self) -> np.ndarray:
        return np.array([group.width for group in self.groups], np.int64)

    def without(self, barred: Mapping[int, Barrier]) -> Analysis:
        """Return the analysis in which further groups stay whole, their axes among the frozen ones."""
        fresh = [
            Frozen(member.parameter, member.axis, int((member.units >= 0).sum()), len(member.units), barrier)
            for index, barrier in barred.items()
            for member in self.groups[index].members
            if index not in self.barred
        ]
        return replace(self, frozen=(*self.frozen, *fresh), barred={**self.barred, **barred})


def analyse(
    facts: Facts, allowed: frozenset[str] = frozenset(), prefer: str = "outer", adapted: Adapt = as_it_is
) -> Analysis:
    """Find every unit, group and frozen axis of a model; ``allowed``: kinds of lossy nodes whose axes may be cut.

    ``adapted``: what becomes of a node's signature before it is read.
    """
    solution = resolve(build_links(facts, allowed, adapted), prefer)
    axes = _parameter_axes(solution)
    prunable = _units(solution, axes)
    keys = _axis_keys(solution, prunable)
    prunable = _bar_single(solution, prunable, keys)
    groups, unit, starts = _groups(solution, axes, prunable, keys)
    counter = _Widths(solution, unit, starts, groups)
    parameters = tuple(_parameter_volume(facts, counter, value) for value in _weights(facts))
    macs = tuple(
        counter.volume(node.label, list(letters), index, node)
        for index, (node, spec) in enumerate(solution.links.specs)
        for letters in (spec.cost, *spec.further)
        if letters
    )
    return Analysis(facts, solution, groups, _frozen(solution, unit), parameters, macs, unit, starts)


def _weights(facts: Facts) -> list[str]:
    """Parameters that count as weights: stored or generated tensors of a float or quantised type that something uses."""
    used = facts.graph.consumers
    return [v for v in facts.first if v in used and facts.is_parameter(v) and facts.dtype(v) in WEIGHT_DTYPES]


def _parameter_axes(solution: Solution) -> list[tuple[str, int, np.ndarray]]:
    """Return (parameter, axis, component of each position) of all weights."""
    links = solution.links
    return [
        (value, axis, solution.labels[links.axis(value, axis)])
        for value in _weights(links.facts)
        for axis in range(len(links.facts.shape(value) or ()))
    ]


def _units(solution: Solution, axes: list[tuple[str, int, np.ndarray]]) -> np.ndarray:
    """Return bool[components]: free and on some parameter axis."""
    touched = np.zeros(len(solution.reasons), bool)
    for _, _, labels in axes:
        if len(labels) > 1:
            touched[labels] = True
    return touched & (solution.reasons == FREE)


def _axis_keys(solution: Solution, prunable: np.ndarray) -> np.ndarray:
    """Return uint64[components]: a hash of the multiset of axes each prunable component lies on."""
    links = solution.links
    random = np.random.default_rng(20).integers(1, 2**63, len(links.axes), dtype=np.uint64)
    keys = np.zeros(len(prunable), np.uint64)
    sizes = [(links.facts.shape(value) or ())[axis] for value, axis in links.axes]
    per_position = np.repeat(random, sizes)
    labels = solution.labels[: len(per_position)]
    np.add.at(keys, labels, per_position)
    return keys


def _bar_single(solution: Solution, prunable: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Bar the components that share their axes with no other: the last unit of a group never goes; return the rest."""
    ids = np.flatnonzero(prunable)
    _, inverse, counts = np.unique(keys[ids], return_inverse=True, return_counts=True)
    single = ids[counts[inverse] == 1]
    if len(single):
        solution.reasons[single] = len(solution.links.barriers)
        solution.links.barriers.append(Barrier(None, ONLY_UNIT, "single"))
    rest = prunable.copy()
    rest[single] = False
    return rest


def _groups(
    solution: Solution, axes: list[tuple[str, int, np.ndarray]], prunable: np.ndarray, keys: np.ndarray
) -> tuple[tuple[Group, ...], np.ndarray, np.ndarray]:
    """Collect prunable components with equal keys into groups, in order of their first parameter axis."""
    order: dict[int, int] = {}
    for _, _, labels in axes:
        for key in dict.fromkeys(keys[labels[prunable[labels]]].tolist()):
            order.setdefault(key, len(order))
    ids = np.flatnonzero(prunable)
    of_group = np.array([order[key] for key in keys[ids].tolist()], np.int64)
    rank = np.lexsort((ids, of_group))
    number = np.full(len(prunable), -1, np.int64)
    number[ids[rank]] = np.arange(len(ids))
    starts = np.searchsorted(of_group[rank], np.arange(len(order) + 1))
    unit = number[solution.labels]
    members = _members(solution, axes, number, starts)
    lossy = _lossy_nodes(solution, unit, starts)
    names = _names([members[g] for g in range(len(order))])
    groups = tuple(
        Group(
            names[g], g, int(starts[g + 1] - starts[g]), _multiplicity(members[g]), tuple(members[g]), tuple(lossy[g])
        )
        for g in range(len(order))
    )
    return groups, unit, starts


def _members(
    solution: Solution, axes: list[tuple[str, int, np.ndarray]], number: np.ndarray, starts: np.ndarray
) -> dict[int, list[Member]]:
    roles = _roles(solution)
    members: dict[int, list[Member]] = defaultdict(list)
    for parameter, axis, labels in axes:
        units = number[labels]
        for group in groups_on(units, starts):
            inside = (units >= starts[group]) & (units < starts[group + 1])
            local = np.where(inside, units - starts[group], -1)
            first_use = {"carries": solution.links.facts.graph.consumers[parameter][0][0]}
            for role, node in (roles.get((parameter, axis)) or first_use).items():
                members[group].append(Member(parameter, axis, role, node, local))
    return members


def _roles(solution: Solution) -> dict[tuple[str, int], dict[str, Node]]:
    """Return (parameter, axis) -> role -> first node that uses it so; roles reach through constant-only operators."""
    links = solution.links
    facts, labels = links.facts, solution.labels
    weights = set(_weights(facts))
    sources: dict[str, list[str]] = {}
    roles: dict[tuple[str, int], dict[str, Node]] = defaultdict(dict)
    for index, (node, spec) in enumerate(links.specs):
        constant = all(name in facts.constants for name in node.outputs if name) and bool(node.inputs)
        if constant:
            leaves = dict.fromkeys(leaf for name in node.inputs if name for leaf in sources.get(name, [name]))
            outputs = [name for name in node.outputs if name and not facts.is_parameter(name)]
            sources.update((name, [leaf for leaf in leaves if leaf in weights]) for name in outputs)
            continue
        data = [i for i, name in enumerate(node.inputs) if name and name not in facts.constants]
        for number, operand in enumerate(spec.inputs):
            name = node.input(number)
            if operand is None or name not in facts.constants:
                continue
            for leaf in sources.get(name, [name]):
                for axis, term in enumerate(operand):
                    if not term.letters:
                        continue
                    role = spec.role(number, _carrier(solution, index, term.letters), data)
                    touched = labels[links.axis(name, axis)]
                    for leaf_axis in range(len(facts.shape(leaf) or ())):
                        same = leaf == name and leaf_axis == axis
                        if same or (leaf != name and np.isin(labels[links.axis(leaf, leaf_axis)], touched).any()):
                            roles[leaf, leaf_axis].setdefault(role, node)
    return roles


def _carrier(solution: Solution, index: int, letters: tuple[str, ...]) -> str:
    """The letter of a product that is free to be cut (the first letter where none is); letters of size one take no part."""
    links = solution.links
    sizes = links.specs[index][1].sizes
    for letter in [letter for letter in letters if sizes[letter] > 1]:
        if (solution.reasons[solution.labels[links.letter(index, letter)]] == FREE).any():
            return letter
    return letters[0]


def _lossy_nodes(solution: Solution, unit: np.ndarray, starts: np.ndarray) -> dict[int, list[Node]]:
    lossy: dict[int, list[Node]] = defaultdict(list)
    for index, (node, spec) in enumerate(solution.links.specs):
        for letter in spec.lossy:
            units = unit[solution.links.letter(index, letter)]
            for group in groups_on(units, starts):
                if node not in lossy[group]:
                    lossy[group].append(node)
    return lossy


def _multiplicity(members: list[Member]) -> int:
    """Positions per unit on the axis that writes them (the widest block there is, where several write)."""
    writing = [m for m in members if m.role == "writes"] or members
    return max(int(np.bincount(m.units[m.units >= 0]).max()) for m in writing)


def _names(members: list[list[Member]]) -> list[str]:
    """Name each group after its first writing parameter; equal names get a number."""
    base = [next((m for m in ms if m.role == "writes"), ms[0]).parameter for ms in members]
    total: dict[str, int] = defaultdict(int)
    for name in base:
        total[name] += 1
    seen: dict[str, int] = defaultdict(int)
    names = []
    for name in base:
        names.append(f"{name}#{seen[name]}" if total[name] > 1 else name)
        seen[name] += 1
    return names


def groups_on(units: np.ndarray, starts: np.ndarray) -> list[int]:
    """Return the groups that positions belong to, ascending; see ``linear_width``."""
    return np.unique(np.searchsorted(starts, units[units >= 0], "right") - 1).tolist()


def linear_width(units: np.ndarray, starts: np.ndarray) -> tuple[int, dict[int, int]]:
    """Return (fixed, slopes): an axis with these units has ``fixed + sum_g slopes[g] * kept[g]`` positions left.

    ``units``: int64[positions], -1 where a position always stays; ``starts``: the first unit number of each group.
    """
    owners, counts = np.unique(np.searchsorted(starts, units[units >= 0], "right") - 1, return_counts=True)
    widths = starts[owners + 1] - starts[owners]
    slopes = {int(g): int(n // width) for g, n, width in zip(owners, counts, widths, strict=True)}
    return len(units) - int((counts // np.maximum(widths, 1) * widths).sum()), slopes


class _Widths:
    """Turns axes and letters into widths that are linear in the number of kept units per group."""

    def __init__(self, solution: Solution, unit: np.ndarray, starts: np.ndarray, groups: tuple[Group, ...]):
        self.solution, self.unit, self.starts, self.groups = solution, unit, starts, groups

    def width(self, positions: np.ndarray) -> tuple[int, dict[int, int]]:
        return linear_width(self.unit[positions], self.starts)

    def volume(self, name: str, letters: list[str], index: int, node: Node) -> Volume:
        return self.product(name, [self.solution.links.letter(index, letter) for letter in letters], node=node)

    def product(self, name: str, axes: list[np.ndarray], itemsize: float = 0.0, node: Node | None = None) -> Volume:
        widths = [self.width(positions) for positions in axes]
        plain = int(np.prod([fixed for fixed, slopes in widths if not slopes], dtype=object))
        varying = [(fixed, slopes) for fixed, slopes in widths if slopes]
        return Volume(name, (plain, *(f for f, _ in varying)), ({}, *(s for _, s in varying)), itemsize, node)


def _parameter_volume(facts: Facts, counter: _Widths, value: str) -> Volume:
    links = counter.solution.links
    axes = [links.axis(value, axis) for axis in range(len(facts.shape(value) or ()))]
    return counter.product(value, axes, ITEMSIZE.get(facts.dtype(value), 4.0))


ITEMSIZE = {
    1: 4.0,
    10: 2.0,
    16: 2.0,
    11: 8.0,
    2: 1.0,
    3: 1.0,
    4: 2.0,
    5: 2.0,
    21: 0.5,
    22: 0.5,
    23: 0.5,
    17: 1.0,
    18: 1.0,
    19: 1.0,
    20: 1.0,
}


def _frozen(solution: Solution, unit: np.ndarray) -> tuple[Frozen, ...]:
    """List the parameter axes with positions that may not be cut, one entry per axis and barrier."""
    links = solution.links
    found: list[Frozen] = []
    for value in _weights(links.facts):
        shape = links.facts.shape(value) or ()
        for axis, size in enumerate(shape):
            labels = solution.labels[links.axis(value, axis)]
            reasons = solution.reasons[labels]
            numbers, counts = np.unique(reasons[reasons != FREE], return_counts=True)
            found.extend(
                Frozen(value, axis, int(n), size, links.barriers[number])
                for number, n in zip(numbers.tolist(), counts.tolist(), strict=True)
                if size > 1
            )
    return tuple(found)
