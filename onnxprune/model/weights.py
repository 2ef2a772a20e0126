"""Tensors beside a structure: type and shape are known, content is read when somebody asks, as a whole or block by block.

A tensor may lie in memory, in a data file, or be a part of another one: a view, for which nothing is read before the view is. Packed
element types (4 bits, and those of 2 and 6) are handed out as arrays of one element each and packed again in blocks.
"""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxprune.errors import ModelError
from onnxprune.model.digests import FileDigest
from onnxprune.model.tensors import BITS, CHUNK, copy_checked, copy_field, packed_size, set_fields, short_reason

ELEMENTS = 1 << 20  # of a block
TOGETHER = 8  # elements of any packed type that end with a byte
KNOWN = tuple(field.name for field in TensorProto.DESCRIPTOR.fields)
ABOUT = tuple(name for name in ("name", "dims", "data_type", "doc_string", "metadata_props") if name in KNOWN)
"""Fields that say what a tensor is, not what it holds; older releases of onnx have fewer."""
REST = tuple(name for name in KNOWN if name not in {*ABOUT, "raw_data"})


class Origin(NamedTuple):
    """A tensor of a model's file, by the file's SHA-256 and the tensor's name."""

    path: str
    digest: FileDigest
    name: str


Masks = Mapping[int, np.ndarray]  # axis -> bool[size]: the positions that stay


