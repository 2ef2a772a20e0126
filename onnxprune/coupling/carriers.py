"""Settle which factor of each product axis is cut, by propagation first and by trial where that leaves a choice.

Only one factor of a product can be cut at a time, its carrier: heads or head width, whole convolution groups or
channels inside each, channels or pixels of a flattened map. The factors not chosen become barriers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.links import FREE, Barrier, Links, Product, components


@dataclass(frozen=True)
class Solution:
    """``labels``: component of each position; ``reasons``: barrier number of each component, FREE (-1): it may go."""

    links: Links
    labels: np.ndarray
    reasons: np.ndarray
    carriers: dict[int, str]  # index of the choice -> the letter that is cut


@dataclass
class _State:
    """Components under merging: ``root`` maps a component to its current class, ``reason`` is kept per class."""

    root: np.ndarray
    reason: np.ndarray

    def copy(self) -> _State:
        return _State(self.root.copy(), self.reason.copy())

    def free(self, items: np.ndarray) -> bool:
        return bool((self.reason[self.root[items]] == FREE).any())

    def units(self, items: np.ndarray) -> int:
        """Return how many different free classes there are among ``items``."""
        classes = np.unique(self.root[items])
        return int((self.reason[classes] == FREE).sum())

    def why(self, items: np.ndarray) -> int:
        reasons = self.reason[self.root[items]]
        barred = reasons[reasons != FREE]
        return int(barred.min()) if len(barred) else FREE

    def bar(self, items: np.ndarray, number: int) -> None:
        classes = self.root[items]
        classes = classes[self.reason[classes] == FREE]
        self.reason[classes] = number

    def merge(self, left: np.ndarray, right: np.ndarray) -> None:
        count, labels = components(len(self.reason), self.root[left], self.root[right])
        worst = np.iinfo(np.int64).max
        merged = np.full(count, worst)
        np.minimum.at(merged, labels, np.where(self.reason == FREE, worst, self.reason))
        self.root = labels[self.root]
        self.reason = np.where(merged == worst, FREE, merged)


GROUPS = "g"  # the letter of whole groups, of channels or of heads, in every signature that has them
ORDERS = {"outer": ("outer", "inner"), "inner": ("inner", "outer"), "groups": ("groups", "outer")}
WORTH = 0.5  # of the weight that could go otherwise: what cutting whole groups must leave prunable


def resolve(links: Links, prefer: str = "outer") -> Solution:
    """Resolve all choices; ``prefer`` (outer or inner factor) decides where both leave equally much weight to prune.

    ``groups``: whole groups go wherever that leaves at least half of the weight to prune.
    """
    labels, reasons = links.components()
    state = _State(np.arange(len(reasons)), reasons)
    choices = {number: _on_components(choice, labels) for number, choice in enumerate(links.choices)}
    carriers: dict[int, str] = {}
    _propagate(links, choices, state, carriers)
    weights = _weights(links, labels)
    open_choices = [number for number in choices if number not in carriers]
    for chosen in _clusters(choices, open_choices, state):
        cluster, used = _cluster(choices, chosen, state, weights)
        here, decided = _try_cluster(links, cluster, prefer)
        carriers.update(decided)
        _write_back(state, used, here)
    return Solution(links, state.root[labels], state.reason, carriers)


def _on_components(choice: Product, labels: np.ndarray) -> Product:
    return choice._replace(fine=labels[choice.fine], factors=tuple(labels[f] for f in choice.factors))


def _propagate(links: Links, choices: Mapping[int, Product], state: _State, carriers: dict[int, str]) -> None:
    """Take every forced carrier (one factor still free) until nothing changes; decided choices enter ``carriers``."""
    changed = True
    while changed:
        changed = False
        left, right = [], []
        for index, choice in choices.items():
            if index in carriers:
                continue
            free = [state.free(factor) for factor in choice.factors]
            if not state.free(choice.fine) or not any(free):
                _freeze(links, choice, state)
                carriers[index] = ""
                changed = True
            elif sum(free) == 1:
                left.append(choice.fine)
                right.append(_carry(links, choice, free.index(True), state))
                carriers[index] = choice.letters[free.index(True)]
                changed = True
        if left:
            state.merge(np.concatenate(left), np.concatenate(right))


def _freeze(links: Links, choice: Product, state: _State) -> None:
    """A product that cannot be cut bars all its factors, and one without a free factor is barred itself.

    The reason is taken from elsewhere where there is one: that some factor is constant explains nothing.
    """
    numbers = [state.why(choice.fine), *(state.why(factor) for factor in choice.factors)]
    barred = [n for n in numbers if n != FREE]
    number = min(barred, key=lambda n: (links.barriers[n].node is choice.node, barred.index(n)))
    for items in (choice.fine, *choice.factors):
        state.bar(items, number)


def _carry(links: Links, choice: Product, chosen: int, state: _State) -> np.ndarray:
    """Bar the other factors and return the carrier's component for each fine position."""
    for index, factor in enumerate(choice.factors):
        if index != chosen and state.free(factor):
            reason = f"a factor of the same axis as {choice.letters[chosen]!r}, which is cut instead"
            links.barriers.append(Barrier(choice.node, reason, "carrier"))
            state.bar(factor, len(links.barriers) - 1)
    return choice.factors[chosen][choice.maps[chosen]]


