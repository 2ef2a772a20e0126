"""A file of statistics that a run takes instead of looking at the data again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.observe import Parts, Together
from onnxprune.errors import DataError
from onnxprune.evidence.coding import is_like
from onnxprune.evidence.gathered import NAMES, Gathered, row_hashes
from onnxprune.means import Means

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class KnownStatistics:
    """What ``path`` holds; once it was ``used``, models that the run has changed since are looked at anew."""

    path: Path
    found: Gathered
    used: bool = field(default=False)

    @classmethod
    def read(cls, path: Path) -> KnownStatistics:
        """Raises DataError for what is no such file, or holds a part of the data only."""
        found = Gathered.load(path)
        if not found.complete:
            number, of = found.shard
            raise DataError(
                f"{path} holds part {number} of {of} only; merge all parts first (onnxprune stats merge PART... -o WHOLE)"
            )
        return cls(path, found)

    def instead(self, means: Means, about: Mapping[str, Any], dataset: Dataset) -> Means:
        """Return means by which passes over the data are answered by the file; raises DataError where it does not fit."""
        if self.used and about["run"] != self.found.about["run"]:
            return means
        self._require(about)
        for first, hashes in self.found.hashes.items():
            if not np.array_equal(row_hashes(dataset, first, first + len(hashes)), hashes):
                raise DataError(
                    f"{self.path} was gathered from other rows than the calibration data; gather it from these"
                )
        self.used = True
        return means.through(Replayed(self.found, str(self.path)))

    def _require(self, about: Mapping[str, Any]) -> None:
        """Raise DataError where model, options or data differ."""
        known = self.found.about
        for option, value in about["settings"].items():
            if known["settings"].get(option) != value:
                raise DataError(
                    f"{self.path} was gathered with {option} {known['settings'].get(option)}, this run has {value}; use the same, or "
                    "gather it anew (onnxprune stats)"
                )
        rows = known["data"]["samples"], about["data"]["samples"]
        if rows[0] != rows[1]:
            raise DataError(
                f"{self.path} was gathered from {rows[0]:,} rows, this run decides by {rows[1]:,}; gather it from the same rows "
                "(--recover keeps an eighth of them back)"
            )
        for key, called in NAMES.items():
            if known[key] != about[key]:
                raise DataError(
                    f"{self.path} was gathered for another {called} than this run has; gather it anew (onnxprune stats)"
                )


class Replayed:
    """Answers the passes of a run with those of a file, in their order."""

    workers = 1

    def __init__(self, found: Gathered, name: str):
        self.left, self.name = list(found.passes), name

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        return enumerate(map(work, items))

    def merged(self, work: Any, items: Sequence[Any], tell: Callable[[int], None] = lambda done: None) -> Any:
        found = self.left.pop(0) if self.left else None
        fits = found is not None and (found.leaf, found.count) == (work.leaf, work.count)
        whole = deepcopy(found.parts.whole(found.count)) if found is not None and fits else Together([])
        if not (fits and is_like(whole, work.glimpse())):
            raise DataError(
                f"{self.name} does not hold what this run gathers; gather it anew, with the options of this run"
            )
        return Parts({0: (work.count, whole)})
