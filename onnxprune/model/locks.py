"""Locks on files that end with the process: who writes or needs a file, and who may remove it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed, which says as much as a lock
    fcntl = None  # type: ignore[assignment]

REMOVES_OPEN = fcntl is not None
"""Whether the system removes and replaces files that are open."""


def lock(handle: int) -> bool:
    """Take a lock that ends with the process; False where another process has it. No locks: nobody has them."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Keep every process from removing a file; whether it is there. Waits for one that is just writing or removing it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_SH)
        yield _stands(handle, path)
    finally:
        os.close(handle)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Keep every process from beginning to use a file that is to be removed; False where one does, or that cannot be told."""
    if fcntl is None:
        yield True  # the system refuses to remove what is open
        return
    handle = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = _stands(handle, path)
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def _stands(handle: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
