"""Files appear whole or not at all, leave nothing behind, and are read only where they are regular files.

A new file has no name while it is written (Linux: O_TMPFILE) or, where that cannot be, a temporary one beside its own; whoever
writes holds a lock on it, so that the next to write there can tell what a dead process left from what a living one needs.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import IO

from onnxprune.errors import OnnxPruneError, OutputError
from onnxprune.model.locks import REMOVES_OPEN, alone, lock

NAME_LIMIT = 255  # bytes of a file name
TEMPORARY = ".partial"
LARGE = 1 << 20  # bytes from which a file is not begun unless the disk has room for it
PATIENCE = 5.0  # seconds to wait for somebody to read a FIFO that is written to
KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a block device"),
)
"""What a path may lead to instead of a regular file."""


def status(path: Path, error: type[OnnxPruneError]) -> os.stat_result | None:
    """Return what the system says about a path, None where nothing is there; raises ``error`` for an impossible path."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{shown(path)} cannot be used as a path: {reason}") from problem


def shown(path: Path) -> str:
    """Return a path as messages show it: an overlong name is shortened in its middle."""
    text = str(path).replace("\0", "\\0")
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def kind_of(found: os.stat_result) -> str:
    """Return what a path leads to, in words; "" for a regular file."""
    return next((name for test, name in KINDS if test(found.st_mode)), "")


def require_regular(path: Path, error: type[OnnxPruneError], what: str = "") -> os.stat_result:
    """Return the status of a file that is to be read; raises ``error`` unless it is a regular file, so that reading ends.

    ``what``: it is to be, so that a folder is told to be none.
    """
    found = status(path, error)
    if found is None:
        raise error(f"{path}: no such file")
    if kind := kind_of(found):
        wanted = f"{what}; give the file inside it" if what and stat.S_ISDIR(found.st_mode) else "a regular file"
        raise error(f"{path}: {kind}, not {wanted}")
    return found


# --- writing --------------------------------------------------------------------------------------------------------


class Pending:
    """A file that is being written beside ``path`` and seen by nobody until ``publish``; a context that leaves nothing.

    Raises OSError where the folder cannot be written.
    """

    def __init__(self, path: Path):
        self._beside = path
        self._temporary: Path | None = None
        handle = _unnamed(path.parent)
        self._unnamed = handle is not None
        if handle is None:
            handle, self._temporary = _named(path)
        else:
            lock(handle)
        self._status = os.fstat(handle)
        self.stream: BufferedRandom = os.fdopen(handle, "w+b")
        self._disk: ThreadPoolExecutor | None = None
        self._coming: Future[None] | None = None

    def __enter__(self) -> Pending:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        try:
            if self._disk is not None:
                self._disk.shutdown()
            self.stream.close()
        except OSError:
            if kind is None:
                raise
        finally:
            if self._temporary is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._temporary)

    def sync(self) -> None:
        """Bring what was written to the disk."""
        self.stream.flush()
        if self._coming is not None:
            self._coming.result()  # the system tells a failure once
        os.fsync(self.stream.fileno())

    def begin_sync(self) -> None:
        """Begin to bring to the disk what was written so far, beside other work, unless that is going on; raises what went wrong before."""
        if self._coming is not None:
            if not self._coming.done():
                return
            self._coming.result()
        self.stream.flush()
        self._disk = self._disk or ThreadPoolExecutor(1)
        self._coming = self._disk.submit(os.fsync, self.stream.fileno())

    def publish(self, path: Path | None = None) -> None:
        """Give the file its name at once, in place of what has it; whoever looks sees the old file or the new one."""
        path = path or self._beside
        self.sync()
        if self._unnamed and self._linked(path):
            return
        if not REMOVES_OPEN:
            self.stream.close()
        assert self._temporary is not None
        os.replace(self._temporary, path)
        self._temporary = None

    def stands_at(self, path: Path) -> bool:
        """Whether ``path`` leads to this file."""
        try:
            return os.path.samestat(os.stat(path), self._status)
        except OSError:
            return False

    def _linked(self, path: Path) -> bool:
        """Link an unnamed file to its name where that is free, else to a temporary one for the moment before the swap."""
        handle = self.stream.fileno()
        try:
            _link(handle, path)
            return True
        except FileExistsError:
            self._temporary = _temporary(self._beside)
            try:
                _link(handle, self._temporary)
            except OSError as error:
                self._copied(error)
        except OSError as error:
            self._copied(error)
        return False

    def _copied(self, error: OSError) -> None:
        """Go on with a copy of a temporary name, where the system gives none to a file without; raises what else is wrong."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENAMETOOLONG):
            raise error
        handle, self._temporary = _named(self._beside)
        copy = os.fdopen(handle, "w+b")
        self.stream.seek(0)
        shutil.copyfileobj(self.stream, copy)
        self.stream.close()
        self.stream, self._status = copy, os.fstat(handle)
        self.sync()


def _unnamed(folder: Path) -> int | None:
    """Return a new file without a name; None where the system or the file system knows no such thing."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    with suppress(OSError):  # not on this file system; what else is wrong shows when a named one is made
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    return None


