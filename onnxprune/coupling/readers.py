"""Who reads a group's units: every node that uses them up, on which of its operands; found once for each analysis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from onnxprune.coupling.groups import Analysis, Member, groups_on
from onnxprune.coupling.spec import Operand, Spec
from onnxprune.model.graph import Node

T = TypeVar("T")


def once(function: Callable[[Analysis], T]) -> Callable[[Analysis], T]:
    """Keep what a function says of an analysis for as long as the analysis is there."""
    known: WeakKeyDictionary[Analysis, T] = WeakKeyDictionary()

    @wraps(function)
    def remembered(analysis: Analysis) -> T:
        if analysis not in known:
            known[analysis] = function(analysis)
        return known[analysis]

    return remembered


@dataclass(frozen=True, eq=False)
class UnitReader:
    """A node that uses up a group's units by one letter of its signature.

    ``places``: (value, axis) of every operand that carries the letter, in order. ``consumes``: whether the letter ends here;
    else the node takes statistics over it.
    """

    node: Node
    group: int
    places: tuple[tuple[str, int], ...]
    consumes: bool


@once
def unit_readers(analysis: Analysis) -> tuple[tuple[UnitReader, ...], ...]:
    """Return the readers of each group, in the order of the nodes."""
    found: list[list[UnitReader]] = [[] for _ in analysis.groups]
    links = analysis.solution.links
    for index, (node, spec) in enumerate(links.specs):
        sinks = spec.sinks()
        for letter in sorted(sinks | set(spec.lossy)):
            if (index, letter) in links.letters:
                units = analysis.unit[links.letter(index, letter)]
                places = tuple((name, axis) for _, name, axis in carriers_of(node, spec, letter) if name)
                for group in groups_on(units, analysis.starts):
                    found[group].append(UnitReader(node, group, places, letter in sinks))
    return tuple(map(tuple, found))


@once
def normed_groups(analysis: Analysis) -> frozenset[int]:
    """Return the groups that norms, means or extremes are taken over, and that such corrections make up for."""
    links, found = analysis.solution.links, set[int]()
    for index, (_, spec) in enumerate(links.specs):
        for letter in spec.statistics:
            found.update(groups_on(analysis.unit[links.letter(index, letter)], analysis.starts))
    return frozenset(found)


@once
def reading_weights(analysis: Analysis) -> dict[str, tuple[tuple[int, Member], ...]]:
    """Return weight -> (group, member) for the groups whose units stored weights read."""
    found: dict[str, tuple[tuple[int, Member], ...]] = {}
    for group in analysis.groups:
        for member in group.members:
            if member.role == "reads":
                found[member.parameter] = (*found.get(member.parameter, ()), (group.index, member))
    return found


def carriers_of(node: Node, spec: Spec, letter: str) -> Iterator[tuple[int | None, str, int]]:
    """Yield (input, value, axis) of what carries a letter: of all that a node reads (input None: inside a body)."""
    mentions = ((node.inputs.index(name) if name in node.inputs else None, name, own) for name, own in spec.extra)
    for number, name, operand in (
        *((i, *pair) for i, pair in enumerate(zip(node.inputs, spec.inputs, strict=False))),
        *mentions,
    ):
        yield from ((number, name, axis) for axis in axes_with(operand, letter))


def axes_with(operand: Operand, *letters: str) -> list[int]:
    """Return the axes of an operand that are made of one of the letters, or of a product with one."""
    return [axis for axis, term in enumerate(operand or ()) if not set(letters).isdisjoint(term.letters)]


def unit_of(analysis: Analysis, value: str, axis: int, group: int) -> np.ndarray:
    """Return int64[axis size]: the group's unit of each position of a value's axis, -1 where none."""
    units = analysis.unit[analysis.solution.links.axis(value, axis)]
    start, stop = analysis.starts[group], analysis.starts[group + 1]
    return np.where((units >= start) & (units < stop), units - start, -1)
