"""What long work has found, part by part in files, so that a run that was killed goes on behind the last of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evidence.store import read_arrays, write_arrays
from onnxprune.model.files import clear_leftovers

logger = logging.getLogger(__name__)
T = TypeVar("T")
Header = Mapping[str, Any]


@dataclass(frozen=True)
class Journal:
    """A folder with a file for each part of one piece of work, named by the ``digest`` of all that decides what is found there."""

    folder: Path
    digest: str

    @classmethod
    def of(cls, folder: Path, decides: Iterable[Any]) -> Journal:
        """Return the journal of a piece of work; ``decides``: arrays, and what has a text that says all, in a fixed order."""
        digest = hashlib.sha256()
        for one in decides:
            plain = isinstance(one, np.ndarray)
            head = f"{one.dtype} {one.shape}" if plain else repr(one)
            digest.update(f"{len(head)} {head}".encode())
            if plain:
                digest.update(np.ascontiguousarray(one).data)
        return cls(folder, digest.hexdigest())

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.digest}.{number}.npz"

    def find(self, number: int, read: Callable[[Header, Mapping[str, np.ndarray]], T]) -> T | None:
        """Return what ``read`` makes of the header and the arrays of part ``number``; None where these are not there, or damaged."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            return read(*read_arrays(path))
        except DataError as error:
            logger.warning("%s; found anew", error)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("%s does not hold what is looked for (%s); found anew", path, type(error).__name__)
        return None

    def keep(self, number: int, header: Header, arrays: Mapping[str, np.ndarray]) -> None:
        """Write what was found of part ``number``; raises OutputError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        write_arrays(self._path(number), header, arrays)
