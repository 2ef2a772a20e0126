"""A decision on widths as one value: the units that stay in every group, and what follows from that for values and nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from onnxprune.coupling.groups import Analysis


class Kept(Sequence[np.ndarray]):
    """Which units of each group stay: a sequence of bool[width], one per group, not to be written to.

    What it says of values and nodes of ``analysis`` is worked out once.
    """

    def __init__(self, analysis: Analysis, masks: Iterable[np.ndarray]):
        self.analysis = analysis
        self._groups = tuple(np.array(mask, bool) for mask in masks)
        for mask in self._groups:
            mask.flags.writeable = False
        self._axes: dict[tuple[str, int], np.ndarray | None] = {}
        self._letters: dict[tuple[int, str], np.ndarray | None] = {}

    @classmethod
    def whole(cls, analysis: Analysis) -> Kept:
        """Return the decision in which everything stays."""
        return cls(analysis, (np.ones(group.width, bool) for group in analysis.groups))

    @classmethod
    def of(cls, analysis: Analysis, masks: Sequence[np.ndarray]) -> Kept:
        """Return the decision with these masks (bool[width] per group): the same object where it is one on these units already."""
        return masks if isinstance(masks, Kept) and masks.analysis.unit is analysis.unit else cls(analysis, masks)

    def __eq__(self, other: object) -> bool:
        """Whether the same units stay, whatever the models are."""
        return isinstance(other, Kept) and len(self) == len(other) and all(map(np.array_equal, self, other))

    def __hash__(self) -> int:
        return hash(tuple(mask.tobytes() for mask in self))

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, group: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, group: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, group: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        return self._groups[group]

    @cached_property
    def widths(self) -> np.ndarray:
        """int64[groups]: how many units stay."""
        return np.array([int(mask.sum()) for mask in self], np.int64)

    @cached_property
    def narrowed(self) -> tuple[int, ...]:
        """The groups that lose units."""
        return tuple(group for group, mask in enumerate(self) if not mask.all())

    @property
    def is_whole(self) -> bool:
        return not self.narrowed

    def only(self, groups: Collection[int]) -> Kept:
        """Return the decision in which no other groups lose units."""
        return Kept(self.analysis, [m if g in groups else np.ones_like(m) for g, m in enumerate(self)])

    def without(self, group: int, units: Sequence[int] | np.ndarray) -> Kept:
        """Return the decision in which further units of a group go."""
        mask = self[group].copy()
        mask[units] = False
        return Kept(self.analysis, [mask if g == group else own for g, own in enumerate(self)])

    # --- what follows -----------------------------------------------------------------------------------------------

    def mask(self, value: str, axis: int) -> np.ndarray | None:
        """Return bool[size] of the positions of a value's axis that stay, None where all do."""
        links = self.analysis.solution.links
        if (value, axis) not in links.axes:
            return None
        if (value, axis) not in self._axes:
            self._axes[value, axis] = self._at(links.axis(value, axis))
        return self._axes[value, axis]

    def letter(self, index: int, letter: str) -> np.ndarray | None:
        """Return bool[size] of the positions of a letter of node number ``index`` that stay, None where all do."""
        if (index, letter) not in self._letters:
            self._letters[index, letter] = self._at(self.analysis.solution.links.letter(index, letter))
        return self._letters[index, letter]

    def masks(self, value: str) -> Mapping[int, np.ndarray]:
        """Return axis -> bool[size] for the axes of a value that lose positions."""
        found = {axis: self.mask(value, axis) for axis in range(len(self.analysis.facts.shape(value) or ()))}
        return {axis: mask for axis, mask in found.items() if mask is not None}

    def positions(self, value: str) -> dict[int, np.ndarray]:
        """Return axis -> positions that stay, for the axes of a value that lose some."""
        return {axis: np.flatnonzero(mask) for axis, mask in self.masks(value).items()}

    def reaches(self, index: int) -> bool:
        """Whether node number ``index`` is cut: in one of its letters, or an axis of its operands (positions that a Pad adds)."""
        node, spec = self.analysis.solution.links.specs[index]
        if any(self.letter(index, letter) is not None for letter in spec.sizes):
            return True
        return any(self.masks(name) for name in {*node.inputs, *node.outputs} if name)

    def _at(self, positions: np.ndarray) -> np.ndarray | None:
        starts, units = self.analysis.starts, self.analysis.unit[positions]
        highest = int(units.max(initial=-1))
        if highest < 0:
            return None
        group = int(np.searchsorted(starts, highest, "right")) - 1
        if units.min() >= starts[group]:  # all in one group
            mask = self[group][units - starts[group]]
            return None if mask.all() else mask
        mask = np.ones(len(units), bool)
        owners = np.where(units < 0, -1, np.searchsorted(starts, units, "right") - 1)
        for group in np.unique(owners[owners >= 0]).tolist():
            own = owners == group
            mask[own] = self[group][units[own] - starts[group]]
        return None if mask.all() else mask