class Tensor(ABC):
    """A stored tensor of element type ``dtype``.

    ``external``: it lies in a data file, and goes to one when it is written; ``raw``: its content is bytes, not a list of numbers
    or strings in a message. ``origin``: where another process finds it (None: nowhere).
    """

    external = False
    raw = True
    origin: Origin | None = None

    def __init__(self, dtype: int, shape: tuple[int, ...]):
        self.dtype, self.shape = dtype, shape

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Send what lies in a model's file as its place there."""
        if self.origin is None:
            return super().__reduce_ex__(protocol)
        from onnxprune.model.read import tensor_of_file

        path, digest, name = self.origin
        return tensor_of_file, (path, digest.value, name)

    @property
    def count(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its blocks have together."""
        return packed_size(self.dtype, self.count)

    @abstractmethod
    def read(self) -> np.ndarray:
        """Return the content, read-only, mapped where it lies in a file as numpy has it; raises ModelError."""

    def flat(self, start: int, stop: int) -> np.ndarray:
        """Return elements from ``start`` up to ``stop`` in row-major order."""
        return self.read().reshape(-1)[start:stop]

    def blocks(self) -> Iterator[bytes]:
        """Yield the content as a file has it, no more than a few MiB at a time; raises ModelError."""
        for start in range(0, self.count, ELEMENTS):
            yield encoded(self.flat(start, min(start + ELEMENTS, self.count)))

    @property
    def files(self) -> frozenset[Path]:
        """The data files that it lies in."""
        return frozenset()

    @property
    def region(self) -> tuple[Path, int] | None:
        """The file and the place in it where the tensor lies as it is; None where it lies elsewhere, or has more bytes there."""
        return None

    def fill(self, target: TensorProto) -> None:
        """Put the content into a message that says already what it is."""
        target.raw_data = b"".join(self.blocks())
        self.note(target)

    def note(self, target: TensorProto) -> None:
        """Put in what else the file's message said of it."""
        return

    def sliced(self, masks: Masks) -> Tensor:
        """Return the positions that stay, as a view; the tensor itself where all do."""
        return _Slice(self, masks) if masks else self


class _Bytes(Tensor):
    """In memory, as bytes of a message; ``_rest``: what else the message said, such as that they lie in it."""

    def __init__(self, tensor: TensorProto):
        super().__init__(tensor.data_type, tuple(tensor.dims))
        self._content = tensor.raw_data
        self._rest = list(set_fields(tensor, REST))

    @property
    def nbytes(self) -> int:
        return len(self._content)

    def read(self) -> np.ndarray:
        return decoded(self.dtype, self._content, self.count).reshape(self.shape)

    def blocks(self) -> Iterator[bytes]:
        for start in range(0, len(self._content), CHUNK):
            yield self._content[start : start + CHUNK]

    def note(self, target: TensorProto) -> None:
        for name, value in self._rest:
            copy_field(target, name, value)


class _Array(Tensor):
    """In memory, as an array that nobody changes any more."""

    def __init__(self, array: np.ndarray):
        super().__init__(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        self._array = np.ascontiguousarray(array).reshape(array.shape)  # the former makes a vector of a scalar

    def read(self) -> np.ndarray:
        view = self._array.view()
        view.flags.writeable = False
        return view


class _Fields(Tensor):
    """A message with lists of numbers or strings, which stays one; strings have no blocks."""

    raw = False

    def __init__(self, tensor: TensorProto):
        super().__init__(tensor.data_type, tuple(tensor.dims))
        self._tensor = TensorProto()
        self._tensor.CopyFrom(tensor)

    @property
    def nbytes(self) -> int:
        return 0 if self.dtype == TensorProto.STRING else super().nbytes

    def read(self) -> np.ndarray:
        with _told(self._tensor.name):
            return numpy_helper.to_array(self._tensor)

    def blocks(self) -> Iterator[bytes]:
        return iter(()) if self.dtype == TensorProto.STRING else super().blocks()

    def fill(self, target: TensorProto) -> None:
        for descriptor, value in self._tensor.ListFields():
            if descriptor.name not in ABOUT:
                copy_field(target, descriptor.name, value)


class _Region(Tensor):
    """A stretch of a data file; ``entries``: how the model refers to it."""

    external = True

    def __init__(self, tensor: TensorProto, file: Path, offset: int, length: int):
        super().__init__(tensor.data_type, tuple(tensor.dims))
        self.file, self._offset, self._length = file, offset, length
        self._entries = [(entry.key, entry.value) for entry in tensor.external_data]
        self._name = tensor.name

    @property
    def nbytes(self) -> int:
        return self._length

    @property
    def files(self) -> frozenset[Path]:
        return frozenset([self.file])

    @property
    def region(self) -> tuple[Path, int] | None:
        return (self.file, self._offset) if self._length == packed_size(self.dtype, self.count) else None

    def read(self) -> np.ndarray:
        with _told(self._name):
            if self.dtype in BITS or not self.count:
                return self.flat(0, self.count).reshape(self.shape)
            element = helper.tensor_dtype_to_np_dtype(self.dtype)
            whole = np.memmap(self.file, element, "r", self._offset, (self.count,))
            return whole.reshape(self.shape)

    def flat(self, start: int, stop: int) -> np.ndarray:
        if self.dtype not in BITS:
            return self._plain(start, stop)
        first = start // TOGETHER * TOGETHER
        place, end = packed_size(self.dtype, first), packed_size(self.dtype, stop)
        with _told(self._name):
            content = b"".join(copy_checked(self.file, self._offset + place, end - place))
            return decoded(self.dtype, content, stop - first)[start - first :]

    def _plain(self, start: int, stop: int) -> np.ndarray:
        """Return elements of whole bytes, copied once."""
        element = helper.tensor_dtype_to_np_dtype(self.dtype)
        with _told(self._name):
            found = np.fromfile(self.file, element, stop - start, offset=self._offset + start * element.itemsize)
            if len(found) != stop - start:
                raise OSError(f"{self.file} became shorter while it was read")
            return found

    def blocks(self) -> Iterator[bytes]:
        return copy_checked(self.file, self._offset, self._length)

    def fill(self, target: TensorProto) -> None:
        target.data_location = TensorProto.EXTERNAL
        for key, value in self._entries:
            target.external_data.add(key=key, value=value)


class _Inside(_Region):
    """A stretch of the model's own file: bytes of the message as they are in memory for others."""

    external = False
    fill = Tensor.fill


class _Slice(Tensor):
    """The positions of another tensor that stay along some axes."""

    def __init__(self, source: Tensor, masks: Masks):
        sizes = [int(masks[axis].sum()) if axis in masks else size for axis, size in enumerate(source.shape)]
        super().__init__(source.dtype, tuple(sizes))
        self.source, self.masks = source, masks
        self._read: weakref.ref[np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_read": None}

    @property
    def files(self) -> frozenset[Path]:
        return self.source.files

    def sliced(self, masks: Masks) -> Tensor:
        joined = dict(self.masks)
        for axis, mask in masks.items():
            joined[axis] = np.ones(self.source.shape[axis], bool) if axis not in joined else joined[axis].copy()
            joined[axis][joined[axis]] = mask
        return _Slice(self.source, joined)

    def read(self) -> np.ndarray:
        """Return the content; once for all who hold it at the same time."""
        held = None if self._read is None else self._read()
        if held is None:
            held = np.empty(self.shape, helper.tensor_dtype_to_np_dtype(self.dtype))
            flat, place = held.reshape(-1), 0
            for part in self._parts():
                flat[place : place + part.size] = part
                place += part.size
            held.flags.writeable = False
            self._read = weakref.ref(held)
        return held

    def blocks(self) -> Iterator[bytes]:
        rest = np.empty(0, helper.tensor_dtype_to_np_dtype(self.dtype))
        for part in self._parts():
            part = np.concatenate([rest, part]) if rest.size else part
            whole = part.size if self.dtype not in BITS else part.size // TOGETHER * TOGETHER
            rest = part[whole:]
            if whole:
                yield encoded(part[:whole])
        if rest.size:
            yield encoded(rest)

    def _parts(self) -> Iterator[np.ndarray]:
        """Yield the elements that stay, some rows at a time."""
        lead = next((axis for axis, size in enumerate(self.source.shape) if size != 1), 0)
        shape = self.source.shape[lead:]
        masks = {axis - lead: mask for axis, mask in self.masks.items()}
        row = math.prod(shape[1:])
        step = max(ELEMENTS // max(row, 1), 1)
        stays = masks.pop(0, None)
        if not self.count:
            return
        for start in range(0, shape[0] if shape else 1, step):
            stop = min(start + step, shape[0]) if shape else 1
            chosen = None if stays is None else stays[start:stop]
            if chosen is not None and not chosen.any():
                continue
            part = self.source.flat(start * row, stop * row).reshape(stop - start, *shape[1:])
            part = part if chosen is None or chosen.all() else part[chosen]
            for axis, mask in masks.items():
                part = np.compress(mask, part, axis) if axis >= 0 else part
            yield part.reshape(-1)


class Weights(Mapping[str, Tensor]):
    """The tensors of a model by name."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None):
        self._tensors = dict(tensors or {})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def sliced(self, masks: Mapping[str, Masks]) -> Weights:
        """Return the weights without the positions that go; ``masks``: name -> axis -> bool[size], for those that lose any."""
        return Weights({name: tensor.sliced(masks.get(name, {})) for name, tensor in self.items()})

    def replaced(self, arrays: Mapping[str, np.ndarray]) -> Weights:
        """Return the weights with other content, or further ones; the arrays are not to be changed after that."""
        return Weights({**self._tensors, **{name: _Array(array) for name, array in arrays.items()}})


# --- between messages and tensors -----------------------------------------------------------------------------------


def stored_tensor(tensor: TensorProto, region: tuple[Path, int, int] | None = None, own: Path | None = None) -> Tensor:
    """Return what a message holds, or what it refers to in a file: ``region``, file, offset and length; ``own``: the model's file."""
    if region is not None:
        return (_Inside if region[0] == own else _Region)(tensor, *region)
    if tensor.HasField("raw_data"):
        return _Bytes(tensor)
    return _Fields(tensor)


def decoded(dtype: int, content: bytes, count: int) -> np.ndarray:
    """Return elements from bytes as a file has them."""
    if dtype in BITS:
        return numpy_helper.to_array(TensorProto(data_type=dtype, dims=[count], raw_data=content))
    return np.frombuffer(content, helper.tensor_dtype_to_np_dtype(dtype), count)


def encoded(array: np.ndarray) -> bytes:
    """Return elements as bytes as a file has them."""
    return numpy_helper.from_array(array).raw_data


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what numpy, onnx and files raise into a ModelError that says of which tensor it is."""
    try:
        yield
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise ModelError(f"tensor {name!r} cannot be read: {short_reason(error)}") from error
