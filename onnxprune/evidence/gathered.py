"""What passes over the data showed, in a file: of a share of it or of all, gathered anywhere, joined, and used by a run.

A file says of which model and data it is, which settings decided, which rows were seen (by hashes) and on which processors. Passes are
kept as they come, one after the other: a run that makes the same passes is given what they showed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.observe import LeafRun, Parts, Pass, Together
from onnxprune.errors import DataError
from onnxprune.evidence.coding import coded, decoded_value
from onnxprune.evidence.store import UNREADABLE
from onnxprune.means import Spread
from onnxprune.model.files import atomic_file
from onnxprune.model.paths import STATISTICS as HEADER
from onnxprune.model.scratch import kept
from onnxprune.spread.machine import this_machine

STATISTICS_FORMAT = 1
NAMES = {"model": "model", "run": "model as it is analysed", "needs": "kinds of evidence", "data": "data"}

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class PassFound:
    """What one pass showed; ``leaf`` samples each, ``count`` of them in all."""

    what: str
    leaf: int
    count: int
    parts: Parts[Together]

    @property
    def runs(self) -> list[LeafRun]:
        return [(first, self.parts.known[first][0]) for first in sorted(self.parts.known)]

    def finished(self) -> PassFound:
        """Return the same with all parts put together."""
        return replace(self, parts=Parts({0: (self.count, self.parts.whole(self.count))}))

    def rows(self, leaves: LeafRun, samples: int) -> tuple[int, int]:
        """Return the rows of some leaves, the last one left out."""
        first, end = leaves
        return first * self.leaf, samples if end == self.count else min(end * self.leaf, samples)


@dataclass
class Gathered:
    """``about``: what decides the content: ``model`` (SHA-256 of the file), ``run`` (of what is run), ``settings``, ``needs``,
    ``data`` (rows in all, and a digest of the first and the last).

    ``shard``: which of how many parts (1 of 1: everything). ``hashes``: first row -> uint64[rows], the beginning of each row's SHA-256.
    ``machines``: where it was gathered.
    """

    about: Mapping[str, Any]
    shard: tuple[int, int] = (1, 1)
    passes: list[PassFound] = field(default_factory=list)
    hashes: dict[int, np.ndarray] = field(default_factory=dict)
    machines: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """Rows of the data in all."""
        return int(self.about["data"]["samples"])

    @property
    def rows(self) -> list[tuple[int, int]]:
        """The rows that were seen, as runs of which the last one is left out."""
        return [(first, first + len(hashes)) for first, hashes in sorted(self.hashes.items())]

    @property
    def complete(self) -> bool:
        return bool(self.passes) and all(found.parts.gap(found.count) is None for found in self.passes)

    def save(self, path: Path) -> None:
        """Write everything; raises OutputError. Equal content gives equal bytes."""
        arrays: list[np.ndarray] = []
        passes = [
            {"what": p.what, "leaf": p.leaf, "count": p.count, "parts": [self._part(p, run, arrays) for run in p.runs]}
            for p in self.passes
        ]
        rows = {str(first): coded(hashes, arrays) for first, hashes in sorted(self.hashes.items())}
        header = {
            "format": STATISTICS_FORMAT, "about": self.about, "shard": self.shard, "passes": passes, "rows": rows,
            "machines": sorted(self.machines, key=_text),
        }  # fmt: skip
        with atomic_file(path, swept=True) as stream:
            named = {f"{number}": array for number, array in enumerate(arrays)}
            np.savez(stream, **{HEADER: np.frombuffer(_text(header).encode(), np.uint8)}, **named)  # type: ignore[arg-type]

    def _part(self, found: PassFound, run: LeafRun, arrays: list[np.ndarray]) -> list[Any]:
        return [*run, coded(found.parts.known[run[0]][1], arrays)]

    @classmethod
    def load(cls, path: Path, *, contents: bool = True) -> Gathered:
        """Read what ``save`` wrote, without ``contents`` nothing of what was seen; raises DataError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                header = json.loads(archive[HEADER].tobytes())
                if header["format"] != STATISTICS_FORMAT:
                    raise ValueError(f"format {header['format']}")
                return cls._of(header, _Arrays(archive), contents)
        except (*UNREADABLE, IndexError, AssertionError, RecursionError, AttributeError, MemoryError) as error:
            raise DataError(
                f"{path} is no file of statistics of this version; write one with 'onnxprune stats' ({type(error).__name__})"
            ) from error

    @classmethod
    def _of(cls, header: Mapping[str, Any], arrays: _Arrays, contents: bool) -> Gathered:
        passes = [_pass_of(entry, arrays, contents) for entry in header["passes"]]
        hashes = {int(row): np.asarray(decoded_value(each, arrays), np.uint64) for row, each in header["rows"].items()}
        number, of = header["shard"]
        found = cls(header["about"], (int(number), int(of)), passes, hashes, header["machines"])
        assert isinstance(found.about["settings"], dict) and set(NAMES) < set(found.about) and found.samples >= 0
        return found


