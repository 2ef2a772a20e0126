"""Writing of model files and documents: atomically, nothing half-written, nothing overwritten unasked."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from onnx import ModelProto, TensorProto

from onnxprune.errors import OutputError, UsageError
from onnxprune.model.datafiles import content_digest, copy_checked, data_name, former_data, remove_data
from onnxprune.model.files import (
    Pending,
    atomic_file,
    cannot_write,
    clear_leftovers,
    is_stream,
    kind_of,
    of_devices,
    require_space,
    shown,
    status,
    sync_folder,
)
from onnxprune.model.locks import held
from onnxprune.model.read import PROTOBUF_LIMIT
from onnxprune.model.tensors import (
    CHUNK,
    Folder,
    copy_tensor_header,
    external_region,
    model_tensors,
    skeleton_without_data,
)


def output_path(model: Path, requested: str | os.PathLike | None, force: bool) -> Path:
    """Settle where the pruned model goes; raise UsageError or OutputError before any work is done."""
    path = Path(requested) if requested else model.with_name(f"{model.stem}.pruned.onnx")
    if path.resolve() == model.resolve():
        raise UsageError(f"output {path} is the input file; choose another name (the input is never modified)")
    check_writable(path, force)
    return path


def check_writable(path: Path, force: bool) -> None:
    """Raise UsageError unless ``path`` is free, or a regular file and ``force``; OutputError if its folder takes no file."""
    found = status(path, UsageError)
    kind = kind_of(found) if found else ""
    if kind == "a folder":
        raise UsageError(f"output {path} is a folder; give a file name")
    if kind or is_stream(path):
        what = kind or "an open file of a process"
        raise UsageError(f"output {path} is {what}; a model is written to a regular file (--dry-run writes none)")
    if found and not force:
        raise UsageError(f"output {path} exists; add --force to replace it")
    check_folder(path, "choose another place with -o")


def check_folder(path: Path, remedy: str = "choose another place") -> None:
    """Raise OutputError unless files can be made in the folder of ``path``."""
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"folder {shown(folder)} does not exist; create it first")
    if of_devices(folder):
        raise OutputError(f"folder {folder} is the system's, for devices and processes; {remedy}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"folder {folder} is read-only; {remedy}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"no file can be written in folder {folder}: {error.strerror or error}; {remedy}") from error


def save(
    proto: ModelProto,
    path: str | os.PathLike,
    *,
    force: bool = False,
    external: bool | None = None,
    folder: Folder | None = None,
) -> str:
    """Write a model atomically and return its SHA-256, the one that ``load`` finds.

    Tensors go to ``<name>.<digest>.data`` when ``external``; by default where some are external already, in files of
    ``folder``, or where the model is above 2 GB. The model file is renamed last: at any moment ``path`` is the old model or the
    new one, each with its data. Data that only the old one had goes then. Raises UsageError if ``path`` exists without
    ``force``, OutputError on failure.
    """
    path = Path(path)
    check_writable(path, force)
    if external is None:
        external = needs_external(proto)
    write = _write_external if external else _write_single
    try:
        clear_leftovers(path)
        former = former_data(path)
        needed = _sources(proto, folder)
        _refuse_source(path, needed)
        remove_data(path, needed=needed)  # what a killed process left, before room is needed
        try:
            return write(proto, path, folder)
        finally:
            remove_data(path, former, needed)
    except OSError as error:
        raise cannot_write(path, error) from error


def _sources(proto: ModelProto, folder: Folder | None) -> set[Path]:
    """Return the files that a model's tensors lie in."""
    external = (tensor for tensor in model_tensors(proto) if tensor.data_location == TensorProto.EXTERNAL)
    return {external_region(tensor, folder)[0] for tensor in external}


def _refuse_source(path: Path, sources: set[Path]) -> None:
    """Raise UsageError where the model's own data would be replaced."""
    if path.exists() and any(path.samefile(source) for source in sources):
        raise UsageError(f"output {path} holds weights of the model that is written; choose another name")


def _write_single(proto: ModelProto, path: Path, _: Folder | None) -> str:
    """Write a model of one file; returns its SHA-256."""
    data = proto.SerializeToString(deterministic=True)
    require_space(path, len(data))
    with Pending(path) as model:
        model.stream.write(data)
        model.publish()
    sync_folder(path.parent)
    return hashlib.sha256(data).hexdigest()


