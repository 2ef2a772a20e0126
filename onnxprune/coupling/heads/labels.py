"""Which channel stands at each position of a value, kept as small as can be, and carried through a node by its signature.

Labels of a value: int64, a dimension per axis, of size one where all positions of the axis are of the same channels; ``NONE`` where
there is nothing but zeros. A signature says of every axis which letters it is made of, so that labels by letters are all that is needed
to tell what any node that moves, joins or parts axes gives.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from onnxprune.coupling.spec import Operand

NONE = -1


class Lettered(NamedTuple):
    """Labels by letters of a signature: ``array`` has a dimension per letter, of size one where it makes no difference."""

    letters: tuple[str, ...]
    array: np.ndarray

    @property
    def varying(self) -> set[str]:
        """The letters that tell channels apart."""
        return {letter for letter, size in zip(self.letters, self.array.shape, strict=True) if size > 1}

    def at(self, letter: str, position: int) -> Lettered:
        """Return the labels at one position of a letter."""
        axis = self.letters.index(letter)
        return Lettered(self.letters, self.array.take([min(position, self.array.shape[axis] - 1)], axis))

    def numbers(self, chosen: Collection[str]) -> np.ndarray:
        """Return int64 in the shape of ``array``: the position along the product of the chosen letters."""
        result, stride = np.zeros(self.array.shape, np.int64), 1
        for axis, letter in reversed(list(enumerate(self.letters))):
            if letter in chosen:
                size = self.array.shape[axis]
                result += stride * np.arange(size).reshape([-1 if a == axis else 1 for a in range(result.ndim)])
                stride *= size
        return result


def by_letters(labels: np.ndarray, operand: Operand, sizes: Mapping[str, int]) -> Lettered | None:
    """Return a value's labels by the letters of its axes; None where a letter stands twice, or an axis with channels has none."""
    assert operand is not None
    letters = tuple(letter for term in operand for letter in term.letters)
    if len(set(letters)) < len(letters):
        return None
    array = labels
    for axis, term in reversed(list(enumerate(operand))):
        dims = [sizes[letter] for letter in term.letters]
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        if array.shape[axis] == 1:
            array = array.reshape(*before, *[1] * len(dims), *after)
            continue
        if not dims:
            return None
        if term.places is not None:
            whole = np.full((*before, math.prod(dims), *after), NONE)
            inside = term.places >= 0
            whole[(*[slice(None)] * axis, term.places[inside])] = np.compress(inside, array, axis)
            array = whole
        array = array.reshape(*before, *dims, *after)
    return Lettered(letters, array)


def onto(own: Lettered, operand: Operand, sizes: Mapping[str, int]) -> np.ndarray:
    """Return the labels of a value with these axes; all letters that vary have to be among its own."""
    assert operand is not None
    wanted = [letter for term in operand for letter in term.letters]
    there = [letter for letter in wanted if letter in own.letters]
    order = [own.letters.index(letter) for letter in there]
    rest = [axis for axis in range(len(own.letters)) if axis not in order]
    array = own.array.transpose(*rest, *order).reshape([own.array.shape[axis] for axis in order])
    dims = {letter: array.shape[place] for place, letter in enumerate(there)}
    array = array.reshape([dims.get(letter, 1) for letter in wanted])
    for axis, term in enumerate(operand):
        count = len(term.letters)
        before, inner, after = array.shape[:axis], array.shape[axis : axis + count], array.shape[axis + count :]
        if set(inner) <= {1}:
            array = array.reshape(*before, 1, *after)
            continue
        full = [sizes[letter] for letter in term.letters]
        array = np.broadcast_to(array, (*before, *full, *after)).reshape(*before, -1, *after)
        if term.places is not None:
            taken = array.take(np.maximum(term.places, 0), axis)
            gone = (term.places < 0).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
            array = np.where(gone, NONE, taken)
    return compact(array)


def compact(labels: np.ndarray) -> np.ndarray:
    """Return labels with one position for every axis along which they are all the same."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis) if labels.shape[axis] > 1 else labels
        if first is not labels and bool((labels == first).all()):
            labels = first
    return labels


def letter_by_letter(one: Lettered, two: Lettered) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return both arrays in one shape, and the letters of its dimensions."""
    letters = (*one.letters, *(letter for letter in two.letters if letter not in one.letters))
    left, right = np.broadcast_arrays(*(_spread(own, letters) for own in (one, two)))
    return left, right, letters


def _spread(own: Lettered, letters: tuple[str, ...]) -> np.ndarray:
    there = [own.letters.index(letter) for letter in letters if letter in own.letters]
    dims = {own.letters[axis]: own.array.shape[axis] for axis in there}
    return own.array.transpose(there).reshape([dims.get(letter, 1) for letter in letters])
