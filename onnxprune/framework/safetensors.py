"""Files of named tensors as training frameworks write them: eight bytes, a JSON header, and the bytes of all tensors behind it.

The format is that of the safetensors project (its README, "Format"): nothing in such a file is ever run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from onnx import TensorProto, helper

from onnxprune.errors import DataError, UsageError
from onnxprune.model.files import atomic_file, require_regular, require_space, shown

DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(helper.tensor_dtype_to_np_dtype(kind)).newbyteorder("<")
    for name, kind in (
        ("BOOL", TensorProto.BOOL), ("U8", TensorProto.UINT8), ("I8", TensorProto.INT8), ("U16", TensorProto.UINT16),
        ("I16", TensorProto.INT16), ("U32", TensorProto.UINT32), ("I32", TensorProto.INT32), ("U64", TensorProto.UINT64),
        ("I64", TensorProto.INT64), ("F8_E4M3", TensorProto.FLOAT8E4M3FN), ("F8_E5M2", TensorProto.FLOAT8E5M2),
        ("F16", TensorProto.FLOAT16), ("BF16", TensorProto.BFLOAT16), ("F32", TensorProto.FLOAT), ("F64", TensorProto.DOUBLE),
    )
}  # fmt: skip
"""Element type as the header calls it -> as numpy does."""
ABOUT_FILE = "__metadata__"
SUFFIX = ".safetensors"
LONGEST_HEADER = 100_000_000  # bytes, as the format has it
WORD = 8  # bytes of the header's length, and what the header's end is a multiple of
ELEMENTS_AT_ONCE = 1 << 22


class TensorPlace(NamedTuple):
    """Where a tensor lies: ``start`` in bytes from the file's beginning."""

    kind: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.kind].itemsize


@dataclass(frozen=True)
class SafeTensors(Mapping[str, np.ndarray]):
    """The tensors of a file, mapped when they are asked for; ``about``: texts that it holds beside them."""

    path: Path
    places: Mapping[str, TensorPlace]
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SafeTensors:
        """Read the header of a file; raises DataError that says what is wrong with it."""
        place = Path(path)
        size = require_regular(place, DataError, "a checkpoint").st_size
        with place.open("rb") as stream:
            head = stream.read(WORD)
            length = int.from_bytes(head, "little")
            if len(head) < WORD or not 2 <= length <= min(LONGEST_HEADER, size - WORD):
                raise DataError(f"{shown(place)}: {_what_else(head)}")
            text = stream.read(length)
        try:
            found = json.loads(text.decode(), object_pairs_hook=_unlike)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{shown(place)}: no safetensors file: its header is no JSON object ({error})") from None
        if not isinstance(found, dict):
            _refuse(place, "its header is no JSON object")
        about = found.pop(ABOUT_FILE, {})
        if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
            _refuse(place, f"{ABOUT_FILE} holds something else than texts")
        places = {name: _place(place, name, entry, WORD + length) for name, entry in found.items()}
        _check_order(place, places, WORD + length, size)
        return cls(place, places, about)

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, start = self.places[name]
        if not math.prod(shape):
            return np.empty(shape, DTYPES[kind])
        return np.memmap(self.path, DTYPES[kind], "r", start, shape) if shape else self._scalar(kind, start)

    def _scalar(self, kind: str, start: int) -> np.ndarray:
        return np.memmap(self.path, DTYPES[kind], "r", start, (1,)).reshape(())

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refuse(path: Path, why: str) -> NoReturn:
    raise DataError(f"{shown(path)}: no safetensors file: {why}")


def _what_else(head: bytes) -> str:
    """Say what a file is that begins like this."""
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        return (
            "a pickle, as torch.save writes it, which can run anything and is never opened; save the checkpoint with "
            "safetensors.torch.save_file(model.state_dict(), ...)"
        )
    return "no safetensors file: it does not begin with the length of a header"


def _place(path: Path, name: str, entry: Any, begin: int) -> TensorPlace:
    """Read an entry of the header; offsets in it count from ``begin``."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        _refuse(path, f"tensor {name!r} has no dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in DTYPES:
        raise DataError(f"{shown(path)}: tensor {name!r} is of type {kind!r}, which is not known")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        _refuse(path, f"tensor {name!r} has the shape {shape} and the offsets {offsets}")
    found = TensorPlace(kind, tuple(shape), begin + offsets[0])
    if found.nbytes != offsets[1] - offsets[0]:
        _refuse(path, f"tensor {name!r} has {offsets[1] - offsets[0]} bytes, not {list(shape)} of {kind}")
    return found


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and all(type(size) is int and size >= 0 for size in found)


def _check_order(path: Path, places: Mapping[str, TensorPlace], begin: int, size: int) -> None:
    """Refuse tensors that overlap, leave holes, or do not end where the file does."""
    at = begin
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if place.start != at:
            _refuse(path, f"tensor {name!r} does not begin where the one before it ends")
        at += place.nbytes
    if at != size:
        _refuse(path, f"its tensors end at byte {at:,}, the file at {size:,}")


# --- writing --------------------------------------------------------------------------------------------------------


class Remainder(NamedTuple):
    """A tensor of a file of which along some axes only these positions stay, in this order; zero where ``mask`` (of its new shape) is False."""

    positions: Mapping[int, np.ndarray]
    mask: np.ndarray | None = None


def taken_shape(shape: tuple[int, ...], positions: Mapping[int, np.ndarray]) -> tuple[int, ...]:
    """Return the shape of what stays of a tensor."""
    return tuple(len(positions[axis]) if axis in positions else size for axis, size in enumerate(shape))


def write_taken(source: SafeTensors, chosen: Mapping[str, Remainder], about: Mapping[str, str], path: Path) -> None:
    """Write what stays of the chosen tensors, in the order they have in the file, some rows at a time; raises OutputError."""
    names = sorted(chosen, key=lambda name: (source.places[name].start, name))
    header: dict[str, Any] = {ABOUT_FILE: dict(about)} if about else {}
    at = 0
    for name in names:
        kind, shape, _ = source.places[name]
        smaller = taken_shape(shape, chosen[name].positions)
        end = at + math.prod(smaller) * DTYPES[kind].itemsize
        header[name] = {"dtype": kind, "shape": list(smaller), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % WORD)
    require_space(path, WORD + len(text) + at)
    with atomic_file(path) as stream:
        stream.write(len(text).to_bytes(WORD, "little") + text)
        for name in names:
            for block in taken_blocks(source[name], chosen[name]):
                stream.write(block.tobytes())


def taken_blocks(array: np.ndarray, left: Remainder) -> Iterator[np.ndarray]:
    """Yield what stays of an array, some of its first axis at a time."""
    if not array.ndim:
        yield array if left.mask is None else np.where(left.mask, array, np.zeros((), array.dtype))
        return
    rows = left.positions.get(0, np.arange(array.shape[0]))
    step = max(ELEMENTS_AT_ONCE // max(math.prod(array.shape[1:]), 1), 1)
    for first in range(0, len(rows), step):
        block = array[rows[first : first + step]]
        for axis, places in left.positions.items():
            block = np.take(block, places, axis) if axis else block
        if left.mask is not None:
            block = np.where(left.mask[first : first + step], block, np.zeros((), array.dtype))
        yield block


def refuse_other_files(path: Path) -> None:
    """Raise UsageError where something is that is no file of tensors."""
    if path.exists() and path.stat().st_size:
        try:
            SafeTensors.open(path)
        except DataError:
            raise UsageError(
                f"output {shown(path)} exists and is no safetensors file; delete it or choose another name"
            ) from None
