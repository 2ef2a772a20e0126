"""The SHA-256 by which a plan knows its model: of a file and its data, read when somebody asks, beside other work if it is long."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock, Thread
from typing import NewType

from onnxprune.errors import ModelError
from onnxprune.model.tensors import CHUNK

SourceDigest = NewType("SourceDigest", str)
"""SHA-256 of the file that a model came from, data files included, whatever has become of the model since."""

LARGE = 1 << 28  # bytes of data that are only read for a digest when it is asked for


class FileDigest:
    """SHA-256 of the bytes of a model file followed by its data files in the order of their names.

    ``head``: the model file, or nothing where it is itself to be read: ``model``.
    """

    def __init__(self, head: bytes, files: Iterable[Path] = (), model: Path | None = None):
        self._digest = hashlib.sha256(head)
        self._files = {file: _state(file) for file in (*([model] if model else []), *sorted(files))}
        self._lock, self._known = Lock(), ""
        self.large = sum(state[0] for state in self._files.values()) > LARGE
        if not self.large:
            self._read()

    @classmethod
    def known(cls, value: str) -> FileDigest:
        """Return a digest that was read before."""
        found = cls(b"")
        found._known = value
        return found

    def __reduce__(self) -> tuple[Callable[[str], FileDigest], tuple[str]]:
        return FileDigest.known, (self.value,)

    @property
    def value(self) -> SourceDigest:
        """The digest in hex; raises ModelError where a file is another by now than when the model was read."""
        with self._lock:
            return SourceDigest(self._known or self._read())

    def begin(self) -> None:
        """Begin to read beside other work what has not been read yet; errors are raised by ``value``."""
        if not self._known:
            Thread(target=self._read_quietly, daemon=True).start()

    def _read_quietly(self) -> None:
        try:
            _ = self.value
        except (ModelError, OSError):
            return  # whoever asks is told

    def _read(self) -> str:
        digest = self._digest.copy()
        for file, state in self._files.items():
            with file.open("rb") as stream:
                while block := stream.read(CHUNK):
                    digest.update(block)
            if _state(file) != state:
                raise ModelError(f"{file} has changed since the model was read; start again")
        self._known = digest.hexdigest()
        return self._known


def _state(file: Path) -> tuple[int, int, int]:
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns, found.st_ino
