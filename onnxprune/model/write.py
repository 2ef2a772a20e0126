"""Writing of model files and documents: atomically, nothing half-written, nothing overwritten unasked."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

from onnx import ModelProto

from onnxprune.errors import UsageError
from onnxprune.model.datafiles import content_digest, data_name, former_data, remove_data
from onnxprune.model.early import NO_EARLY_DATA, EarlyData
from onnxprune.model.files import (
    Pending,
    atomic_file,
    cannot_write,
    clear_leftovers,
    is_stream,
    require_space,
    sync_folder,
)
from onnxprune.model.locks import held
from onnxprune.model.model import Model
from onnxprune.model.pipeline import made_ahead
from onnxprune.model.places import check_writable
from onnxprune.model.regions import end_of, externalised, fill_data, needs_external, point_to
from onnxprune.model.tensors import CHUNK
from onnxprune.model.wire import Wire


def save(
    source: ModelProto | Model,
    path: str | os.PathLike,
    *,
    force: bool = False,
    external: bool | None = None,
    early: EarlyData = NO_EARLY_DATA,
) -> str:
    """Write a model atomically, its weights block by block, and return its SHA-256, the one that ``load`` finds.

    Tensors go to ``<name>.<digest>.data`` when ``external``; by default where some are external already, or where the model is
    above 2 GB. The model file is renamed last: at any moment ``path`` is the old model or the new one, each with its data. Data
    that only the old one had goes then. ``early``: where its data may have been written already. Raises UsageError if ``path``
    exists without ``force``, OutputError on failure.
    """
    path = Path(path)
    check_writable(path, force)
    model = source if isinstance(source, Model) else Model.of(source)
    if external is None:
        external = needs_external(model)
    try:
        clear_leftovers(path)
        former = former_data(path)
        needed = {file for tensor in model.weights.values() for file in tensor.files}
        _refuse_source(path, needed)
        remove_data(path, needed=needed)  # what a killed process left, before room is needed
        try:
            return _write_external(model, path, early) if external else _write_single(model, path)
        finally:
            remove_data(path, former, needed)
    except OSError as error:
        raise cannot_write(path, error) from error


def _refuse_source(path: Path, sources: set[Path]) -> None:
    """Raise UsageError where the model's own data would be replaced."""
    if path.exists() and any(path.samefile(source) for source in sources):
        raise UsageError(f"output {path} holds weights of the model that is written; choose another name")


def _write_single(model: Model, path: Path) -> str:
    """Write a model of one file; returns its SHA-256."""
    wire, digest = Wire(model), hashlib.sha256()
    require_space(path, wire.size)
    with Pending(path) as pending:
        for block in wire.blocks():
            digest.update(block)
            pending.stream.write(block)
        pending.publish()
    sync_folder(path.parent)
    return digest.hexdigest()


def stored_bytes(model: Model, path: Path) -> int:
    """Return the size of the files that ``save`` would write."""
    if not needs_external(model):
        return Wire(model).size
    slim, regions = externalised(model)
    point_to(slim, regions, data_name(path, "0" * 64))
    return slim.ByteSize() + end_of(regions)


def _write_external(model: Model, path: Path, early: EarlyData) -> str:
    """Write the data, whose name its content decides, then the model that refers to it; returns the SHA-256 of both."""
    slim, regions = externalised(model)
    made = early.taken(regions)
    with made.data if made else Pending(path) as data, Pending(path) as head:
        require_space(path, slim.ByteSize() + (0 if made else end_of(regions)))
        found = made.digest if made else fill_data(data, regions)
        place = path.with_name(data_name(path, found))
        point_to(slim, regions, place.name)
        content = slim.SerializeToString(deterministic=True)
        head.stream.write(content)
        head.sync()
        digest = _digest_of_both(content, data)
        with held(place) as there:
            if same := there and _has_content(place, found):
                head.publish()
        if not same:
            _publish_both(data, place, head, path)
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
    for block in made_ahead(iter(partial(data.stream.read, CHUNK), b"")):
        digest.update(block)
    return digest.hexdigest()


def _has_content(place: Path, digest: str) -> bool:
    """Whether a file has the content of that SHA-256."""
    with place.open("rb") as stream:
        return content_digest(stream) == digest


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write a text file atomically, replacing what is there; raise OutputError where that fails."""
    write_bytes(text.encode(), path)


def write_bytes(content: bytes, path: str | os.PathLike) -> None:
    """Write a file atomically, replacing what is there; raise OutputError where that fails."""
    path = Path(path)
    if not is_stream(path):
        check_writable(path, force=True)
    with atomic_file(path) as stream:
        stream.write(content)
