"""What a repair has solved, node by node in files, so that a run that was killed goes on behind the last of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evidence.store import read_arrays, write_arrays
from onnxprune.model.files import clear_leftovers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SolvedNode:
    """What became of one node: ``arrays``: stored tensors that changed, ``chosen``: group -> bool[width], see ``Sequential``.

    ``unmatched``: samples that were left out there.
    """

    arrays: Mapping[str, np.ndarray]
    chosen: Mapping[int, np.ndarray]
    unmatched: int = 0


@dataclass(frozen=True)
class Journal:
    """A folder with a file for each node of one repair, named by the ``digest`` of all that decides what is found there."""

    folder: Path
    digest: str

    @classmethod
    def of(cls, folder: Path, parts: Iterable[Any]) -> Journal:
        """Return the journal of a repair; ``parts``: arrays, and what has a text that says all, in a fixed order."""
        digest = hashlib.sha256()
        for part in parts:
            plain = isinstance(part, np.ndarray)
            head = f"{part.dtype} {part.shape}" if plain else repr(part)
            digest.update(f"{len(head)} {head}".encode())
            if plain:
                digest.update(np.ascontiguousarray(part).data)
        return cls(folder, digest.hexdigest())

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.digest}.{number}.npz"

    def find(self, number: int, stored: Mapping[str, np.ndarray]) -> SolvedNode | None:
        """Return what became of node ``number``; None where that is not there. ``stored``: tensors of the types and shapes to come."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            header, arrays = read_arrays(path)
            names, groups = header["names"], header["groups"]
            changed = {
                name: arrays[f"a{place}"].view(stored[name].dtype).reshape(stored[name].shape)
                for place, name in enumerate(names)
            }
            return SolvedNode(
                changed, {int(group): arrays[f"g{group}"].astype(bool) for group in groups}, int(header["unmatched"])
            )
        except DataError as error:
            logger.warning("%s; solved anew", error)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("%s does not hold a solved node (%s); solved anew", path, type(error).__name__)
        return None

    def keep(self, number: int, solved: SolvedNode) -> None:
        """Write what became of a node; raises OutputError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        header = {"names": list(solved.arrays), "groups": list(solved.chosen), "unmatched": solved.unmatched}
        arrays = {f"a{place}": as_bytes(array) for place, array in enumerate(solved.arrays.values())}
        arrays |= {f"g{group}": chosen for group, chosen in solved.chosen.items()}
        write_arrays(self._path(number), header, arrays)


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Return uint8[bytes]: element types that numpy does not have are kept as they are."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