def needs_external(proto: ModelProto) -> bool:
    """Whether a model has external tensors already, or is too large for one protobuf message."""
    tensors = list(model_tensors(proto))
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
        return True
    return sum(len(tensor.raw_data) for tensor in tensors) > PROTOBUF_LIMIT or proto.ByteSize() > PROTOBUF_LIMIT


def stored_bytes(proto: ModelProto, path: Path, folder: Folder | None = None) -> int:
    """Return the size of the files that ``save`` would write."""
    if not needs_external(proto):
        return proto.ByteSize()
    slim, regions = _externalised(proto, folder)
    _point(slim, regions, data_name(path, "0" * 64))
    return slim.ByteSize() + _end(regions)


def _end(regions: list[_Region]) -> int:
    return regions[-1].start + regions[-1].length if regions else 0


class _Region(NamedTuple):
    """Where a tensor's bytes go in the external file; ``target``: what refers to them in the model that is written."""

    tensor: TensorProto
    target: TensorProto
    start: int
    length: int


def _externalised(proto: ModelProto, folder: Folder | None) -> tuple[ModelProto, list[_Region]]:
    """Return the model without large initializers' data, and where the bytes go: aligned to 4 KiB, in order."""
    slim = skeleton_without_data(proto)
    regions: list[_Region] = []
    end = 0
    for source in proto.graph.initializer:
        target = slim.graph.initializer.add()
        is_external = source.data_location == TensorProto.EXTERNAL
        if not is_external and len(source.raw_data) < 1024:
            target.CopyFrom(source)
            continue
        length = external_region(source, folder)[2] if is_external else len(source.raw_data)
        regions.append(_Region(source, target, end + -end % 4096, length))
        end = regions[-1].start + length
        copy_tensor_header(source, target)
    return slim, regions


def _point(slim: ModelProto, regions: list[_Region], name: str) -> None:
    """Let the tensors of a model refer to the data file ``name``."""
    for region in regions:
        region.target.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", region.start), ("length", region.length)):
            region.target.external_data.add(key=key, value=str(value))


def _write_external(proto: ModelProto, path: Path, folder: Folder | None) -> str:
    """Write the data, whose name its content decides, then the model that refers to it; returns the SHA-256 of both."""
    slim, regions = _externalised(proto, folder)
    require_space(path, slim.ByteSize() + _end(regions))
    with Pending(path) as data, Pending(path) as model:
        for block in _blocks(regions, folder):
            data.stream.write(block)
        found = content_digest(data.stream)
        place = path.with_name(data_name(path, found))
        _point(slim, regions, place.name)
        content = slim.SerializeToString(deterministic=True)
        model.stream.write(content)
        model.sync()
        digest = _digest_of_both(content, data)
        with held(place) as there:
            if same := there and _has_content(place, found):
                model.publish()
        if not same:
            _publish_both(data, place, model, path)
    sync_folder(path.parent)
    return digest


def _publish_both(data: Pending, place: Path, model: Pending, path: Path) -> None:
    """Name the data, then the model; where that ends in between, the data goes again."""
    new = not place.exists()
    try:
        data.publish(place)
        sync_folder(path.parent)
        model.publish()
    except BaseException:
        if new and data.stands_at(place) and not model.stands_at(path):
            place.unlink(missing_ok=True)
        raise


def _digest_of_both(content: bytes, data: Pending) -> str:
    digest = hashlib.sha256(content)
    data.stream.seek(0)
    while block := data.stream.read(CHUNK):
        digest.update(block)
    return digest.hexdigest()


def _has_content(place: Path, digest: str) -> bool:
    """Whether a file has the content of that SHA-256."""
    with place.open("rb") as stream:
        return content_digest(stream) == digest


def _blocks(regions: list[_Region], folder: Folder | None) -> Iterator[bytes]:
    end = 0
    for tensor, _, start, length in regions:
        yield b"\0" * (start - end)
        end = start + length
        if tensor.data_location != TensorProto.EXTERNAL:
            yield tensor.raw_data
            continue
        file, offset, _ = external_region(tensor, folder)
        yield from copy_checked(file, offset, length)


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write a text file atomically, replacing what is there; raise OutputError where that fails."""
    path = Path(path)
    if not is_stream(path):
        check_writable(path, force=True)
    with atomic_file(path) as stream:
        stream.write(text.encode())
