"""What the surgery must change on one node, as the rule of its operator says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from onnxprune.model.facts import Shape


class GraphValue(NamedTuple):
    """A value of the graph around a node that is rewritten, by the name that it has there."""

    name: str


class Operation(NamedTuple):
    """A node to be written. ``inputs``: results of operations before it by name, the rewritten node's inputs by number, other
    values of its graph, constants.

    ``output``: number of the rewritten node's output that it gives (None: a value in between, called ``name``).
    """

    op: str
    inputs: tuple[str | int | GraphValue | np.ndarray, ...]
    name: str = ""
    output: int | None = None
    attributes: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Edits:
    """``attributes``: their new values (None deletes one). ``operands``: input -> the content it must have.

    ``results``: output -> operator of two operands and the number that it is given beside what the node computes.
    ``instead``: what stands where the node was, in order.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    operands: dict[int, np.ndarray] = field(default_factory=dict)
    results: dict[int, tuple[str, float]] = field(default_factory=dict)
    instead: tuple[Operation, ...] = ()


class KeptPositions:
    """What a rewrite sees of a cut: the positions kept on every axis of its node's operands and letters."""

    def __init__(self, kept: Callable[[str, int], np.ndarray | None], letter: Callable[[str], int]):
        self._kept = kept
        self.letter = letter  # letter -> number of positions kept

    def kept(self, value: str, axis: int, size: int) -> np.ndarray:
        """Return int64[kept]: the old positions that stay, ascending."""
        found = self._kept(value, axis)
        return np.arange(size) if found is None else np.flatnonzero(found)

    def touched(self, value: str, axis: int) -> bool:
        return self._kept(value, axis) is not None

    def shape(self, value: str, old: Shape) -> Shape:
        """Return the shape after the cut of a value that had shape ``old``.

        A product with a free size (batch times heads) shrinks in proportion, whatever the free size is.
        """
        masks = [self._kept(value, axis) for axis in range(len(old))]
        return tuple(n if m is None else n * int(m.sum()) // len(m) for n, m in zip(old, masks, strict=True))
