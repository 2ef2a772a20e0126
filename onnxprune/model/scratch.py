"""Large arrays beyond what memory is to hold: they lie in files without a name, which the system keeps in memory as long as there is room.

Numbers are the same wherever an array lies. The files are gone with the arrays, or with the process, however that ends.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
import weakref
from threading import Lock
from typing import Any

import numpy as np

from onnxprune.errors import OutputError
from onnxprune.model.segmented import memory_allowed

SMALLEST = 1 << 20  # bytes of an array that counts
FILE = 1 << 28  # bytes of a file that arrays lie in, more where one is larger; each takes a handle of the process
ALIGNED = 1 << 12  # bytes: where the next array of a file may begin
HELD = 1 << 30  # bytes of such arrays that stay in memory
SHARE = 4  # part of the allowed memory, where that is said

_lock, _held = Lock(), [0]
_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class _Room:
    """A file without a name that is filled with arrays from its beginning, and gone with the last of them."""

    def __init__(self) -> None:
        self._file: weakref.ref[np.memmap] | None = None
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array of zeros in the file, or in a new one where it has no room or none is left of its arrays."""
        size = math.prod(shape) * dtype.itemsize
        file = None if self._file is None else self._file()
        if file is None or self._used + size > len(file):
            file, self._used = _opened(max(size, FILE)), 0
            self._file = weakref.ref(file)
        found = file[self._used : self._used + size].view(dtype).reshape(shape)
        self._used += size + -size % ALIGNED
        return found


_room = _Room()


def _opened(size: int) -> np.memmap:
    try:
        with tempfile.TemporaryFile() as file:
            _reserve(file.fileno(), size)
            found = np.memmap(file, np.uint8, "w+", shape=(size,))
    except OSError as error:
        raise OutputError(
            f"no room for {size / 1e9:.1f} GB of sums in the folder of temporary files "
            f"{tempfile.gettempdir()} ({error.strerror or error}); set TMPDIR to another one"
        ) from error
    _mapped.add(found._mmap)  # type: ignore[attr-defined]
    return found


def _reserve(handle: int, size: int) -> None:
    """Take room on the disk for a file: else a full disk ends the process when a page of it is written. Raises OSError."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # a file system that cannot
            raise


def let_pages_go() -> None:
    """Take what lies in files out of the memory of the process: the system has it still, and brings it back where it is read."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    with _lock:
        for mapped in _mapped:
            mapped.madvise(mmap.MADV_DONTNEED)


def zeros(shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    """Return an array of zeros, in memory or in a file; raises OutputError where there is room in neither."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size < SMALLEST:
        return np.zeros(shape, kind)
    allowed = memory_allowed.get()
    let_pages_go()
    with _lock:
        if _held[0] + size > (HELD if allowed is None else allowed // SHARE):
            return _room.take(shape, kind)
        _held[0] += size
    found = np.zeros(shape, kind)
    weakref.finalize(found, _let_go, size)
    return found


def kept(array: np.ndarray) -> np.ndarray:
    """Return an array with the same content, where there is room for it; small ones as they are."""
    if array.nbytes < SMALLEST:
        return array
    result = zeros(array.shape, array.dtype)
    result[...] = array
    return result


def _let_go(size: int) -> None:
    with _lock:
        _held[0] -= size
