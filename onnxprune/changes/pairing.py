"""Grouped convolutions beyond equal indices: channels inside each group are brought into the order of their saliency.

A grouped convolution has as many channels in every group, so that a unit is one channel of each. Which ones share a unit
is open: once every group is ordered, the r-th least salient channels of all groups do. Reordering changes nothing that the
model computes: each stored tensor is permuted along every axis that holds these channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from onnxprune.changes.change import Change, Refuted, Space
from onnxprune.changes.context import Context
from onnxprune.coupling.carriers import Solution, resolve
from onnxprune.coupling.links import FREE, build_links
from onnxprune.coupling.ordering import moved_tensors, with_tensors
from onnxprune.coupling.spec import Operand, Spec, Term
from onnxprune.errors import SurgeryError
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Node
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS
from onnxprune.proof.check import SurgeryCheck

ALONE = {("g", "c"): "gc", ("g", "o"): "go"}  # channels of a grouped convolution as letters of their own


@dataclass(frozen=True)
class _Side:
    """Channels on one side of a grouped convolution: ``components``: int64[groups, channels]; ``weight``: read per group."""

    components: np.ndarray
    weight: str


class Pairing(Space[int]):
    """Brings the channels of every group into ascending order of saliency, wherever that changes nothing; prepares for ``Units``."""

    kind, name, noun = "paired", "pairs", "convolution"

    def __init__(self, context: Context):
        super().__init__(context)
        self.solution = resolve(build_links(context.facts, context.settings.allowed, _loosened))
        self.sides = list(_sides(self.solution))
        saliency = _saliency(context.facts, self.solution, self.sides)
        self.orders = [np.argsort(saliency[side.components], axis=1, kind="stable") for side in self.sides]

    def parts(self) -> Sequence[int]:
        return range(len(self.sides))

    def without(self, refuted: Refuted) -> Self:
        rest = copy.copy(self)
        rest.barred = {**self.barred, **refuted.parts}
        return rest

    def made(self, change: Change[int]) -> Model:
        if not change.parts:
            return self.context.facts.model
        try:
            chosen = [(self.sides[n], self.orders[n]) for n in change.parts]
            return _reordered(self.context.facts, self.solution, chosen)
        except ValueError as error:
            raise SurgeryError(str(error)) from error

    def checked(self, change: Change[int], small: Model) -> SurgeryCheck:
        """Nothing may change: what was not seen to be equal stays in its order."""
        check = self.context.prover.compare(self.context.facts.model, small, None)
        return replace(check, problem=check.problem or check.unproven, unproven="")

    def trained(self, change: Change[int]) -> bool:
        return True


def _loosened(node: Node, spec: Spec) -> Spec:
    """Let every channel of a grouped convolution go for itself, as if the counts of its groups did not matter."""
    if not node.attribute("group", 1) > 1 or not {"g", "c", "o"} <= spec.sizes.keys():
        return spec
    spec.sizes.update({letter: spec.sizes["g"] * spec.sizes[letter[1]] for letter in ALONE.values()})

    def alone(operand: Operand) -> Operand:
        return operand and tuple(Term((ALONE[t.letters],)) if t.letters in ALONE else t for t in operand)

    spec.inputs, spec.outputs = [alone(o) for o in spec.inputs], [alone(o) for o in spec.outputs]
    return spec


def _sides(solution: Solution) -> Iterator[_Side]:
    """Yield the channels that can be reordered: each a component of its own, free, and in one order only."""
    links, used = solution.links, set[int]()
    for index, (node, spec) in enumerate(links.specs):
        if node.op != "Conv" or "gc" not in spec.sizes:
            continue
        for letter, weight in (("gc", node.inputs[1]), ("go", "")):
            found = solution.labels[links.letter(index, letter)].reshape(spec.sizes["g"], -1)
            names = set(found.reshape(-1).tolist())
            single = len(names) == found.size and found.shape[1] > 1 and used.isdisjoint(names)
            alone = not weight or len(links.facts.graph.consumers[weight]) == 1
            if single and alone and (solution.reasons[found] == FREE).all():
                used |= names
                yield _Side(found, weight)


def _saliency(facts: Facts, solution: Solution, sides: Sequence[_Side]) -> np.ndarray:
    """Return float64[components]: the share of squared weights that stand on it, summed over all stored tensors."""
    result = np.zeros(len(solution.reasons))
    for name in (n for n in facts.graph.tensors if n in solution.links.facts.first and facts.dtype(n) in FLOATS):
        squares = np.square(facts.content(name), dtype=np.float64)
        squares /= max(squares.sum(), 1e-30)
        for axis in range(squares.ndim):
            along = squares.sum(axis=tuple(a for a in range(squares.ndim) if a != axis))
            np.add.at(result, solution.labels[solution.links.axis(name, axis)], along)
        for side in (side for side in sides if side.weight == name):
            groups, width = side.components.shape
            np.add.at(result, side.components, squares.reshape(groups, -1, width, squares[0, 0].size).sum((1, 3)))
    return result


def _reordered(facts: Facts, solution: Solution, chosen: Sequence[tuple[_Side, np.ndarray]]) -> Model:
    source = np.arange(len(solution.reasons))
    for side, order in chosen:
        source[side.components] = np.take_along_axis(side.components, order, 1)
    inner = {side.weight: order for side, order in chosen if side.weight}
    arrays = dict(
        moved_tensors(facts.model, lambda name, axis: solution.labels[solution.links.axis(name, axis)], source)
    )
    for name, order in inner.items():
        array = arrays[name] if name in arrays else facts.model.weights[name].read()
        blocks = array.reshape(len(order), -1, *array.shape[1:])
        shape = (len(order), 1, order.shape[1], *[1] * (array.ndim - 2))
        arrays[name] = np.take_along_axis(blocks, order.reshape(shape), 2).reshape(array.shape)
    return with_tensors(facts.model, arrays)
