"""One array of a data file, read front to back: npy memory-mapped, npz members row by row, ONNX tensors."""

from __future__ import annotations

import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.lib import format as npy

from onnxprune.errors import DataError
from onnxprune.model.files import require_regular

Index = np.ndarray
"""int64[rows], ascending: which rows to read."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a data file is read into a DataError that names the file; only regular files are read."""
    require_regular(path, DataError)
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, DecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read: {reason}") from error


class Column(ABC):
    """One array on disk or in memory; the first axis counts rows."""

    shape: tuple[int, ...]

    @abstractmethod
    def load(self) -> np.ndarray:
        """Return the array, memory-mapped where possible."""

    def blocks(self, keep: Index, size: int) -> Iterator[np.ndarray]:
        """Yield the kept rows, ``size`` at a time."""
        array = self.load()
        for start in range(0, len(keep), size):
            yield np.asarray(array[keep[start : start + size]])


@dataclass
class ArrayColumn(Column):
    """An array in memory."""

    array: np.ndarray

    def __post_init__(self) -> None:
        self.shape = self.array.shape

    def load(self) -> np.ndarray:
        return self.array


@dataclass
class SingleRow(Column):
    """A column of one row, made from an array without a row axis."""

    inner: Column

    def __post_init__(self) -> None:
        self.shape = (1, *self.inner.shape)

    def load(self) -> np.ndarray:
        return self.inner.load()[None]


@dataclass
class NpyColumn(Column):
    """A .npy file, memory-mapped while it is read."""

    path: Path

    def __post_init__(self) -> None:
        with reading(self.path), self.path.open("rb") as stream:
            self.shape, _, self._dtype = npy_header(stream)

    def load(self) -> np.ndarray:
        if 0 in self.shape:
            return np.empty(self.shape, self._dtype)
        with reading(self.path):
            return npy.open_memmap(self.path, mode="r")


@dataclass
class NpzColumn(Column):
    """One member of a .npz file, decompressed row by row."""

    path: Path
    key: str

    def __post_init__(self) -> None:
        with self._open() as stream:
            self.shape, self._fortran, self._dtype = npy_header(stream)

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with reading(self.path), zipfile.ZipFile(self.path) as archive, archive.open(f"{self.key}.npy") as stream:
            yield stream

    def load(self) -> np.ndarray:
        with self._open() as stream:
            return npy.read_array(stream, allow_pickle=False)

    def blocks(self, keep: Index, size: int) -> Iterator[np.ndarray]:
        if self._fortran:
            yield from super().blocks(keep, size)
            return
        row_bytes = math.prod(self.shape[1:]) * self._dtype.itemsize
        with self._open() as stream:
            npy_header(stream)
            start = stream.tell()
            for first in range(0, len(keep), size):
                part = keep[first : first + size]
                content = b"".join(_read_at(stream, start + int(row) * row_bytes, row_bytes) for row in part)
                yield np.frombuffer(content, self._dtype).reshape(len(part), *self.shape[1:])


def _read_at(stream: IO[bytes], offset: int, length: int) -> bytes:
    """Read forward to an offset and then exactly ``length`` bytes; raise EOFError when the file is shorter."""
    stream.seek(offset)
    content = stream.read(length)
    if len(content) != length:
        raise EOFError("the array is shorter than its header says")
    return content


@dataclass
class TensorColumn(Column):
    """A serialised ONNX TensorProto (``input_0.pb``)."""

    path: Path

    def __post_init__(self) -> None:
        tensor = self._tensor()
        self.shape, self.name = tuple(tensor.dims), tensor.name

    def _tensor(self) -> onnx.TensorProto:
        with reading(self.path):
            tensor = onnx.TensorProto.FromString(self.path.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise DataError(f"{self.path} keeps its data in another file, which is not followed; save it inside")
        return tensor

    def load(self) -> np.ndarray:
        with reading(self.path):
            return onnx.numpy_helper.to_array(self._tensor())


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, fortran order, dtype) of an array in npy format; raise DataError for pickled content."""
    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    version = npy.read_magic(stream)
    if version not in readers:
        raise ValueError(f"npy format version {version[0]}.{version[1]} is for named fields, not for plain arrays")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded; save plain numeric arrays")
    if any(dim < 0 for dim in shape):
        raise ValueError(f"it claims the shape {list(shape)}")
    return shape, fortran, dtype
