"""Samples in a folder that any number of processes fill at once: of all that are offered, random ones up to a number and a size stay.

A sample's rank is drawn from what it holds and a seed, and those of the lowest ranks stay (bottom-k sampling: Cohen and Kaplan,
Summarizing data using bottom-k sketches, PODC 2007). So every distinct sample has the same chance, early or late, and what stays
depends neither on the order nor on processes and threads; an equal sample is kept once. What is on the disk is complete at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

SUFFIX = ".sample"
LAST = "~"  # after every rank

Sample = Mapping[str, np.ndarray]


class Limits:
    """How many samples and bytes may stay of one model, the seed of the choice, and whether outputs are kept beside inputs."""

    def __init__(self, samples: int, size: int, seed: int = 0, outputs: bool = False):
        self.samples, self.size, self.seed, self.outputs = samples, size, seed, outputs


class Reservoir:
    """The samples of one model in a folder; not for two threads at once.

    ``bar``: samples of this rank and above are not wanted, as far as this process knows.
    """

    def __init__(self, folder: str, limits: Limits):
        self.folder, self.limits, self.bar = folder, limits, LAST
        self._added = self._bytes = 0
        os.makedirs(folder, exist_ok=True)
        self.sweep()

    def rank(self, arrays: Sample) -> str:
        """Return the rank of a sample (name -> array): 32 hexadecimal digits, random but for the seed and the content."""
        found = hashlib.blake2b(digest_size=16, salt=str(self.limits.seed).encode()[:16])
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            found.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
            found.update(array.tobytes() if array.dtype.kind == "U" else array.reshape(-1).view(np.uint8).data)
        return found.hexdigest()

    def add(self, rank: str, inputs: Sample, outputs: Sample) -> None:
        """Write a sample, whole or not at all; raises OSError."""
        path = os.path.join(self.folder, rank + SUFFIX)
        if os.path.exists(path):
            return
        temporary = os.path.join(self.folder, f".{rank}.{secrets.token_hex(4)}")
        try:
            with open(temporary, "wb") as stream:
                write_sample(stream, inputs, outputs)
                self._bytes += stream.tell()
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        self._added += 1
        if self._added > max(16, self.limits.samples // 4) or self._bytes > self.limits.size // 4:
            self.sweep()

    def sweep(self) -> None:
        """Remove what is beyond the limits, whoever wrote it."""
        taken = size = 0
        self._added = self._bytes = 0
        for name, length in self._found():
            taken, size = taken + 1, size + length
            if taken > self.limits.samples or size > self.limits.size:
                self.bar = min(self.bar, name[: -len(SUFFIX)])
                with suppress(FileNotFoundError):  # another process was faster
                    os.unlink(os.path.join(self.folder, name))

    def paths(self) -> list[str]:
        """Return the files of the samples, by rank."""
        return [os.path.join(self.folder, name) for name, _ in self._found()]

    def _found(self) -> list[tuple[str, int]]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        found.append((entry.name, entry.stat().st_size))
        return sorted(found)


# --- the file of a sample: a line of JSON that says what follows, then the arrays' bytes ------------------------------


def write_sample(stream: BinaryIO, inputs: Sample, outputs: Sample) -> None:
    """Write two tables of arrays, name -> array, whose elements are numbers, flags or text of fixed length."""
    parts = {"inputs": inputs, "outputs": outputs}
    head = {
        part: [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
        for part, arrays in parts.items()
    }
    stream.write(json.dumps(head).encode() + b"\n")
    for arrays in parts.values():
        for array in arrays.values():
            stream.write(array.tobytes())


def read_head(stream: BinaryIO) -> dict[str, dict[str, Any]]:
    """Return part -> name -> (element type, shape, offset in the file) of a sample."""
    head = json.loads(stream.readline())
    offset, found = stream.tell(), {part: {} for part in head}  # type: ignore[var-annotated]
    for part, entries in head.items():
        for name, kind, shape in entries:
            dtype = np.dtype(kind)
            found[part][name] = (dtype, tuple(shape), offset)
            offset += dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return found


def read_array(stream: BinaryIO, entry: Any) -> np.ndarray:
    """Return one array of a sample; ``entry``: what ``read_head`` says of it."""
    dtype, shape, offset = entry
    stream.seek(offset)
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(stream.read(size), dtype).reshape(shape)