class _Arrays:
    """The arrays of a file by number, read when they are asked for."""

    def __init__(self, archive: Any):
        self._archive = archive

    def __getitem__(self, number: int) -> np.ndarray:
        return kept(self._archive[f"{int(number)}"])


def _pass_of(entry: Mapping[str, Any], arrays: _Arrays, contents: bool) -> PassFound:
    parts: Parts[Together] = Parts()
    for first, end, found in entry["parts"]:
        together = decoded_value(found, arrays) if contents else Together([])
        if not (
            isinstance(together, Together) and isinstance(together.all, list) and 0 <= first < end <= entry["count"]
        ):
            raise ValueError("no part of a pass")
        parts.known[int(first)] = int(end), together
    return PassFound(str(entry["what"]), int(entry["leaf"]), int(entry["count"]), parts)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def row_hashes(dataset: Dataset, first: int, end: int) -> np.ndarray:
    """Return uint64[rows]: the first eight bytes of the SHA-256 of each row as the model sees it, labels left out."""
    found = dataset.rows(first, end).sample_hashes() if first < end else []
    return np.array([int(text[:16], 16) for text in found], np.uint64)


def about_data(dataset: Dataset) -> dict[str, Any]:
    """Return what tells the data from other data without all of it being read."""
    count = len(dataset)
    ends = [row_hashes(dataset, 0, 1), row_hashes(dataset, count - 1, count)]
    digest = hashlib.sha256(np.concatenate(ends).tobytes()).hexdigest()[:16]
    return {"samples": count, "labelled": dataset.has_labels, "ends": digest}


class Gathering:
    """Looks at the leaves of one shard, and keeps what every pass shows; ``inner`` shares out this work (None: it is done here).

    Whoever asks is given what this shard shows as if it were everything.
    """

    workers = 1

    def __init__(self, shard: tuple[int, int], inner: Spread | None):
        self.shard, self.inner, self.passes = shard, inner, list[PassFound]()

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        return enumerate(map(work, items))

    def merged(self, work: Any, items: Sequence[Any], tell: Callable[[int], None] = lambda done: None) -> Any:
        number, of = self.shard
        leaves = work.shard(number - 1, of)
        found = self._found(work, leaves, tell)
        one = PassFound(work.what, work.leaf, work.count, found)
        one = one.finished() if of == 1 else one
        self.passes.append(one)
        seen = one.parts if len(one.parts.known) == 1 else deepcopy(found) if found.known else work((0, 1))
        first, *others = (part for _, (_, part) in sorted(seen.known.items()))
        for other in others:
            first.merge(other)
        return Parts({0: (work.count, first)})

    def _found(self, work: Pass, leaves: LeafRun, tell: Callable[[int], None]) -> Parts[Together]:
        if self.inner is None:
            return work(leaves)
        runs = work.runs(self.inner.workers, leaves)
        return self.inner.merged(work, runs, tell) if runs else Parts()

    def gathered(self, about: Mapping[str, Any], dataset: Dataset) -> Gathered:
        """Return all passes with the hashes of the rows that they saw."""
        samples = int(about["data"]["samples"])
        seen = [found.rows(run, samples) for found in self.passes[:1] for run in found.runs]
        result = Gathered(about, self.shard, self.passes, {}, [this_machine()])
        for first, end in _beside_each_other(seen):
            result.hashes[first] = row_hashes(dataset, first, end)
        return result


