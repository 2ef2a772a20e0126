"""Values of a model on all batches of some data: in memory up to a limit, in files without a name beyond it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np


def owned(value: Any) -> Any:
    """Return a copy of an array that a session gave: the array itself keeps all memory of the session's runs alive."""
    return np.array(value) if isinstance(value, np.ndarray) else value


class BatchedValues:
    """Values by name; up to ``limit`` bytes of them are held in memory."""

    def __init__(self, limit: int):
        self._limit, self._used = limit, 0
        self._values: dict[str, BatchedValue] = {}

    def add(self, name: str, array: Any) -> None:
        """Keep a value on the next batch; what was known of it by another run is to be dropped before."""
        self._used += self._values.setdefault(name, BatchedValue()).append(array, self._limit - self._used)

    def drop(self, names: Collection[str]) -> None:
        for name in names:
            self._used -= self._values.pop(name).nbytes

    def __getitem__(self, name: str) -> BatchedValue:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class BatchedValue:
    """A value on all batches: arrays in memory, or in a temporary file, read anew each time.

    Sequences and strings stay in memory. ``nbytes``: of what is in memory.
    """

    def __init__(self) -> None:
        self._arrays: list[Any] = []
        self._file: BinaryIO | None = None
        self.nbytes = 0

    def append(self, array: Any, room: int) -> int:
        """Add a batch, in memory where there is ``room`` for it, and return how many bytes of that it takes."""
        storable = isinstance(array, np.ndarray) and not array.dtype.hasobject and array.size > 0
        size = array.nbytes if storable else 0
        if size <= room or not storable:
            self._arrays.append(owned(array))
            self.nbytes += size
            return size
        file = self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as its values
        offset = file.seek(0, 2)
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._arrays.append(FiledArray(file, offset, array.dtype, array.shape))
        return 0

    @property
    def described(self) -> list[Any]:
        """What has the types and shapes of all batches, without their content where it is in a file."""
        return self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> Any:
        kept = self._arrays[index]
        return kept.read() if isinstance(kept, FiledArray) else kept

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))


class FiledArray(NamedTuple):
    """An array in a file; a mapping of it would count as memory of the process."""

    file: BinaryIO
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        self.file.seek(self.offset)
        array = np.empty(self.shape, self.dtype)
        self.file.readinto(array.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
        return array
