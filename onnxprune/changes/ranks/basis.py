"""What a layer keeps of itself when it becomes factors: which directions, in which form, and what is lost with the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxprune.allocate.legal import Options, aligned_parts, capped
from onnxprune.changes.ranks.costs import FORMS, most_ranks
from onnxprune.changes.ranks.layers import Layer
from onnxprune.repair.moments import Subspace

LEVELS = 64  # numbers of directions that are looked at per side of a layer


class Way(NamedTuple):
    """Sizes that a layer may have in one form: ``ranks`` int64[p], ``inputs`` int64[q], and what is ``lost`` float64[p, q] (infinite: not to be had)."""

    form: str
    ranks: np.ndarray
    inputs: np.ndarray
    lost: np.ndarray


@dataclass(frozen=True, eq=False)
class Basis(ABC):
    """Directions of a layer, the most important first; each kind of basis says what they are."""

    layer: Layer

    @abstractmethod
    def ways(self, options: Options) -> Iterator[Way]:
        """Yield the sizes to choose among in each form."""

    @abstractmethod
    def at_ratio(self, ratio: float, options: Options) -> Cut | None:
        """Return the layer without so large a share of itself; None where that makes it no cheaper."""

    @abstractmethod
    def projected(self, cut: Cut, weight: np.ndarray) -> np.ndarray:
        """Return float64[o, i, taps]: the layer's own weight without the directions that go."""

    @abstractmethod
    def reading(self, cut: Cut) -> np.ndarray:
        """Return float64[i, q]: what of its input channels a layer with a factor in front reads."""

    @abstractmethod
    def limit(self, cut: Cut, weight: np.ndarray) -> Subspace:
        """Return what a repair must keep to so that the weight can still be written in this form."""

    @property
    @abstractmethod
    def whole(self) -> float:
        """What is lost with all of the layer."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A layer that becomes factors: the first ``inputs`` and ``rank`` directions of its basis stay."""

    basis: Basis
    form: str
    inputs: int
    rank: int

    @property
    def layer(self) -> Layer:
        return self.basis.layer

    @property
    def reads(self) -> int:
        """Directions of its input that the layer still reads."""
        return self.inputs if FORMS[self.form].before else self.layer.inputs

    @property
    def makes(self) -> int:
        """Directions of its output that it still makes."""
        return min(self.rank, self.layer.outputs) if FORMS[self.form].after else self.layer.outputs

    @property
    def entry(self) -> tuple[Layer, str, int, int]:
        return self.layer, self.form, self.inputs, self.rank


def full_cut(basis: Basis, form: str) -> Cut:
    """Return a layer in a form that keeps all directions, which computes what the layer did."""
    return Cut(basis, form, basis.layer.inputs, most_ranks(basis.layer, form))


def direction_counts(size: int, options: Options, most: int = LEVELS) -> np.ndarray:
    """Return the numbers of directions to look at, ascending, all of them last."""
    every = np.array(capped(aligned_parts(size, options), options))
    return every[np.unique(np.linspace(0, len(every) - 1, most).round().astype(int))]


def by_columns(weight: np.ndarray, kernel: tuple[int, ...]) -> np.ndarray:
    """Return [o, kernel width, kernel height, i] of [o, i, taps], a kernel of two axes: its columns side by side."""
    outputs, inputs, _ = weight.shape
    return weight.reshape(outputs, inputs, *kernel).transpose(0, 3, 2, 1)


def by_taps(columns: np.ndarray) -> np.ndarray:
    """Return [o, i, taps] of what ``by_columns`` gave."""
    outputs, width, height, inputs = columns.shape
    return columns.transpose(0, 3, 2, 1).reshape(outputs, inputs, height * width)
