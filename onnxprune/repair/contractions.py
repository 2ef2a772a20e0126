"""Products of a value and a stored tensor over any of their axes: einsum equations, stacks of matrices, projections inside of fused operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from onnxprune.evidence.needs import Need
from onnxprune.evidence.rows import Sampler, sampled_rows
from onnxprune.model.facts import Facts, Shape
from onnxprune.model.graph import Node
from onnxprune.repair.maps import MAX_INPUTS, LinearMap, WeightBlock, factor_of
from onnxprune.repair.operands import Operands
from onnxprune.repair.stored import Stored
from onnxprune.repair.teacher import AxisOrder, Sought

Letters = list[str]


class Axes(NamedTuple):
    """A letter for every axis of the two operands of a product, and of what it gives."""

    left: Letters
    right: Letters
    made: Letters


@dataclass(frozen=True)
class Contraction(LinearMap):
    """A product over some axes of a value; axes that the weight and the output share are groups.

    ``read``: axes of the source, ``made``: of the output, positions in the same order before all others (None: nothing shows it).
    """

    read: AxisOrder
    made: AxisOrder | None

    @property
    def reads(self) -> int:
        return self.read.channels[-1]

    @property
    def by_position(self) -> bool:
        return True

    def sought(self, value: str) -> Sought:
        found = super().sought(value)
        return found if self.made is None else replace(found, order=self.made)

    def rows_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        need = Need("gram", self.source, -1, self.groups)
        return np.array(sampled_rows(self.read.turned(values[0]), need, sampler), np.float32, order="C")

    def counts_of(self, values: Sequence[np.ndarray], sampler: Sampler) -> np.ndarray:
        return Sought(self.source, -1, order=self.read).counts(values[0], sampler)


def contraction(
    node: Node,
    operands: Operands,
    axes: Axes,
    stored: Stored,
    facts: Facts,
    *,
    activation: str = "",
    hidden: bool = False,
) -> Contraction | None:
    """Return a product with these letters, the weight being ``axes.right``; None where it is none of positions, groups, inputs and outputs.

    ``hidden``: the output does not have these letters, because the product stays inside of the node.
    """
    name = operands.weight.name
    before, whole, after = (facts.shape(value) for value in (operands.source, name, operands.output))
    if before is None or after is None or whole is None or operands.source in facts.constants:
        return None
    axes = _parted(axes, before, whole)
    roles = _roles(axes, before, whole)
    if roles is None or (not hidden and _sizes(axes.made, after) is None):
        return None
    positions, groups, inputs, outputs = roles
    weight = (_places(axes.right, groups), _places(axes.right, outputs), _places(axes.right, inputs))
    along = weight[2][0] if len(weight[2]) == 1 else None
    block = WeightBlock(operands.weight, stored.arrays[name].shape, weight, along=along, factor=factor_of(node))
    read = AxisOrder(_places(axes.left, positions), _places(axes.left, groups + inputs))
    made = None if hidden else AxisOrder(_places(axes.made, positions), _places(axes.made, groups + outputs))
    if block.shape[2] > MAX_INPUTS or block.shape[1] == 0:
        return None
    axis = made.channels[0] if made is not None and len(made.channels) == 1 else -1
    channels = block.shape[0] * block.shape[1]
    plain = Contraction(node, operands, block.shape[0], axis, channels, (block,), read, made, activation=activation)
    return plain.taking(stored, len(after))


def _places(letters: Letters, wanted: Letters) -> tuple[int, ...]:
    return tuple(letters.index(letter) for letter in wanted if letter in letters)


def _parted(axes: Axes, before: Shape, shape: Shape) -> Axes:
    """Give axes of one position that broadcast letters of their own: they are summed over."""
    left, right = list(axes.left), list(axes.right)
    for own, sizes, other in ((left, before, axes.right), (right, shape, axes.left)):
        for axis, (letter, size) in enumerate(zip(own, sizes, strict=False)):
            if size == 1 and letter in other and letter in axes.made:
                own[axis] = f"{letter} of one"
    return Axes(left, right, axes.made)


def _sizes(letters: Letters, shape: Shape) -> dict[str, int] | None:
    """Return the size of each letter; None where they do not fit a shape, or one is there twice."""
    return dict(zip(letters, shape, strict=True)) if len(set(letters)) == len(letters) == len(shape) else None


def _roles(axes: Axes, before: Shape, shape: Shape) -> tuple[Letters, Letters, Letters, Letters] | None:
    """Return the letters of positions and groups in the order of the output, of inputs, and of outputs."""
    left, right = _sizes(axes.left, before), _sizes(axes.right, shape)
    if left is None or right is None or len(set(axes.made)) < len(axes.made):
        return None
    positions = [x for x in axes.made if x in left and x not in right]
    groups = [x for x in axes.made if x in left and x in right]
    outputs = [x for x in axes.made if x in right and x not in left]
    inputs = [x for x in axes.left if x in right and x not in axes.made]
    alone = [x for x in (*left, *right) if x not in axes.made and x not in inputs]
    matched = all(left[x] == right[x] for x in groups + inputs)
    covered = len(positions) + len(groups) + len(outputs) == len(axes.made)
    if not (inputs and outputs and matched and covered) or any(left.get(x, right.get(x)) != 1 for x in alone):
        return None
    return positions, groups, inputs + alone, outputs


# --- letters of operators ---------------------------------------------------------------------------------------------


def product_axes(ranks: tuple[int, int], flipped: tuple[bool, bool] = (False, False)) -> Axes:
    """Return the letters of a matrix product of operands of these ranks, some with their last two axes exchanged."""
    stack = [f"stack {axis}" for axis in range(max(*ranks, 2) - 2)]
    own = [(["m", "k"] if ranks[0] > 1 else ["k"]), (["k", "n"] if ranks[1] > 1 else ["k"])]
    parts = [part[::-1] if flip else part for part, flip in zip(own, flipped, strict=True)]
    left, right = (stack[len(stack) - max(rank - 2, 0) :] + part for rank, part in zip(ranks, parts, strict=True))
    made = [*stack, *(["m"] if ranks[0] > 1 else []), *(["n"] if ranks[1] > 1 else [])]
    return Axes(left, right, made)


def equation_axes(equation: str, ranks: tuple[int, int]) -> Axes | None:
    """Return the letters of an Einsum of two operands of these ranks; None where there are more or fewer of them."""
    texts, arrow, made = equation.replace(" ", "").partition("->")
    parts = texts.split(",")
    if len(parts) != len(ranks):
        return None
    if not arrow:
        plain = texts.replace("...", "").replace(",", "")
        made = "..." * ("..." in texts) + "".join(sorted(c for c in set(plain) if plain.count(c) == 1))
    dots = [
        rank - len(part.replace("...", "")) if "..." in part else 0 for part, rank in zip(parts, ranks, strict=True)
    ]
    left, right = (_spelled(part, count, max(dots)) for part, count in zip(parts, dots, strict=True))
    return Axes(left, right, _spelled(made, max(dots), max(dots)))


def _spelled(text: str, own: int, most: int) -> Letters:
    """Return the letters of an operand whose ellipsis stands for the last ``own`` of ``most`` axes."""
    before, dots, after = text.partition("...")
    return [*before, *(f"dot {axis}" for axis in range(most - own, most) if dots), *after]
