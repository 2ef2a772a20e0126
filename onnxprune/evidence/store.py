"""The evidence gathered for a model: statistics by need, saved without pickle, merged, cached by digest."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evidence.needs import Need
from onnxprune.evidence.stats import STATISTICS, Statistic
from onnxprune.model.files import atomic_file, clear_leftovers
from onnxprune.model.model import Identity
from onnxprune.model.scratch import kept

FORMAT = 2
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)

logger = logging.getLogger(__name__)


@dataclass
class Evidence:
    """Statistics by need. ``model``: identity of the model that was run; ``samples``: rows seen; ``synthetic``: the data was random.

    ``warnings``: what the user should know before trusting it.
    """

    model: Identity
    samples: int = 0
    synthetic: bool = False
    statistics: dict[Need, Statistic] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __getitem__(self, need: Need) -> Any:
        """Return the statistic; raise DataError where it was not gathered."""
        if need not in self.statistics:
            raise DataError(f"no {need.kind} of {need.value!r} axis {need.axis} was gathered; stream the data again")
        return self.statistics[need]

    def __contains__(self, need: Need) -> bool:
        return need in self.statistics

    def fresh(self) -> Evidence:
        """Return the same without anything seen."""
        statistics = {need: type(found)() for need, found in self.statistics.items()}
        return Evidence(self.model, 0, self.synthetic, statistics, self.warnings)

    def merge(self, other: Evidence) -> None:
        """Add what later samples of the data showed; raise DataError where the two do not belong together."""
        if self.model != other.model:
            raise DataError("the two shards were gathered with different models")
        if self.statistics.keys() != other.statistics.keys():
            raise DataError("the two shards hold different statistics; gather both with the same settings")
        for need, statistic in other.statistics.items():
            self.statistics[need].merge(statistic)
        self.samples += other.samples
        self.synthetic |= other.synthetic
        self.warnings = tuple(dict.fromkeys((*self.warnings, *other.warnings)))

    def save(self, path: Path) -> None:
        """Write everything to one npz file; raises OutputError."""
        needs = list(self.statistics)
        header = {
            "model": self.model,
            "samples": self.samples,
            "synthetic": self.synthetic,
            "warnings": list(self.warnings),
            "needs": [need.to_json() for need in needs],
        }
        arrays = {f"{i}.{k}": a for i, n in enumerate(needs) for k, a in self.statistics[n].arrays().items()}
        write_arrays(path, header, arrays)

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Read what ``save`` wrote; raise DataError for anything else."""
        try:
            header, arrays = read_arrays(path)
            needs = [Need.from_json(entry) for entry in header["needs"]]
            parts: list[dict[str, np.ndarray]] = [{} for _ in needs]
            for name, array in arrays.items():
                number, _, key = name.partition(".")
                parts[int(number)][key] = array
            found = {n: STATISTICS[n.kind].of(part) for n, part in zip(needs, parts, strict=True)}
            state = {"model": Identity(header["model"]), **{key: header[key] for key in ("samples", "synthetic")}}
            return cls(**state, statistics=found, warnings=tuple(header["warnings"]))
        except (*UNREADABLE, IndexError) as error:
            raise DataError(f"{path} does not hold statistics of this version ({type(error).__name__})") from error


def write_arrays(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and a header of JSON to one npz file; raises OutputError."""
    text = np.frombuffer(json.dumps({"format": FORMAT, **header}, sort_keys=True).encode(), np.uint8)
    with atomic_file(path, swept=True) as stream:
        np.savez(stream, header=text, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays that ``write_arrays`` wrote; raises DataError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: kept(archive[name]) for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}")
        return header, arrays
    except UNREADABLE as error:
        raise DataError(f"{path} does not hold what this version writes ({type(error).__name__})") from error


@dataclass(frozen=True)
class Cache:
    """A folder with one file per statistic, named by the digest of everything that decides its content."""

    folder: Path

    def path(self, origin: Mapping[str, Any], need: Need) -> Path:
        text = json.dumps({**origin, "format": FORMAT, "need": need.to_json()}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"

    def find(self, origin: Mapping[str, Any], needs: Iterable[Need]) -> dict[Need, Evidence]:
        """Return what is there; a file that cannot be read counts as missing."""
        found = {}
        for need in needs:
            path = self.path(origin, need)
            if not path.is_file():
                continue
            try:
                evidence = Evidence.load(path)
            except DataError as error:
                logger.warning("%s; gathered anew", error)
                continue
            if need in evidence:
                found[need] = evidence
        return found

    def keep(self, origin: Mapping[str, Any], evidence: Evidence) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        for need, statistic in evidence.statistics.items():
            one = Evidence(evidence.model, evidence.samples, evidence.synthetic, {need: statistic}, evidence.warnings)
            one.save(self.path(origin, need))
