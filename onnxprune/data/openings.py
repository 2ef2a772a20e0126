"""How data was opened from files, so that another process, on this machine or on one that sees the same files, opens the same."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxprune.data.inputs import Schema
from onnxprune.data.readers import ReadOptions
from onnxprune.errors import DataError

BLOCK = 1 << 20

_KNOWN: dict[tuple[str, int, int], str] = {}
"""(path, bytes, time of change) -> SHA-256 of files that were read before."""


@dataclass(frozen=True)
class Opening:
    """What ``open_dataset`` was given, paths made absolute; ``data`` is one."""

    data: str
    schema: Schema
    labels: Any
    samples: int | None
    how: ReadOptions

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was found of the files here: another process looks at its own."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def of(cls, data: Any, schema: Schema, labels: Any, samples: int | None, how: ReadOptions) -> Opening | None:
        """Return None for data that is no path."""
        if not isinstance(data, str | os.PathLike):
            return None
        if isinstance(labels, str | os.PathLike):
            labels = Path(os.path.abspath(labels))
        text = how.get("text")
        if text is not None:
            how = {**how, "text": replace(text, tokenizer=os.path.abspath(text.tokenizer))}
        return cls(os.path.abspath(data), schema, labels, samples, how)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files and folders that the rows come from."""
        text = self.how.get("text")
        labels = (self.labels,) if isinstance(self.labels, Path) else ()
        return (Path(self.data), *labels, *(() if text is None else (Path(text.tokenizer),)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the names and contents of all files; raises DataError where one cannot be read."""
        digest = hashlib.sha256()
        for place in self.paths:
            for name, file in _files(place):
                digest.update(f"{name}\0{_digest(file)}\0".encode())
        return digest.hexdigest()

    def require(self, fingerprint: str) -> None:
        """Raise DataError where the files are not those that they were where the run began."""
        missing = [str(path) for path in self.paths if not path.exists()]
        if missing:
            raise DataError(
                f"{missing[0]} does not exist on {socket.gethostname()}, which works on a part of the run: every worker has to "
                "see the data by the same path (a shared file system, or a copy)"
            )
        if self.fingerprint != fingerprint:
            raise DataError(
                f"{self.data} holds other data on {socket.gethostname()} than where the run began: copy the same files there, or "
                "use a shared file system"
            )


def _files(place: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name within it, file) of a file or of all files of a folder, by name."""
    if not place.is_dir():
        yield "", place
        return
    for file in sorted(place.rglob("*")):
        if file.is_file():
            yield file.relative_to(place).as_posix(), file


def _digest(file: Path) -> str:
    try:
        about = file.stat()
        key = (str(file), about.st_size, about.st_mtime_ns)
        if key not in _KNOWN:
            digest = hashlib.sha256()
            with file.open("rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
            _KNOWN[key] = digest.hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    return _KNOWN[key]