def _beside_each_other(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for first, end in sorted(runs):
        if found and found[-1][1] == first:
            found[-1] = found[-1][0], end
        else:
            found.append((first, end))
    return found


def joined(paths: Sequence[Path]) -> Gathered:
    """Return everything that several files show, read one after the other.

    Raises DataError where they do not belong together, overlap, or leave rows out.
    """
    files = [(str(path), Gathered.load(path, contents=False)) for path in paths]
    (first_name, first), *others = files
    for name, other in others:
        _require_alike(first_name, first, name, other)
    for number in range(len(first.passes)):
        own = [(name, each.passes[number]) for name, each in files]
        _require_once(own, first.samples)
        _require_all(own, first.samples, [each.shard for _, each in files])
    hashes = {row: found for _, each in files for row, found in each.hashes.items()}
    machines = {_text(machine): machine for _, each in files for machine in each.machines}
    passes = [replace(found, parts=Parts()) for found in first.passes]
    for name in sorted(dict(files), key=lambda name: min(dict(files)[name].hashes, default=0)):
        for whole, found in zip(passes, Gathered.load(Path(name)).passes, strict=True):
            whole.parts.merge(found.parts)
    rows = {0: np.concatenate([hashes[row] for row in sorted(hashes)])}
    return Gathered(first.about, (1, 1), [found.finished() for found in passes], rows, list(machines.values()))


def _require_alike(first_name: str, first: Gathered, name: str, other: Gathered) -> None:
    ours, theirs = first.about["settings"], other.about["settings"]
    for option in sorted({*ours, *theirs}):
        if ours.get(option) != theirs.get(option):
            raise DataError(
                f"{name} was gathered with {option} {theirs.get(option)}, {first_name} with {ours.get(option)}; gather all parts with "
                "the same options"
            )
    for key, called in NAMES.items():
        if first.about[key] != other.about[key]:
            raise DataError(f"{name} is of another {called} than {first_name}; merge parts of one {called} only")
    shapes = [[(found.what, found.leaf, found.count) for found in each.passes] for each in (first, other)]
    if shapes[0] != shapes[1]:
        raise DataError(f"{name} holds other passes than {first_name}; gather all parts with the same options")


def _require_once(files: Sequence[tuple[str, PassFound]], samples: int) -> None:
    taken: list[tuple[LeafRun, str]] = []
    for name, found in files:
        for run in found.runs:
            for other, earlier in taken:
                shared = max(run[0], other[0]), min(run[1], other[1])
                if shared[0] < shared[1]:
                    first, end = found.rows(shared, samples)
                    raise DataError(
                        f"rows {first:,} to {end - 1:,} are in {earlier} and in {name}, and would be counted twice; leave one of these "
                        "files out"
                    )
            taken.append((run, name))


def _require_all(files: Sequence[tuple[str, PassFound]], samples: int, shards: Sequence[tuple[int, int]]) -> None:
    (_, found), *_ = files
    there: Parts[Any] = Parts({first: (end, None) for _, each in files for first, end in each.runs})
    gap = there.gap(found.count)
    if gap is None:
        return
    behind = min((first for first in there.known if first > gap), default=found.count)
    first, end = found.rows((gap, behind), samples)
    parts = {of for _, of in shards}
    missing = sorted({*range(1, max(parts) + 1)} - {number for number, _ in shards}) if len(parts) == 1 else []
    hint = ", ".join(f"{number}/{max(parts)}" for number in missing[:9])
    raise DataError(
        f"rows {first:,} to {end - 1:,} of {samples:,} are in none of these files"
        + (f"; gather the missing shards too ({hint}), and merge all" if hint else "; merge all parts")
    )
