"""How data was opened from files, so that another process, on this machine or on one that sees the same files, opens the same."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.data.inputs import Schema
from onnxprune.data.readers import ReadOptions
from onnxprune.errors import DataError

BLOCK = 1 << 20
WHOLE = 64 << 20
PIECES, PIECE = 64, 1 << 16


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
        """SHA-256 of the names, sizes and contents of all files; raises DataError where one cannot be read.

        Of more than WHOLE bytes PIECES pieces are read: every worker does so, and a cluster should not read all data once per worker.
        """
        files = [(name, file) for place in self.paths for name, file in _files(place)]
        digest = hashlib.sha256()
        try:
            sizes = [file.stat().st_size for _, file in files]
            for (name, _), size in zip(files, sizes, strict=True):
                digest.update(f"{name}\0{size}\0".encode())
            for (_, file), size, wanted in zip(files, sizes, _pieces(sizes), strict=True):
                for block in _read(file, wanted if wanted is not None else [(0, size)]):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
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


def _pieces(sizes: Sequence[int]) -> list[list[tuple[int, int]] | None]:
    """Return per file (place, bytes) of what is read of it: of all files together pieces at equal distances, both ends among them.

    None: all of it.
    """
    total = sum(sizes)
    if total <= WHOLE:
        return [None] * len(sizes)
    starts = np.cumsum([0, *sizes])
    places = np.linspace(0, total - 1, PIECES).astype(np.int64)
    return [
        [(max(int(place - start) - PIECE + 1, 0), PIECE) for place in places[(places >= start) & (places < end)]]
        for start, end in pairwise(starts)
    ]


def _read(file: Path, wanted: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    if wanted:
        with file.open("rb") as stream:
            for place, size in wanted:
                stream.seek(place)
                while size > 0 and (block := stream.read(min(size, BLOCK))):
                    size -= len(block)
                    yield block
