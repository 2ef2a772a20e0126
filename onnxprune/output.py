"""Writing of model files and documents: atomically, nothing half-written, nothing overwritten unasked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxprune.errors import OutputError, UsageError
from onnxprune.io import (
    CHUNK,
    all_tensors,
    copy_tensor_header,
    external_region,
    skeleton_without_data,
    tensor_array,
)

PROTOBUF_LIMIT = 2**31 - 1


def output_path(model: Path, requested: str | os.PathLike | None, force: bool) -> Path:
    """Settle where the pruned model goes; raise UsageError or OutputError before any work is done."""
    path = Path(requested) if requested else model.with_name(f"{model.stem}.pruned.onnx")
    if path.resolve() == model.resolve():
        raise UsageError(f"output {path} is the input file; choose another name (the input is never modified)")
    check_writable(path, force)
    return path


def check_writable(path: Path, force: bool) -> None:
    """Raise UsageError if ``path`` exists without ``force``, OutputError if its folder is missing or read-only."""
    if path.is_dir():
        raise UsageError(f"output {path} is a folder; give a file name")
    if path.exists() and not force:
        raise UsageError(f"output {path} exists; add --force to replace it")
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"folder {folder} is read-only; choose another place with -o")


@contextmanager
def atomic_file(path: Path) -> Iterator:
    """Open a temporary file beside ``path`` for binary writing and rename it on success; on failure nothing is left."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; nothing was left behind") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save(
    proto: ModelProto,
    path: str | os.PathLike,
    *,
    force: bool = False,
    external: bool | None = None,
    folder: Path | None = None,
) -> str:
    """Write a model atomically and return its SHA-256, the one that ``load`` finds.

    Tensors go to ``<name>.data`` when ``external``; by default where some are external already, in files of ``folder``,
    or where the model is above 2 GB. Raises UsageError if ``path`` exists without ``force``, OutputError on failure.
    """
    path = Path(path)
    check_writable(path, force)
    if external is None:
        external = needs_external(proto)
    if external:
        return _save_external(proto, path, force, folder)
    data = proto.SerializeToString(deterministic=True)
    with atomic_file(path) as stream:
        stream.write(data)
    return hashlib.sha256(data).hexdigest()


def needs_external(proto: ModelProto) -> bool:
    """Whether a model has external tensors already, or is too large for one protobuf message."""
    tensors = list(all_tensors(proto.graph))
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
        return True
    return sum(len(tensor.raw_data) for tensor in tensors) > PROTOBUF_LIMIT or proto.ByteSize() > PROTOBUF_LIMIT


def stored_bytes(proto: ModelProto, path: Path, folder: Path | None = None) -> int:
    """Return the size of the files that ``save`` would write."""
    if not needs_external(proto):
        return proto.ByteSize()
    slim, regions = _externalised(proto, folder, _data_name(path))
    return slim.ByteSize() + (regions[-1].start + regions[-1].length if regions else 0)


def _data_name(path: Path) -> str:
    return f"{path.name}.data"


class _Region(NamedTuple):
    """Where a tensor's bytes go in the external file."""

    tensor: TensorProto
    start: int
    length: int


def _externalised(proto: ModelProto, folder: Path | None, data_name: str) -> tuple[ModelProto, list[_Region]]:
    """Return the model with large initializers as references, and where their bytes go: aligned to 4 KiB, in order."""
    slim = skeleton_without_data(proto)
    for tensor in all_tensors(slim.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(np.array(tensor_array(tensor, folder)), tensor.name))
    regions: list[_Region] = []
    end = 0
    for source in proto.graph.initializer:
        target = slim.graph.initializer.add()
        is_external = source.data_location == TensorProto.EXTERNAL
        if not is_external and len(source.raw_data) < 1024:
            target.CopyFrom(source)
            continue
        length = external_region(source, folder)[2] if is_external else len(source.raw_data)
        regions.append(_Region(source, end + -end % 4096, length))
        end = regions[-1].start + length
        copy_tensor_header(source, target)
        target.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data_name), ("offset", regions[-1].start), ("length", length)):
            target.external_data.add(key=key, value=str(value))
    return slim, regions


def _save_external(proto: ModelProto, path: Path, force: bool, folder: Path | None) -> str:
    """Write the model file and, one tensor after another, ``<name>.data``; neither is there unless both are."""
    data_path = path.with_name(_data_name(path))
    check_writable(data_path, force)
    slim, regions = _externalised(proto, folder, data_path.name)
    data = slim.SerializeToString(deterministic=True)
    digest = hashlib.sha256(data)
    with atomic_file(path) as model_stream:
        model_stream.write(data)
        with atomic_file(data_path) as stream:
            for block in _blocks(regions, folder):
                stream.write(block)
                digest.update(block)
    return digest.hexdigest()


def _blocks(regions: list[_Region], folder: Path | None) -> Iterator[bytes]:
    end = 0
    for tensor, start, length in regions:
        yield b"\0" * (start - end)
        end = start + length
        if tensor.data_location != TensorProto.EXTERNAL:
            yield tensor.raw_data
            continue
        file, offset, _ = external_region(tensor, folder)
        with open(file, "rb") as stream:
            stream.seek(offset)
            for place in range(0, length, CHUNK):
                yield stream.read(min(CHUNK, length - place))


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write a text file atomically, replacing what is there; raise OutputError where that fails."""
    path = Path(path)
    check_writable(path, force=True)
    with atomic_file(path) as stream:
        stream.write(text.encode())