def _link(handle: int, path: Path) -> None:
    """Name a file that has none (linkat with AT_SYMLINK_FOLLOW, which Python calls only with a folder's handle)."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _named(path: Path) -> tuple[int, Path]:
    """Return a new file with a temporary name; locked, so that a sweep between its two steps takes none away."""
    while True:
        temporary = _temporary(path)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
        if lock(handle) and os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}{TEMPORARY}")


def _prefix(path: Path) -> str:
    return f".{shortened_name(path.name, len(TEMPORARY) + 10)}."


def shortened_name(name: str, more: int) -> str:
    """Return a file name cut so that ``more`` bytes can be added to it."""
    return os.fsencode(name)[: NAME_LIMIT - more].decode(errors="ignore")


def clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` (a folder: anything in it) have left."""
    folder, prefix = (path, "\\..*\\.") if path.is_dir() else (path.parent, re.escape(_prefix(path)))
    pattern = re.compile(prefix + "[0-9a-f]{8}" + re.escape(TEMPORARY))
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError), alone(Path(entry.path)) as free:
                    if free:
                        os.unlink(entry.path)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_space(path: Path, size: int) -> None:
    """Raise OutputError where the disk has no room for ``size`` bytes at ``path``."""
    if size < LARGE:
        return
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OutputError(
            f"{path} cannot be written: No space left on device ({size:,} bytes are needed, {free:,} are free); "
            "nothing was left behind"
        )


@contextmanager
def atomic_file(path: Path, *, swept: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for binary writing that appears whole at the end; on failure the old one stays and nothing is left.

    What is no regular file is written into instead. ``swept``: its folder has been already. Raises OutputError.
    """
    try:
        if is_stream(path):
            with _opened_stream(path) as stream:
                yield stream
            return
        if not swept:
            clear_leftovers(path)
        with Pending(path) as pending:
            yield pending.stream
            pending.publish()
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{shown(path)} cannot be written: {error.strerror or error}; nothing was left behind")


# --- devices, FIFOs -------------------------------------------------------------------------------------------------


def is_stream(path: Path) -> bool:
    """Whether a path leads to something to be written into: a device, a FIFO, or an open file of a process (/dev/stdout)."""
    found = status(path, OutputError)
    return found is not None and (bool(kind_of(found)) or _of_process(path))


def of_devices(folder: Path) -> bool:
    """Whether a folder is one of those in which the system keeps devices and processes, where no file is made."""
    place = Path(os.path.realpath(folder))
    return (place.is_relative_to("/dev") and not place.is_relative_to("/dev/shm")) or place.is_relative_to("/proc")


def _of_process(path: Path) -> bool:
    """Whether a path, or a link on its way, lies among devices: renaming a file onto it would replace what stands for an open file."""
    for _ in range(40):
        folder = Path(os.path.realpath(path.parent))
        if of_devices(folder):
            return True
        place = folder / path.name
        if not place.is_symlink():
            return False
        path = folder / os.readlink(place)
    return False


@contextmanager
def _opened_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a device or FIFO as it is; raises OSError, for a FIFO that nobody reads after a while."""
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            handle = os.open(path, flags)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                raise
            if time.monotonic() > end:
                raise OSError(errno.ENXIO, "nobody reads from this FIFO") from error
            time.sleep(0.05)
    if hasattr(os, "set_blocking"):
        os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as stream:
        yield stream