class _Weights(NamedTuple):
    """Every position of every parameter axis: its component, the number of its axis (ascending), the weights on it.

    ``multiplied``: whether a node that multiplies and adds reads them. Tables that are looked up, such as sines of rotary positions,
    decide nothing beside those.
    """

    component: np.ndarray
    axis: np.ndarray
    volume: np.ndarray
    multiplied: np.ndarray


def _weights(links: Links, labels: np.ndarray) -> _Weights:
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, bool))]
    multiplied = _multiplied(links)
    for number, (value, axis) in enumerate(links.axes):
        shape = links.facts.shape(value) or ()
        if links.facts.is_parameter(value) and (size := shape[axis]):
            volume = np.prod(shape, dtype=float) / size
            known = labels[links.axis(value, axis)]
            parts.append((known, np.full(size, number), np.full(size, volume), np.full(size, value in multiplied)))
    return _Weights(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _multiplied(links: Links) -> set[str]:
    """Return the parameters that nodes with MACs read, through operators on stored tensors alone too."""
    facts = links.facts
    todo = [name for node, spec in links.specs if spec.cost or spec.further for name in node.inputs]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found or name not in facts.constants:
            continue
        found.add(name)
        if not facts.is_parameter(name) and name in facts.graph.producer:
            todo.extend(facts.graph.producer[name].inputs)
    return found


def _near(weights: _Weights, state: _State, classes: np.ndarray, members: np.ndarray) -> tuple[_Weights, np.ndarray]:
    """Return the axes that ``classes`` (ascending) lie on, and which of ``members`` each position is (-1: none)."""
    touched = np.isin(state.root[weights.component], classes)
    near = np.isin(weights.axis, np.unique(weights.axis[touched]))
    found = np.searchsorted(classes, state.root[weights.component[near]])
    places = np.where(touched[near], members[np.minimum(found, len(classes) - 1)], -1)
    return _Weights(*(part[near] for part in weights)), places


def _of_several_units(classes: np.ndarray, weights: _Weights) -> np.ndarray:
    """Return bool[positions]: whether the position's axis is of more than one class."""
    starts = np.flatnonzero(np.diff(weights.axis, prepend=-1))
    several = np.minimum.reduceat(classes, starts) != np.maximum.reduceat(classes, starts)
    return np.repeat(several, np.diff(starts, append=len(classes)))


def _clusters(choices: Mapping[int, Product], todo: list[int], state: _State) -> list[list[int]]:
    """Split open choices into sets that share no free component."""
    seen: dict[int, int] = {}
    parent = {index: index for index in todo}

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index in todo:
        classes = np.unique(state.root[np.concatenate([choices[index].fine, *choices[index].factors])])
        for item in classes[state.reason[classes] == FREE].tolist():
            other = seen.setdefault(item, index)
            parent[find(index)] = find(other)
    clusters = defaultdict(list)
    for index in todo:
        clusters[find(index)].append(index)
    return list(clusters.values())


@dataclass
class _Cluster:
    """Open choices that share components, renumbered; the weights near them, and the state to start from."""

    choices: dict[int, Product]
    weights: _Weights
    places: np.ndarray  # local component of each position of ``weights``, -1: not of this cluster
    start: _State

    @cached_property
    def counted(self) -> np.ndarray:
        """bool[positions]: of the weights that something multiplies by, where the cluster has any."""
        multiplied = self.weights.multiplied
        return multiplied if multiplied[self.places >= 0].any() else np.ones(len(multiplied), bool)

    def prunable(self, state: _State, several: bool) -> float:
        """Return the weights that may go; with ``several`` only those on axes of more than one unit."""
        classes = np.where(self.places < 0, -1, state.root[self.places])
        free = (classes >= 0) & (state.reason[classes] == FREE) & self.counted
        return float(self.weights.volume[free & _of_several_units(classes, self.weights) if several else free].sum())


def _cluster(
    choices: Mapping[int, Product], chosen: list[int], state: _State, weights: _Weights
) -> tuple[_Cluster, np.ndarray]:
    """Return one cluster on a copy of its own components, and the numbers that those have in the model."""
    used = np.unique(np.concatenate([np.concatenate([choices[i].fine, *choices[i].factors]) for i in chosen]))
    classes, local_root = np.unique(state.root[used], return_inverse=True)
    members = np.empty(len(classes), np.int64)
    members[local_root] = np.arange(len(used))
    near, places = _near(weights, state, classes, members)
    local = {i: _relabel(choices[i], used) for i in chosen}
    return _Cluster(local, near, places, _State(local_root, state.reason[classes])), used


def _try_cluster(links: Links, cluster: _Cluster, prefer: str) -> tuple[_State, dict[int, str]]:
    """Settle a cluster by what is free after each choice; where axes of one unit come of it, in other ways as well.

    The last unit of an axis never goes, so that the best way is the one that leaves most on axes of several units.
    """
    best = None
    most = 0.0
    mark = len(links.barriers)
    one, two = ORDERS[prefer]
    for first, several in ((one, False), (one, True), (two, False), (two, True)):
        state, decided = _greedy(links, cluster, first, several)
        added = links.barriers[mark:]
        del links.barriers[mark:]
        gain = cluster.prunable(state, several=True)
        worth = gain / WORTH if first == "groups" else gain
        if best is None or worth > best[0] * (1 + 1e-9):
            best = (worth, state, decided, added)
        most = max(most, cluster.prunable(state, several=False))
        if first != "groups" and gain >= most:
            break
    assert best is not None
    links.barriers.extend(best[3])
    return best[1], best[2]


def _greedy(links: Links, cluster: _Cluster, prefer: str, several: bool) -> tuple[_State, dict[int, str]]:
    """Decide choice after choice, keeping each time the factor that leaves most weight to prune."""
    here, decided = cluster.start.copy(), dict[int, str]()
    whole = prefer == "groups"
    for index, choice in sorted(cluster.choices.items(), key=lambda item: whole and GROUPS not in item[1].letters):
        if index in decided:
            continue
        best = None
        free = [n for n, factor in enumerate(choice.factors) if here.free(factor)]
        for number in free[::-1] if prefer == "inner" else free:
            mark, trial, chosen = len(links.barriers), here.copy(), dict(decided)
            trial.merge(choice.fine, _carry(links, choice, number, trial))
            chosen[index] = choice.letters[number]
            _propagate(links, cluster.choices, trial, chosen)
            weight = cluster.prunable(trial, several)
            wanted = whole and choice.letters[number] == GROUPS and trial.units(choice.factors[number]) > 1
            if best is None or wanted or (not best[0] and weight > best[1] * (1 + 1e-9)):
                best = (wanted, weight, trial, chosen, links.barriers[mark:])
            del links.barriers[mark:]
        assert best is not None
        _, _, here, decided, added = best
        links.barriers.extend(added)
    return here, decided


def _relabel(choice: Product, used: np.ndarray) -> Product:
    return choice._replace(
        fine=np.searchsorted(used, choice.fine), factors=tuple(np.searchsorted(used, f) for f in choice.factors)
    )


def _write_back(state: _State, used: np.ndarray, here: _State) -> None:
    """Carry a cluster's merges and barriers over to the whole model."""
    order = np.argsort(here.root, kind="stable")
    same = here.root[order][1:] == here.root[order][:-1]
    left, right = used[order][1:][same], used[order][:-1][same]
    barred = here.reason[here.root] != FREE
    for number in np.unique(here.reason[here.root][barred]):
        state.bar(used[here.reason[here.root] == number], int(number))
    if len(left):
        state.merge(left, right)
